"""Published packs in the care of upkeep: kept, checked, copied, tagged, removed, counted."""

import struct
from collections.abc import Callable

import pytest

from aysfs import digest as digests
from aysfs.digest import Digest
from aysfs.names import ServiceName, parse_name
from aysfs.pack import Columns, PackIndex, compress, head_size
from aysfs.store.memory import MemoryStore
from aysfs.store.packs import PublishedPacks, published, read_index, read_packs
from aysfs.upkeep.check import Hurt, Wrong, check
from aysfs.upkeep.copy import copy, retag
from aysfs.upkeep.gc import gc
from aysfs.upkeep.info import info
from aysfs.upkeep.lists import remove_list
from tests.conftest import ExpectOutput
from tests.packs import described, indexed, packed, publish_packs
from tests.t3_upkeep.test_gc import listed

NAME, OTHER = parse_name("a__b"), parse_name("c__d")
TAGGED = NAME._replace(tag="1")
FILES = [b"one", b"two", b"three", b"four" * 100]
START, TAIL = packed(FILES[:2]), packed(FILES[2:])
PROFILE = b"#profile 1\n#runs 1\n"


async def a_store() -> tuple[MemoryStore, PublishedPacks]:
    store = MemoryStore()
    for data in FILES:
        store.add(data)
    await store.put_list(NAME, [listed(*FILES)])
    return store, await publish_packs(store, NAME, FILES[:2], FILES[2:])


async def packs_in(store: MemoryStore, name: ServiceName) -> PublishedPacks:
    found = await read_packs(store, name)
    assert found is not None
    await read_index(store, found)
    return found


async def sweep(store: MemoryStore) -> int:
    report = await gc(store, grace=-1, delete=True, settle=0)
    return report.blobs.files


async def new_list(store: MemoryStore) -> None:
    """Another list under the same name, published by somebody who knows nothing of packs."""
    await store.put_list(NAME, [listed(*FILES, FILES[0])])


async def test_a_gc_keeps_packs_as_long_as_their_list() -> None:
    store, packs = await a_store()
    assert await sweep(store) == 0
    await new_list(store)
    assert await sweep(store) == 3
    assert set(store.blobs) == set(map(digests.of, FILES))
    assert packs.list_sha256


async def test_a_gc_deletes_the_packs_of_a_list_that_is_gone() -> None:
    store, _ = await a_store()
    await store.write_note("a__b.profile", PROFILE)
    await remove_list(store, NAME)
    assert store.noted == {}
    assert await sweep(store) == 3 + len(FILES)


async def test_a_note_that_says_nothing_stops_no_gc() -> None:
    store, _ = await a_store()
    store.noted["a__b.packs"] = b"nonsense"
    assert await sweep(store) == 3
    assert set(store.blobs) == set(map(digests.of, FILES))


async def test_packs_that_no_index_names_are_nobody_s() -> None:
    store, packs = await a_store()
    del store.blobs[packs.index.digest]
    assert await sweep(store) == 1  # the note names the start pack
    assert digests.of(TAIL) not in store.blobs


async def test_packs_that_several_lists_have_stay_until_the_last() -> None:
    store, _ = await a_store()
    await store.put_list(OTHER, [listed(*FILES[2:])])
    await publish_packs(store, OTHER, FILES[2:], has_start=False)
    await remove_list(store, NAME)
    assert await sweep(store) == 2 + 2  # index and start pack, and what only they had
    assert digests.of(TAIL) in store.blobs


# --- check -------------------------------------------------------------------------------


async def test_whole_packs_are_whole() -> None:
    store, _ = await a_store()
    for deep in (False, True):
        report = await check(store, deep=deep)
        assert (report.damage, report.blobs) == ([], len(FILES) + 3)


async def damage_of(store: MemoryStore, *, deep: bool) -> set[Hurt]:
    report = await check(store, deep=deep)
    return {hurt for damage in report.damage for hurt in damage.hurt}


def hurt(digest: Digest, wrong: Wrong) -> set[Hurt]:
    return {Hurt(b"a__b.packs", digest, wrong)}


@pytest.mark.parametrize("what", ["index", "start", "tail"])
async def test_a_missing_pack_is_named(what: str) -> None:
    store, packs = await a_store()
    digest = {"index": packs.index.digest, "start": digests.of(START), "tail": digests.of(TAIL)}
    del store.blobs[digest[what]]
    for deep in (False, True):
        assert await damage_of(store, deep=deep) == hurt(digest[what], Wrong.MISSING)
    [damage] = (await check(store)).damage
    known = 2 if what == "index" else 3
    assert (damage.files, damage.missing, damage.corrupt) == (len(FILES) + known, 1, 0)


async def test_a_truncated_pack_is_named() -> None:
    store, _ = await a_store()
    store.blobs[digests.of(TAIL)] = TAIL[:-1]
    for deep in (False, True):
        assert await damage_of(store, deep=deep) == hurt(digests.of(TAIL), Wrong.SIZE)


async def test_an_altered_pack_is_named_when_it_is_read() -> None:
    store, _ = await a_store()
    store.blobs[digests.of(TAIL)] = TAIL[:-1] + bytes([TAIL[-1] ^ 1])
    assert await damage_of(store, deep=False) == set()
    assert await damage_of(store, deep=True) == hurt(digests.of(TAIL), Wrong.BYTES)


async def test_an_altered_index_is_named() -> None:
    store, packs = await a_store()
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
    store, packs = await a_store()
    lie = made()
    found, data = published(packs.list_sha256, indexed([lie, TAIL]))
    store.add(lie), store.add(data)
    await store.write_note("a__b.packs", found.to_json())
    assert await damage_of(store, deep=False) == set()
    assert await damage_of(store, deep=True) == hurt(digests.of(lie), Wrong.PACK)


async def test_an_index_that_lies_of_its_packs_is_named() -> None:
    """It says of a pack that blobs are in it which are not."""
    store, packs = await a_store()
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
    store, packs = await a_store()
    await store.write_note("a__b.packs", packs.to_json().replace(b'"packs": 2', b'"packs": 3'))
    for deep in (False, True):
        assert await damage_of(store, deep=deep) == hurt(packs.index.digest, Wrong.PACK)


async def test_packs_of_another_list_are_no_damage() -> None:
    store, _ = await a_store()
    await new_list(store)
    store.blobs = {digests.of(data): data for data in FILES}
    report = await check(store, deep=True)
    assert (report.damage, report.blobs) == ([], len(FILES))


# --- copy, tag, remove -------------------------------------------------------------------


async def test_a_copy_takes_packs_and_profile_along() -> None:
    store, packs = await a_store()
    await store.write_note("a__b.profile", PROFILE)
    target = MemoryStore("target")
    report = await copy(store, target, [NAME])
    assert (report.copied, report.blobs) == ([NAME], len(FILES) + 3)
    assert await packs_in(target, NAME) == packs
    assert target.noted["a__b.profile"] == PROFILE
    assert (await check(target, deep=True)).damage == []
    assert (await copy(store, target, [NAME])).blobs == 0


async def test_a_copy_without_a_profile_leaves_the_one_that_is_there() -> None:
    store, _ = await a_store()
    target = MemoryStore("target")
    await target.write_note("a__b.profile", PROFILE)
    await copy(store, target, [NAME])
    assert target.noted["a__b.profile"] == PROFILE


@pytest.mark.parametrize("lost", ["index", "tail"])
async def test_a_copy_leaves_damaged_packs_behind(lost: str, expected_output: ExpectOutput) -> None:
    expected_output(r"^WARNING +aysfs\.upkeep\.copy:.*its packs are not copied.*$")
    store, packs = await a_store()
    del store.blobs[packs.index.digest if lost == "index" else digests.of(TAIL)]
    target = MemoryStore("target")
    report = await copy(store, target, [NAME])
    assert (report.copied, report.failed) == ([NAME], {})
    assert await read_packs(target, NAME) is None


async def test_a_copy_of_a_list_without_packs_withdraws_those_of_the_list_before() -> None:
    store, _ = await a_store()
    target = MemoryStore("target")
    await copy(store, target, [NAME])
    store.noted.clear()
    await new_list(store)
    await copy(store, target, [NAME])
    assert await read_packs(target, NAME) is None


async def test_a_tag_has_its_list_s_packs_and_keeps_them() -> None:
    store, packs = await a_store()
    await store.write_note("a__b.profile", PROFILE)
    await retag(store, NAME, TAGGED)
    assert await packs_in(store, TAGGED) == packs
    assert store.noted["a__b@1.profile"] == PROFILE
    await new_list(store)
    assert await sweep(store) == 0
    await retag(store, TAGGED, NAME)
    assert await packs_in(store, NAME) == packs
    await remove_list(store, TAGGED)
    assert set(store.noted) == {"a__b.packs", "a__b.profile"}


async def test_info_counts_packs() -> None:
    store, packs = await a_store()
    await retag(store, NAME, TAGGED)
    found = await info(store)
    whole = packs.size + packs.index.size
    assert (found.packed, found.packed_size) == (2, 2 * whole)
    assert (found.named, found.unnamed) == (len(FILES) + 3, 0)
    assert found.saved == whole + sum(map(len, FILES))
