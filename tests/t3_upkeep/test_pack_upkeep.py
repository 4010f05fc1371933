"""Published packs in the care of upkeep; test_list_note_upkeep.py asks the rest of every kind."""

import struct
from collections.abc import Callable

import pytest

from aysfs import digest as digests
from aysfs.digest import Digest
from aysfs.names import parse_name
from aysfs.pack import Columns, PackIndex, compress, head_size
from aysfs.store.memory import MemoryStore
from aysfs.store.packs import published
from aysfs.upkeep.check import Hurt, Wrong
from aysfs.upkeep.copy import copy
from aysfs.upkeep.lists import remove_list
from tests.list_notes import NAME, PACKS
from tests.packs import described, indexed, packed, publish_packs
from tests.t3_upkeep.listed import listed
from tests.t3_upkeep.noted import FILES, PROFILE, a_store, damage_of, swept

OTHER = parse_name("c__d")
START, TAIL = packed(FILES[:2]), packed(FILES[2:])


async def test_packs_that_no_index_names_are_nobody_s() -> None:
    store, packs = await a_store(PACKS)
    del store.blobs[packs.index.digest]
    assert await swept(store) == 1  # the note names the start pack
    assert digests.of(TAIL) not in store.blobs


async def test_packs_that_several_lists_have_stay_until_the_last() -> None:
    store, _ = await a_store(PACKS)
    await store.put_list(OTHER, [listed(*FILES[2:])])
    await publish_packs(store, OTHER, FILES[2:], has_start=False)
    await remove_list(store, NAME)
    assert await swept(store) == 2 + 2  # index and start pack, and what only they had
    assert digests.of(TAIL) in store.blobs


# --- check -------------------------------------------------------------------------------


def hurt(digest: Digest, wrong: Wrong) -> set[Hurt]:
    return {Hurt(b"a__b.packs", digest, wrong)}


async def test_a_truncated_pack_is_named() -> None:
    store, _ = await a_store(PACKS)
    store.blobs[digests.of(TAIL)] = TAIL[:-1]
    for deep in (False, True):
        assert await damage_of(store, deep=deep) == hurt(digests.of(TAIL), Wrong.SIZE)


async def test_an_altered_pack_is_named_when_it_is_read() -> None:
    store, _ = await a_store(PACKS)
    store.blobs[digests.of(TAIL)] = TAIL[:-1] + bytes([TAIL[-1] ^ 1])
    assert await damage_of(store, deep=False) == set()
    assert await damage_of(store, deep=True) == hurt(digests.of(TAIL), Wrong.BYTES)


async def test_an_altered_index_is_named() -> None:
    store, packs = await a_store(PACKS)
    digest = packs.index.digest
    data = bytearray(store.blobs[digest])
    data[-1] ^= 1
    store.blobs[digest] = bytes(data)
    assert await damage_of(store, deep=False) == hurt(digest, Wrong.PACK)
    assert await damage_of(store, deep=True) == hurt(digest, Wrong.BYTES)


def bomb() -> bytes:
    """A pack of one blob of 3 bytes, whose frame says so and holds 2 GiB."""
    block = ((128 << 10) << 3 | 1 << 1).to_bytes(3, "little") + b"\0"
    frame = b"\x28\xb5\x2f\xfd\x80\x50" + struct.pack("<I", 3) + block * 10
    head = b"aysfspk1" + struct.pack("<II", 1, 1) + digests.of(b"one")
    return head + struct.pack("<QQ", 3, len(frame)) + frame


def other_frames() -> bytes:
    """A pack whose frames are good, and not those of the blobs in its head."""
    return START[: head_size(2)] + compress(b"two") + compress(b"one")


def no_frames() -> bytes:
    return START[: head_size(2)] + bytes(len(START) - head_size(2))


@pytest.mark.parametrize("made", [bomb, other_frames, no_frames])
async def test_a_pack_that_does_not_give_its_blobs_is_named(made: Callable[[], bytes]) -> None:
    """As somebody who lies would publish it: its digest is right, and so is its index."""
    store, packs = await a_store(PACKS)
    lie = made()
    found, data = published(packs.list_sha256, indexed([lie, TAIL]))
    store.add(lie), store.add(data)
    await store.write_note("a__b.packs", found.to_json())
    assert await damage_of(store, deep=False) == set()
    assert await damage_of(store, deep=True) == hurt(digests.of(lie), Wrong.PACK)


async def test_an_index_that_lies_of_its_packs_is_named() -> None:
    """It says of a pack that blobs are in it which are not."""
    store, packs = await a_store(PACKS)
    for at in range(2):
        heads = [described(START), described(TAIL)]
        blobs = Columns(
            one._replace(digest=digests.of(b"other")) if number == 0 else one
            for number, one in enumerate(heads[at].blobs)
        )
        heads[at] = heads[at]._replace(blobs=blobs)
        lie, data = published(packs.list_sha256, PackIndex.join(heads, has_start=True))
        store.add(data)
        await store.write_note("a__b.packs", lie.to_json())
        assert await damage_of(store, deep=False) == set()
        assert await damage_of(store, deep=True) == hurt(lie.index.digest, Wrong.PACK)


async def test_an_index_that_its_note_does_not_speak_of_is_named() -> None:
    store, packs = await a_store(PACKS)
    await store.write_note("a__b.packs", packs.to_json().replace(b'"packs": 2', b'"packs": 3'))
    for deep in (False, True):
        assert await damage_of(store, deep=deep) == hurt(packs.index.digest, Wrong.PACK)


# --- copy ------------------------------------------------------------------------------------


async def test_a_copy_without_a_profile_leaves_the_one_that_is_there() -> None:
    store, _ = await a_store(PACKS)
    target = MemoryStore("target")
    await target.write_note("a__b.profile", PROFILE)
    await copy(store, target, [NAME])
    assert target.noted["a__b.profile"] == PROFILE
