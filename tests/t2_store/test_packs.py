"""What the note of published packs says, and how the index is read that it names.

The rest test_list_notes.py asks of every kind.
"""

from dataclasses import replace

import pytest

from aysfs import digest as digests
from aysfs.errors import BlobMissing, Corrupt, PackDamaged, StoreTrouble
from aysfs.pack import PackIndex, head_size, read_head
from aysfs.store.claims import Claim
from aysfs.store.faults import Passes
from aysfs.store.memory import MemoryStore
from aysfs.store.packs import (
    Part,
    PublishedPacks,
    Start,
    are_there,
    blobs_of,
    from_json,
    keep_packs,
    read_index,
    read_packs,
)
from aysfs.store.protocol import Sink
from tests.list_notes import LIST, NAME, PACKS, START, TAIL
from tests.packs import indexed, packed, publish_packs

NOTE = PublishedPacks(
    LIST, Part(digests.of(b"x"), 99), Start(digests.of(b"y"), 1000, head_size(3)), 5, 60, 7000
)


def test_the_bytes_of_a_note() -> None:
    """Those of docs/format.md: other versions of this program read them."""
    assert (
        NOTE.to_json().decode()
        == f"""{{
 "blobs": 60,
 "bytes": 7000,
 "index": {{
  "md5": "9dd4e461268c8034f5c8564e155c67a6",
  "size": 99
 }},
 "list_sha256": "{LIST}",
 "packs": 5,
 "start": {{
  "head": 112,
  "md5": "415290769594460e2e485922904f345d",
  "size": 1000
 }},
 "version": 1
}}
"""
    )
    assert from_json(NOTE.to_json()) == NOTE
    assert from_json(PACKS.altered(start=None)) == replace(PACKS.example, start=None)


PART = {"md5": "00" * 16, "size": 1}


@pytest.mark.parametrize(
    "changes",
    [
        {"index": None},
        {"index": PART | {"size": 0}},
        {"index": PART | {"size": 1 << 40}},
        {"index": PART | {"size": True}},
        {"index": PART | {"md5": "../../../../../../etc/passwd...."}},
        {"start": {}},
        {"start": PART | {"head": 48}},
        {"start": PART | {"size": 100, "head": 47}},
        {"start": PART | {"size": 100, "head": 49}},
        {"start": PART | {"size": 1 << 40, "head": 1 << 39}},
        {"packs": -1},
        {"packs": 1 << 20},
        {"blobs": 1 << 30},
        {"bytes": float("inf")},
    ],
)
def test_a_note_of_no_packs_says_nothing(changes: dict[str, object]) -> None:
    assert from_json(PACKS.altered(**changes)) is None


async def test_what_is_published_is_read_again() -> None:
    store = await PACKS.store()
    found = await PACKS.found(store)
    index = await read_index(store, found)
    assert [one.digest for one in index.packs] == [digests.of(START), digests.of(TAIL)]
    assert (found.packs, found.blobs, found.size) == (2, 3, len(START) + len(TAIL))
    assert blobs_of(found, index) == {
        found.index.digest: found.index.size,
        digests.of(START): len(START),
        digests.of(TAIL): len(TAIL),
    }
    assert set(blobs_of(found, None)) == {found.index.digest, digests.of(START)}


async def test_the_start_pack_can_be_read_without_the_index() -> None:
    found = await PACKS.found(await PACKS.store())
    assert found.start is not None
    assert found.start.info.count == 2
    index = PackIndex.of_pack(found.start.info, START[: found.start.head])
    assert index.find(digests.of(b"second")) == 1
    assert list(index.blobs_of(index.packs[0])) == list(read_head(START))


async def test_packs_without_a_start_pack_are_told_as_such() -> None:
    store = MemoryStore()
    await store.put_list(NAME, [b"a list, as far as a store can see"])
    found = await publish_packs(store, NAME, [b"third"], has_start=False)
    assert found.start is None
    assert not (await read_index(store, found)).has_start
    none = await publish_packs(store, NAME, has_start=False)
    assert len(await read_index(store, none)) == 0


class Overflows(Passes):
    """Gives more bytes than were asked for."""

    async def get(self, digest: digests.Digest, size: int, sink: Sink) -> None:
        await super().get(digest, size, sink)
        sink.write(b"more")


async def test_an_index_that_is_not_what_it_should_be_is_refused() -> None:
    store = await PACKS.store()
    found = await PACKS.found(store)
    digest = found.index.digest
    with pytest.raises(Corrupt, match="more than its"):
        await read_index(Overflows(store), found)
    good = store.blobs[digest]
    store.blobs[digest] = good[:-1] + bytes([good[-1] ^ 1])
    with pytest.raises(Corrupt, match="other bytes"):
        await read_index(store, found)
    del store.blobs[digest]
    with pytest.raises(BlobMissing):
        await read_index(store, found)
    noise = store.add(b"noise")
    with pytest.raises(PackDamaged):
        await read_index(store, replace(found, index=Part(noise, 5)))


async def test_an_index_that_its_note_does_not_speak_of_is_refused() -> None:
    store = await PACKS.store()
    found = await PACKS.found(store)
    assert found.start is not None
    for lie in (
        replace(found, packs=3),
        replace(found, blobs=4),
        replace(found, size=found.size + 1),
        replace(found, start=None),
        replace(found, start=found.start._replace(size=found.start.size + 1)),
        replace(found, start=found.start._replace(digest=digests.of(TAIL))),
    ):
        with pytest.raises(PackDamaged, match="not what its note says"):
            await read_index(store, lie)


@pytest.mark.parametrize("part", PACKS.parts)
async def test_packs_of_which_a_part_is_lost_are_not_there(part: str) -> None:
    store = await PACKS.store()
    assert await are_there(store, PACKS.example)
    del store.blobs[digests.of(PACKS.parts[part])]
    assert not await are_there(store, PACKS.example)


async def test_packs_whose_index_lies_are_withdrawn() -> None:
    store = await PACKS.store()
    other = indexed([START, TAIL, packed([b"more"])]).encode()
    store.add(other)
    lie = replace(PACKS.example, index=Part(digests.of(other), len(other)))
    await store.write_note("a__b.packs", lie.to_json())
    assert not await PACKS.kept(store, LIST)


class ForWriters(Passes):
    """Gives no blob to whoever may only write."""

    async def get(self, digest: digests.Digest, size: int, sink: Sink) -> None:
        raise StoreTrouble("the server forbids it")


async def test_packs_that_cannot_be_read_are_withdrawn_and_stop_no_push() -> None:
    store = await PACKS.store()
    async with Claim(ForWriters(store)) as claim:
        await keep_packs(claim, NAME, LIST, None)
    assert await read_packs(store, NAME) is None
