"""Each misbehaving store misbehaves as its name says, and in no other way."""

import io

import pytest
import trio

from aysfs.digest import Digest
from aysfs.errors import NoRanges, StoreTrouble
from aysfs.names import parse_name
from aysfs.store import faults
from aysfs.store.memory import MemoryStore
from aysfs.store.protocol import BlobSource, Held, Store

DATA = b"0123456789"
NAME = parse_name("base")


@pytest.fixture
def memory() -> MemoryStore:
    return MemoryStore()


async def get(store: Store, digest: Digest) -> bytes:
    sink = Held()
    await store.get(digest, len(DATA), sink)
    return sink.getvalue()


async def test_the_last_byte_is_flipped(memory: MemoryStore) -> None:
    got = await get(faults.FlipsLastByte(memory), memory.add(DATA))
    assert (got[:-1], len(got)) == (DATA[:-1], len(DATA))
    assert got != DATA


async def test_a_blob_is_cut(memory: MemoryStore) -> None:
    assert await get(faults.Truncates(memory, 4), memory.add(DATA)) == b"0123"


async def test_another_blob_is_answered(memory: MemoryStore) -> None:
    assert await get(faults.AnswersAnother(memory, b"log in"), memory.add(DATA)) == b"log in"


async def test_a_stalled_blob_never_ends_and_can_be_cancelled(memory: MemoryStore) -> None:
    store = faults.Stalls(memory, 3)
    sink = Held()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.get, memory.add(DATA), len(DATA), sink)
        await store.stalled.wait()
        nursery.cancel_scope.cancel()
    assert sink.getvalue() == DATA[:3]


async def test_one_failure_each(memory: MemoryStore) -> None:
    store = faults.FailsOnce(memory)
    for digest in (memory.add(DATA), memory.add(DATA[::-1])):
        with pytest.raises(StoreTrouble):
            await get(store, digest)
        assert len(await get(store, digest)) == len(DATA)


async def test_every_call_fails(memory: MemoryStore) -> None:
    store = faults.FailsAlways(memory)
    digest = memory.add(DATA)
    for call in (
        lambda: get(store, digest),
        lambda: store.missing({digest: len(DATA)}),
        lambda: store.put(digest, len(DATA), io.BytesIO(DATA)),
        lambda: store.put_many([BlobSource(digest, len(DATA), io.BytesIO)]),
        lambda: store.open_list(NAME),
        lambda: store.put_list(NAME, []),
        store.lists,
    ):
        with pytest.raises(StoreTrouble):
            await call()


async def test_a_store_goes_and_comes_back(memory: MemoryStore) -> None:
    store = faults.Vanishes(memory)
    digest = memory.add(DATA)
    store.gone = True
    with pytest.raises(StoreTrouble):
        await get(store, digest)
    store.gone = False
    assert await get(store, digest) == DATA


async def part(store: Store, digest: Digest) -> bytes:
    sink = Held()
    await store.get_range(digest, len(DATA), 2, 6, sink)
    return sink.getvalue()


async def test_parts_misbehave_as_whole_blobs_do(memory: MemoryStore) -> None:
    digest = memory.add(DATA)
    assert await part(faults.FlipsLastByte(memory), digest) == b"23456" + bytes([0xFF ^ ord("7")])
    assert await part(faults.Truncates(memory, 4), digest) == b"2345"
    assert await part(faults.AnswersAnother(memory, b"log in"), digest) == b"log in"
    with pytest.raises(NoRanges):
        await part(faults.WithoutRanges(memory), digest)
    assert await get(faults.WithoutRanges(memory), digest) == DATA
    with pytest.raises(StoreTrouble):
        await part(faults.FailsAlways(memory), digest)
    once = faults.FailsOnce(memory)
    with pytest.raises(StoreTrouble):
        await part(once, digest)
    assert await part(once, digest) == DATA[2:8]
    counts = faults.Counts(memory)
    assert await part(counts, digest) == DATA[2:8]
    assert (counts.ranges, counts.calls, counts.gets) == ([(digest, 2, 6)], {"get_range": 1}, {})


async def test_calls_are_counted(memory: MemoryStore) -> None:
    store = faults.Counts(memory)
    digest = memory.add(DATA)
    await get(store, digest)
    await get(store, digest)
    await store.put(digest, len(DATA), io.BytesIO(DATA))
    await store.put_list(NAME, [])
    (await store.open_list(NAME)).file.close()
    assert (store.gets, store.puts, store.opened) == ({digest: 2}, {digest: 1}, {NAME: 1})
    assert store.calls == {"get": 2, "put": 1, "put_list": 1, "open_list": 1}
