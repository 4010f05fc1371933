"""Whoever looks after a store knows the index blobs that the chunks of large files name."""

import pytest

from aysfs import digest as digests
from aysfs.chunks import ChunkHasher, Chunks
from aysfs.digest import Digest
from aysfs.flist.entry import Entry, Kind
from aysfs.flist.text import write_flist
from aysfs.names import parse_name
from aysfs.store.memory import MemoryStore
from aysfs.upkeep.check import Hurt, Wrong, check
from aysfs.upkeep.copy import copy, retag
from aysfs.upkeep.info import info
from tests.t3_upkeep.listed import entry, listed
from tests.t3_upkeep.sweeping import HOUR, NOW, store_at, sweep

NAME, OTHER = parse_name("a__b"), parse_name("c__d")
DATA = bytes(range(251)) * 1000
CUT = 1000
HASHER = ChunkHasher(CUT)
HASHER.update(DATA)
INDEX = HASHER.index()


def chunked(path: bytes, chunks: Chunks) -> Entry:
    return Entry(
        path, Kind.REGULAR, 0o644, 0, 0, len(DATA), digests.of(DATA), 0,
        ((b"chunks", chunks.value),),
    )  # fmt: skip


def a_list(*entries: Entry) -> bytes:
    return b"".join(write_flist(None, entries))


RIGHT = Chunks(CUT, digests.of(INDEX))


async def filled(store: MemoryStore) -> MemoryStore:
    for data in (DATA, INDEX, b"small"):
        store.add(data)
    await store.put_list(NAME, [a_list(chunked(b"/large", RIGHT), entry(b"/small", b"small"))])
    return store


async def test_gc_keeps_the_index() -> None:
    store = await filled(store_at())
    store.add(b"garbage")
    store.blob_times.clear()
    report = await sweep(store)
    assert report.blobs.files == 1
    assert set(store.blobs) == {digests.of(one) for one in (DATA, INDEX, b"small")}


async def test_gc_takes_the_index_of_a_list_that_is_gone() -> None:
    store = await filled(store_at(NOW + HOUR))
    await store.delete_list(NAME)
    store.blob_times.clear()
    await sweep(store)
    assert store.blobs == {}


async def test_copy_and_tag_take_the_index_along() -> None:
    source, target = await filled(MemoryStore("source")), MemoryStore("target")
    report = await copy(source, target, [NAME])
    assert report.failed == {}
    assert target.blobs == source.blobs
    assert target.published[NAME][0] == source.published[NAME][0]
    del source.blobs[RIGHT.digest]
    with pytest.raises(Exception, match=RIGHT.digest.hex()):
        await retag(source, NAME, OTHER)


async def test_info_counts_the_index() -> None:
    found = await info(await filled(MemoryStore()))
    assert (found.named, found.blobs, found.unnamed) == (3, 3, 0)
    assert found.indexes_size == len(INDEX)
    assert (found.listed_size, found.saved) == (len(DATA) + 5, 0)


@pytest.mark.parametrize("deep", [False, True])
async def test_a_store_with_chunks_is_whole(deep: bool) -> None:
    report = await check(await filled(MemoryStore()), deep=deep)
    assert (report.blobs, report.wrong, report.damage) == (3, {}, [])


@pytest.mark.parametrize("deep", [False, True])
async def test_a_missing_index_hurts_its_file(deep: bool) -> None:
    store = await filled(MemoryStore())
    del store.blobs[RIGHT.digest]
    report = await check(store, deep=deep)
    assert report.wrong == {RIGHT.digest: Wrong.MISSING}
    assert report.damage[0].hurt == [Hurt(b"/large", RIGHT.digest, Wrong.MISSING)]


@pytest.mark.parametrize(
    "lie",
    [INDEX[:-16] + bytes(16), bytes(len(INDEX)), INDEX[16:] + INDEX[:16]],
    ids=["last", "all", "shifted"],
)
async def test_chunks_that_lie_are_found_by_a_deep_check(lie: bytes) -> None:
    store = await filled(MemoryStore())
    wrong = Chunks(CUT, Digest(store.add(lie)))
    await store.put_list(OTHER, [a_list(chunked(b"/lie", wrong), chunked(b"/right", RIGHT))])
    assert (await check(store)).wrong == {}
    report = await check(store, deep=True)
    assert report.wrong == {digests.of(DATA): Wrong.CHUNKS}
    [damage] = report.damage
    assert (damage.name, damage.corrupt) == (OTHER, 1)
    assert damage.hurt == [Hurt(b"/lie", digests.of(DATA), Wrong.CHUNKS)]


async def test_an_index_of_another_size_is_wrong() -> None:
    store = await filled(MemoryStore())
    wrong = Chunks(CUT, Digest(store.add(INDEX[:-16])))
    await store.put_list(OTHER, [a_list(chunked(b"/lie", wrong))])
    assert (await check(store)).wrong == {wrong.digest: Wrong.SIZE}


async def test_chunks_of_a_small_blob_are_checked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    store = await filled(MemoryStore())
    monkeypatch.setattr(store, "at_hand", lambda digest, size: store.blobs[digest])
    wrong = Chunks(CUT, Digest(store.add(bytes(len(INDEX)))))
    await store.put_list(OTHER, [a_list(chunked(b"/lie", wrong))])
    assert (await check(store, deep=True)).wrong == {digests.of(DATA): Wrong.CHUNKS}


async def test_lists_without_chunks_are_as_they_were() -> None:
    store = store_at()
    store.add(b"one")
    await store.put_list(NAME, [listed(b"one")])
    assert (await info(store)).indexes_size == 0
