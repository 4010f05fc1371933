"""The note of published packs: its bytes, what is read from it, and when it is withdrawn."""

import hashlib
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aysfs import digest as digests
from aysfs.errors import BadName, BlobMissing, Corrupt, PackDamaged, StoreTrouble
from aysfs.names import parse_name
from aysfs.pack import PackIndex, head_size, read_head
from aysfs.store.chain import Chain
from aysfs.store.claims import Claim
from aysfs.store.faults import Passes
from aysfs.store.memory import MemoryStore
from aysfs.store.packs import (
    Part,
    PublishedPacks,
    Start,
    are_there,
    blobs_of,
    delete_packs,
    from_json,
    is_usable,
    keep_packs,
    packs_note,
    published,
    read_index,
    read_packs,
)
from aysfs.store.protocol import Sink
from tests.packs import indexed, packed, publish_packs

NAME = parse_name("a__b")
LISTED = b"a list, as far as a store can see"
LIST, OTHER_LIST = hashlib.sha256(LISTED).hexdigest(), "cd" * 32
START, TAIL = packed([b"first", b"second"]), packed([b"third"])
NOTE = PublishedPacks(
    LIST, Part(digests.of(b"x"), 99), Start(digests.of(b"y"), 1000, head_size(3)), 5, 60, 7000
)


def altered(**changes: object) -> bytes:
    return json.dumps(json.loads(NOTE.to_json()) | changes).encode()


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
    assert from_json(altered(start=None)) == replace(NOTE, start=None)
    assert (packs_note(NAME), packs_note(NAME._replace(tag="1"))) == ("a__b.packs", "a__b@1.packs")


PART = {"md5": "00" * 16, "size": 1}


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"[]", b"7", b"null", b'"text"', b"\xff", b"[" * 100_000, b'{"version": 1}'),
        altered(version=2),
        altered(list_sha256=LIST[:-1]),
        altered(list_sha256=LIST.upper()),
        altered(list_sha256=None),
        altered(index=None),
        altered(index=PART | {"size": 0}),
        altered(index=PART | {"size": 1 << 40}),
        altered(index=PART | {"size": True}),
        altered(index=PART | {"md5": "../../../../../../etc/passwd...."}),
        altered(start={}),
        altered(start=PART | {"head": 48}),
        altered(start=PART | {"size": 100, "head": 47}),
        altered(start=PART | {"size": 100, "head": 49}),
        altered(start=PART | {"size": 1 << 40, "head": 1 << 39}),
        altered(packs=-1),
        altered(packs=1 << 20),
        altered(blobs=1 << 30),
        altered(bytes=float("inf")),
    ],
)
def test_what_is_no_note_says_nothing(data: bytes) -> None:
    assert from_json(data) is None


@given(st.binary(max_size=40), st.integers(0, 400), st.integers(0, 20))
def test_no_bytes_are_too_strange(noise: bytes, at: int, less: int) -> None:
    good = NOTE.to_json()
    found = from_json(good[:at] + noise + good[at + less :])
    assert found is None or isinstance(found, PublishedPacks)


async def store_with_packs() -> MemoryStore:
    store = MemoryStore()
    await store.put_list(NAME, [LISTED])
    await publish_packs(store, NAME, [b"first", b"second"], [b"third"])
    assert {digests.of(START), digests.of(TAIL)} < set(store.blobs)
    return store


async def packs_in(store: MemoryStore | Chain) -> PublishedPacks:
    found = await read_packs(store, NAME)
    assert found is not None
    return found


async def test_what_is_published_is_read_again() -> None:
    store = await store_with_packs()
    found = await packs_in(store)
    assert is_usable(found, LIST)
    assert not is_usable(found, OTHER_LIST)
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
    found = await packs_in(await store_with_packs())
    assert found.start is not None
    assert found.start.info.count == 2
    index = PackIndex.of_pack(found.start.info, START[: found.start.head])
    assert index.find(digests.of(b"second")) == 1
    assert list(index.blobs_of(index.packs[0])) == list(read_head(START))


async def test_packs_without_a_start_pack_are_told_as_such() -> None:
    store = MemoryStore()
    await store.put_list(NAME, [LISTED])
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
    store = await store_with_packs()
    found = await packs_in(store)
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
    store = await store_with_packs()
    found = await packs_in(store)
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


async def kept(store: MemoryStore | Chain, sha256: str) -> bool:
    async with Claim(store) as claim:
        await keep_packs(claim, NAME, sha256, None)
    return await read_packs(store, NAME) is not None


async def test_packs_of_the_same_list_stay() -> None:
    store = await store_with_packs()
    assert await kept(store, LIST)
    assert list(store.noted) == ["a__b.packs"]


async def test_packs_of_another_list_are_withdrawn_by_whoever_may_only_write() -> None:
    store = await store_with_packs()
    assert not await kept(store, OTHER_LIST)
    assert not await kept(store, LIST)  # for good
    await delete_packs(store, NAME)
    assert list(store.noted) == []


@pytest.mark.parametrize("lost", ["index", "start", "tail"])
async def test_packs_that_are_not_whole_are_withdrawn(lost: str) -> None:
    store = await store_with_packs()
    index = (await packs_in(store)).index.digest
    assert await are_there(store, await packs_in(store))
    del store.blobs[{"index": index, "start": digests.of(START), "tail": digests.of(TAIL)}[lost]]
    assert not await are_there(store, await packs_in(store))
    assert not await kept(store, LIST)


async def test_packs_whose_index_lies_are_withdrawn() -> None:
    store = await store_with_packs()
    other = indexed([START, TAIL, packed([b"more"])]).encode()
    note, _ = published(LIST, indexed([START, TAIL]))
    store.add(other)
    lie = replace(note, index=Part(digests.of(other), len(other)))
    await store.write_note("a__b.packs", lie.to_json())
    assert not await kept(store, LIST)


class ForWriters(Passes):
    """Gives no blob to whoever may only write."""

    async def get(self, digest: digests.Digest, size: int, sink: Sink) -> None:
        raise StoreTrouble("the server forbids it")


async def test_packs_that_cannot_be_read_are_withdrawn_and_stop_no_push() -> None:
    store = await store_with_packs()
    async with Claim(ForWriters(store)) as claim:
        await keep_packs(claim, NAME, LIST, None)
    assert await read_packs(store, NAME) is None


async def test_packs_in_any_store_of_several_are_withdrawn() -> None:
    chain = Chain([MemoryStore(), await store_with_packs()])
    assert not await kept(chain, OTHER_LIST)
    assert not await kept(chain.stores[1], LIST)  # type: ignore[arg-type]  # it is a MemoryStore


async def test_nothing_is_written_where_there_were_no_packs() -> None:
    store = MemoryStore()
    assert not await kept(store, LIST)
    assert store.noted == {}
    await delete_packs(store, NAME)


async def test_deleted_packs_are_gone_from_every_store() -> None:
    first, second = await store_with_packs(), await store_with_packs()
    await delete_packs(Chain([first, MemoryStore(), second]), NAME)
    assert first.noted == second.noted == {}


async def test_a_name_that_is_too_long_for_a_note_has_no_packs() -> None:
    name = parse_name("a__" + "b" * 230)
    store = MemoryStore()
    assert await read_packs(store, name) is None
    async with Claim(store) as claim:
        await keep_packs(claim, name, LIST, None)
        with pytest.raises(BadName):
            await keep_packs(claim, name, LIST, NOTE)
