"""Large blobs by chunks: what a read fetches, what faults do, and how the whole comes of it."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from aysfs import digest as digests
from aysfs.cache.blobs import Cache
from aysfs.chunks import Chunks
from aysfs.digest import Digest
from aysfs.errors import AysfsError, Corrupt, NoSpace, Stalled, StoreTrouble
from aysfs.fetch.bulk import Wanted, fetch_all
from aysfs.fetch.chunks import Reader
from aysfs.fetch.fetcher import Fetcher, open_fetcher
from aysfs.limits import CHUNK, LARGE, Limits
from aysfs.store.chain import Chain
from aysfs.store.faults import (
    Counts,
    FailsOnce,
    FlipsLastByte,
    Passes,
    Stalls,
    Truncates,
    WithoutRanges,
)
from aysfs.store.protocol import Sink, Store
from tests.cancelling import Cut, Traces, assert_nothing_left, at_every_await, threads_ended
from tests.conftest import ExpectOutput
from tests.large_blob import (
    CHUNKS,
    COUNT,
    DATA,
    DIGEST,
    INDEX,
    SIZE,
    flipped,
    large_store,
    lying,
)

REQUEST = 16  # chunks


@pytest.fixture(autouse=True)
def failures_are_logged(expected_output: ExpectOutput) -> None:
    expected_output(r"^WARNING +aysfs\.(fetch|store)\..*$")


@asynccontextmanager
async def serving(
    tmp_path: Path, store: Store, limits: Limits | None = None, deadline: float = 60.0
) -> AsyncIterator[Fetcher]:
    reports: list[str] = []
    cache = Cache(tmp_path / "cache", limits or Limits(keep_free=0), reports.append)
    try:
        async with open_fetcher(cache, store, deadline=deadline) as fetcher:
            yield fetcher
            await wait_all_tasks_blocked()
            assert fetcher.in_flight() == []
            assert fetcher.large._open == {}
            assert cache.usage._pending == 0
            assert set(os.listdir(cache.usage.directory)) <= {"alive", "reserved", "synced"}
    finally:
        cache.close()


@asynccontextmanager
async def reading(
    fetcher: Fetcher, chunks: Chunks = CHUNKS, *, head: bool = False
) -> AsyncIterator[Reader]:
    reader = await fetcher.large.open(DIGEST, SIZE, chunks, "a test", head=head)
    try:
        yield reader
    finally:
        reader.close()


def asked(store: Counts) -> list[tuple[int, int]]:
    """First chunk and count of each request for parts of the blob."""
    assert all(digest == DIGEST and start % CHUNK == 0 for digest, start, _ in store.ranges)
    return [(start // CHUNK, -(-length // CHUNK)) for _, start, length in store.ranges]


async def settled() -> None:
    """Wait for a store's thread, for the hashing of the whole, and for that of each chunk."""
    for _ in range(3):
        await threads_ended()
        await wait_all_tasks_blocked()


async def complete(cache: Cache) -> None:
    """Wait until the blob is one as any other."""
    await settled()
    assert cache.has(DIGEST, SIZE)


# --- what a read fetches -----------------------------------------------------------------------


async def test_a_read_in_the_middle_fetches_its_chunk(tmp_path: Path, no_leaks: None) -> None:
    store = Counts(large_store())
    async with serving(tmp_path, store) as fetcher, reading(fetcher) as reader:
        at = 100 * CHUNK + 5
        assert await reader.read(at, 4096) == DATA[at : at + 4096]
        assert asked(store) == [(100, 1)]
        assert await reader.read(at, 4096) == DATA[at : at + 4096]
        across = 200 * CHUNK - 10
        assert await reader.read(across, 20) == DATA[across : across + 20]
        assert asked(store) == [(100, 1), (199, 2)]
        assert store.gets == {CHUNKS.digest: 1}
        await wait_all_tasks_blocked()
        assert fetcher.counters.fetched_bytes == 3 * CHUNK + len(INDEX)
        assert fetcher.counters.misses == 2  # the blob and its index


async def test_the_beginning_comes_in_one_request(tmp_path: Path, no_leaks: None) -> None:
    store = Counts(large_store())
    async with serving(tmp_path, store) as fetcher, reading(fetcher) as reader:
        for at in range(0, 1 << 20, 128 << 10):
            assert await reader.read(at, 128 << 10) == DATA[at : at + (128 << 10)]
        await wait_all_tasks_blocked()
        assert asked(store)[0] == (0, 4)
        assert sum(count for _, count in asked(store)) <= 8  # no more ahead than was read


class Slow(Passes):
    """Gives the index of chunks when it is let."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.go_on = trio.Event()

    async def get(self, digest: Digest, size: int, sink: Sink) -> None:
        await self.go_on.wait()
        await self._inner.get(digest, size, sink)


async def test_the_beginning_is_asked_for_together_with_the_index(
    tmp_path: Path, no_leaks: None
) -> None:
    counts = Counts(large_store())
    store = Slow(counts)
    got: list[bytes] = []

    async def use(fetcher: Fetcher) -> None:
        async with reading(fetcher, head=True) as reader:
            got.append(await reader.read(0, 1 << 20))

    async with serving(tmp_path, store) as fetcher:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(use, fetcher)
            await wait_all_tasks_blocked()
            assert asked(counts) == [(0, 4)]
            assert list(fetcher.cache.scan_partial()) == []  # nothing verifies it yet
            store.go_on.set()
        assert got == [DATA[: 1 << 20]]
        assert asked(counts)[1:] in ([], [(4, 4)])
        async with reading(fetcher, head=True) as reader:  # the index is here: nothing is guessed
            await reader.read(200 * CHUNK, 10)
        assert asked(counts)[-1] == (200, 1)


@pytest.mark.parametrize("wrong", [0, 2])
async def test_a_beginning_that_came_wrong_is_asked_for_again(
    tmp_path: Path, wrong: int, no_leaks: None
) -> None:
    chain = Chain([large_store(data=flipped(wrong)), large_store()])
    async with serving(tmp_path, chain) as fetcher, reading(fetcher, head=True) as reader:
        assert await reader.read(0, 1 << 20) == DATA[: 1 << 20]


async def test_a_beginning_of_a_blob_without_an_index_is_given_up(
    tmp_path: Path, no_leaks: None
) -> None:
    memory = large_store()
    del memory.blobs[CHUNKS.digest]
    async with serving(tmp_path, memory) as fetcher, reading(fetcher, head=True) as reader:
        assert await reader.read(0, 10) == DATA[:10]


async def test_a_store_without_ranges_gives_no_beginning_either(
    tmp_path: Path, no_leaks: None
) -> None:
    store = Counts(WithoutRanges(large_store()))
    async with serving(tmp_path, store) as fetcher, reading(fetcher, head=True) as reader:
        assert await reader.read(77, 10) == DATA[77:87]
        assert store.gets[DIGEST] == 1


async def test_the_end_and_what_lies_behind_it(tmp_path: Path, no_leaks: None) -> None:
    async with serving(tmp_path, large_store()) as fetcher, reading(fetcher) as reader:
        assert await reader.read(SIZE - 10, 4096) == DATA[-10:]
        assert await reader.read(SIZE, 10) == b""
        assert await reader.read(SIZE + CHUNK, 10) == b""


async def test_a_sequential_read_asks_in_few_requests_and_for_nothing_twice(
    tmp_path: Path, no_leaks: None
) -> None:
    store = Counts(large_store())
    async with serving(tmp_path, store) as fetcher:
        async with reading(fetcher) as reader:
            for at in range(0, SIZE, 128 << 10):
                assert await reader.read(at, 128 << 10) == DATA[at : at + (128 << 10)]
        requests = asked(store)
        assert sorted(n for at, count in requests for n in range(at, at + count)) == list(
            range(COUNT)
        )
        assert len(requests) <= COUNT // REQUEST + 12
        await complete(fetcher.cache)


async def test_out_of_order_reads_of_one_line_are_one_line(tmp_path: Path) -> None:
    store = Counts(large_store())
    async with serving(tmp_path, store) as fetcher, reading(fetcher) as reader:
        for at in range(0, 32 * CHUNK, 2 * CHUNK):
            await reader.read(at + CHUNK, CHUNK)
            await reader.read(at, CHUNK)
        assert len(asked(store)) < 12


async def test_random_reads_fetch_nothing_ahead(tmp_path: Path) -> None:
    store = Counts(large_store())
    async with serving(tmp_path, store) as fetcher, reading(fetcher) as reader:
        for number in (200, 3, 150, 77, 240, 30):
            await reader.read(number * CHUNK + 9000, 4096)
        assert asked(store) == [(number, 1) for number in (200, 3, 150, 77, 240, 30)]


class Waits(Counts):
    """Gives parts when it is let."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.go_on = trio.Event()

    async def get_range(
        self, digest: Digest, size: int, start: int, length: int, sink: Sink
    ) -> None:
        self.ranges.append((digest, start, length))
        await self.go_on.wait()
        await self._inner.get_range(digest, size, start, length, sink)


async def test_a_chunk_flies_once_whoever_asks(tmp_path: Path, no_leaks: None) -> None:
    store = Waits(large_store())
    async with serving(tmp_path, store) as fetcher:
        readers = [await fetcher.large.open(DIGEST, SIZE, CHUNKS, "", head=False) for _ in range(5)]
        got: list[bytes] = []

        async def read(reader: Reader) -> None:
            got.append(await reader.read(50 * CHUNK, CHUNK))

        async with trio.open_nursery() as nursery:
            for reader in readers * 4:
                nursery.start_soon(read, reader)
            await wait_all_tasks_blocked()
            assert [(one.size, one.waiting) for one in fetcher.in_flight()] == [(CHUNK, 20)]
            store.go_on.set()
        assert got == [DATA[50 * CHUNK : 51 * CHUNK]] * 20
        assert asked(store) == [(50, 1)]
        for reader in readers:
            reader.close()


async def test_what_is_here_is_not_asked_for_by_the_next_process(
    tmp_path: Path, no_leaks: None
) -> None:
    async with serving(tmp_path, large_store()) as fetcher, reading(fetcher) as reader:
        await reader.read(7 * CHUNK, 3 * CHUNK)
    store = Counts(large_store())
    async with serving(tmp_path, store) as fetcher, reading(fetcher) as reader:
        assert await reader.read(7 * CHUNK, 3 * CHUNK) == DATA[7 * CHUNK : 10 * CHUNK]
        assert store.calls == {}
        assert await reader.read(6 * CHUNK, 5 * CHUNK) == DATA[6 * CHUNK : 11 * CHUNK]
        fetched = [n for at, count in asked(store) for n in range(at, at + count)]
        assert {6, 10} <= set(fetched)
        assert not {7, 8, 9} & set(fetched)


async def test_two_processes_fill_one_entry(tmp_path: Path) -> None:
    one, other = Counts(large_store()), Counts(large_store())
    async with serving(tmp_path, one) as first, serving(tmp_path, other) as second:
        async with reading(first) as here, reading(second) as there:
            await here.read(0, CHUNK)
            await wait_all_tasks_blocked()
            assert await there.read(0, CHUNK) == DATA[:CHUNK]
            for at in range(0, SIZE // 2, CHUNK):
                await here.read(at, CHUNK)
                await there.read(SIZE - at - CHUNK, CHUNK)
            for at in range(0, SIZE, CHUNK):
                assert await here.read(at, CHUNK) == DATA[at : at + CHUNK]
                assert await there.read(at, CHUNK) == DATA[at : at + CHUNK]
        await complete(first.cache)
    requests = [*asked(one), *asked(other)]
    assert sum(count for _, count in requests) < COUNT * 1.2


# --- the whole ---------------------------------------------------------------------------------


async def read_all(reader: Reader) -> None:
    for at in range(0, SIZE, 1 << 20):
        assert await reader.read(at, 1 << 20) == DATA[at : at + (1 << 20)]


async def test_what_is_complete_is_a_blob_as_any_other(tmp_path: Path, no_leaks: None) -> None:
    done: list[Cache] = []
    async with serving(tmp_path, large_store()) as fetcher:
        cache = fetcher.cache

        async def note(cache: Cache) -> None:
            done.append(cache)

        fetcher.large.completed = note
        async with reading(fetcher) as reader:
            await read_all(reader)
            await complete(cache)
            assert await reader.read(5, 10) == DATA[5:15]
            assert done == []
        await wait_all_tasks_blocked()
        assert done == [cache]
        assert list(cache.scan_partial()) == []
        assert [name for _, _, names in os.walk(tmp_path / "cache/partial") for name in names] == [
            "lock"
        ]
        descriptor = cache.open(DIGEST, SIZE)
        assert descriptor is not None
        assert os.fstat(descriptor).st_mode & 0o777 == 0o400
        os.close(descriptor)
        assert fetcher.counters.failures == 0
        async with reading(fetcher) as reader:
            await read_all(reader)
        counted = cache.usage.used
        cache.recount()
        assert cache.usage.used == counted


async def test_a_bulk_fetch_completes_what_was_begun(tmp_path: Path, no_leaks: None) -> None:
    store = Counts(large_store())
    wanted = [Wanted(DIGEST, SIZE, "large"), Wanted(CHUNKS.digest, len(INDEX), "index")]
    async with serving(tmp_path, store) as fetcher:
        async with reading(fetcher) as reader:
            await reader.read(100 * CHUNK, 10)
            await reader.read(30 * CHUNK, 10)
        report = await fetch_all(fetcher, wanted, lambda *_: None)
        assert (report.blobs, report.failed) == (2, 0)
        assert fetcher.cache.has(DIGEST, SIZE)
        requests = asked(store)
        assert sum(count for _, count in requests) == COUNT
        assert len(requests) < COUNT // REQUEST + 10
        assert DIGEST not in store.gets
        await wait_all_tasks_blocked()
        assert fetcher.large._open == {}


async def test_a_bulk_fetch_of_what_was_not_begun_is_one_request(tmp_path: Path) -> None:
    store = Counts(large_store())
    async with serving(tmp_path, store) as fetcher:
        await fetch_all(fetcher, [Wanted(DIGEST, SIZE, "large")], lambda *_: None)
        assert (store.gets, store.ranges) == ({DIGEST: 1}, [])


async def test_a_bulk_fetch_tells_of_a_wrong_chunk(tmp_path: Path, no_leaks: None) -> None:
    async with serving(tmp_path, large_store(data=flipped(200))) as fetcher:
        async with reading(fetcher) as reader:
            await reader.read(0, 10)
        report = await fetch_all(fetcher, [Wanted(DIGEST, SIZE, "large")], lambda *_: None)
        assert report.failed == 1
        assert "chunk 200" in report.failures[0]


async def test_a_blob_that_came_whole_leaves_no_part(tmp_path: Path, no_leaks: None) -> None:
    async with serving(tmp_path, large_store()) as fetcher:
        cache = fetcher.cache
        async with reading(fetcher) as reader:
            await reader.read(100 * CHUNK, 10)
            os.close(await fetcher.open(DIGEST, SIZE))
            assert list(cache.scan_partial()) == []
            assert await reader.read(50 * CHUNK, 10) == DATA[50 * CHUNK :][:10]
        used = cache.usage.used
        cache.recount()
        assert cache.usage.used == used


async def test_a_blob_that_is_here_whole_needs_no_index(tmp_path: Path) -> None:
    memory = large_store()
    async with serving(tmp_path, memory) as fetcher:
        os.close(await fetcher.open(DIGEST, SIZE))
        del memory.blobs[CHUNKS.digest]
        async with reading(fetcher) as reader:
            assert await reader.read(9, 9) == DATA[9:18]


@pytest.mark.parametrize(
    "index", [None, INDEX[:-16], bytes(len(INDEX))], ids=["no", "short", "bad"]
)
async def test_without_a_right_index_the_blob_is_read_whole(
    tmp_path: Path, index: bytes | None, no_leaks: None
) -> None:
    memory = large_store(index=index or b"")
    if index is None:
        del memory.blobs[CHUNKS.digest]
    store = Counts(memory)
    async with serving(tmp_path, store) as fetcher, reading(fetcher) as reader:
        assert await reader.read(9, 9) == DATA[9:18]
        assert store.gets[DIGEST] == 1
        assert store.ranges == []


async def test_a_store_without_ranges_gives_the_whole(tmp_path: Path, no_leaks: None) -> None:
    store = Counts(WithoutRanges(large_store()))
    async with serving(tmp_path, store) as fetcher:
        async with reading(fetcher) as reader, trio.open_nursery() as nursery:
            for at in (0, 5 * CHUNK, SIZE - 10, 77 * CHUNK):
                nursery.start_soon(reader.read, at, 10)
        async with reading(fetcher) as reader:
            await read_all(reader)
        assert store.gets == {CHUNKS.digest: 1, DIGEST: 1}
        assert list(fetcher.cache.scan_partial()) == []
        assert fetcher.counters.failures == 0


# --- faults ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrap", "kind"),
    [(FlipsLastByte, Corrupt), (lambda inner: Truncates(inner, 1000), Corrupt)],
    ids=["flipped", "short"],
)
async def test_wrong_bytes_are_an_error_and_are_not_kept(
    tmp_path: Path, wrap: type[FlipsLastByte], kind: type[AysfsError], no_leaks: None
) -> None:
    memory = large_store()
    async with serving(tmp_path, memory) as fetcher, reading(fetcher) as reader:
        await reader.read(0, 10)
    async with serving(tmp_path, wrap(memory)) as fetcher, reading(fetcher) as reader:
        with pytest.raises(kind):
            await reader.read(40 * CHUNK, 10)
        assert fetcher.counters.failures == 1
    async with serving(tmp_path, memory) as fetcher, reading(fetcher) as reader:
        assert await reader.read(40 * CHUNK, 10) == DATA[40 * CHUNK :][:10]


async def test_a_wrong_chunk_hurts_nobody_who_does_not_read_it(
    tmp_path: Path, no_leaks: None
) -> None:
    store = Counts(large_store(data=flipped(5)))
    async with serving(tmp_path, store) as fetcher, reading(fetcher) as reader:
        for number in (0, 1, 2, 3, 4, 6, 7, 8, 9):
            at = number * CHUNK
            assert await reader.read(at, CHUNK) == DATA[at : at + CHUNK]
        with pytest.raises(Corrupt, match="chunk 5"):
            await reader.read(5 * CHUNK, 10)
        with pytest.raises(Corrupt, match="chunk 5"):
            await reader.read(4 * CHUNK, 2 * CHUNK)
        assert len(asked(store)) < 20


async def test_the_next_store_is_asked_for_a_wrong_chunk(tmp_path: Path, no_leaks: None) -> None:
    chain = Chain([large_store(data=flipped(3)), large_store()])
    async with serving(tmp_path, chain) as fetcher, reading(fetcher) as reader:
        for at in range(0, 8 * CHUNK, CHUNK):
            assert await reader.read(at, CHUNK) == DATA[at : at + CHUNK]
        assert fetcher.counters.failures == 0


async def test_a_failed_read_is_tried_again_by_the_next(tmp_path: Path, no_leaks: None) -> None:
    store = FailsOnce(large_store())
    async with serving(tmp_path, store) as fetcher:
        with pytest.raises(StoreTrouble):
            await fetcher.large.open(DIGEST, SIZE, CHUNKS, "", head=False)  # its index
        async with reading(fetcher) as reader:
            with pytest.raises(StoreTrouble):
                await reader.read(50 * CHUNK, 10)
            assert await reader.read(50 * CHUNK, 10) == DATA[50 * CHUNK :][:10]


async def test_a_silent_store_is_an_error_in_time(
    tmp_path: Path, autojump_clock: MockClock, no_leaks: None
) -> None:
    memory = large_store()
    async with serving(tmp_path, memory) as fetcher, reading(fetcher) as reader:
        await reader.read(0, 10)
    silent = Stalls(memory, 1000)
    async with serving(tmp_path, silent, deadline=30) as fetcher, reading(fetcher) as reader:
        began = trio.current_time()
        with pytest.raises(Stalled, match="no progress in 30 s"):
            await reader.read(99 * CHUNK, 10)
        assert trio.current_time() - began == 30


async def test_what_nobody_reads_any_more_ends(tmp_path: Path, no_leaks: None) -> None:
    store = Waits(large_store())
    async with serving(tmp_path, store) as fetcher:
        async with reading(fetcher) as reader:
            with trio.move_on_after(0.05):
                await reader.read(0, CHUNK)
            assert len(fetcher.in_flight()) == 1
        await wait_all_tasks_blocked()
        assert fetcher.in_flight() == []
        assert fetcher.counters.failures == 0
        async with reading(fetcher) as reader:
            store.go_on.set()
            assert await reader.read(0, CHUNK) == DATA[:CHUNK]


async def test_a_list_that_lies_about_a_chunk(tmp_path: Path, no_leaks: None) -> None:
    index, chunks = lying(9)
    memory = large_store()
    memory.blobs[chunks.digest] = index
    async with serving(tmp_path, memory) as fetcher, reading(fetcher, chunks) as reader:
        assert await reader.read(8 * CHUNK, CHUNK) == DATA[8 * CHUNK : 9 * CHUNK]
        with pytest.raises(Corrupt, match="chunk 9"):
            await reader.read(9 * CHUNK, 10)


async def test_chunks_that_are_right_and_another_blob_together(
    tmp_path: Path, no_leaks: None
) -> None:
    """A list that names the chunks of one blob and the md5 of another is found out at the end."""
    other = flipped(30)
    index = b"".join(digests.of(other[at : at + CHUNK]) for at in range(0, SIZE, CHUNK))
    chunks = Chunks(CHUNK, digests.of(index))
    memory = large_store(data=other)
    memory.blobs[chunks.digest] = index
    async with serving(tmp_path, memory) as fetcher:
        async with reading(fetcher, chunks) as reader:
            for at in range(0, SIZE, 1 << 20):
                assert await reader.read(at, 1 << 20) == other[at : at + (1 << 20)]
            await settled()
            assert list(fetcher.cache.scan_partial()) == []
            with pytest.raises(Corrupt, match="together another blob"):
                await reader.read(0, 10)
        assert not fetcher.cache.has(DIGEST, SIZE)
        memory.blobs[DIGEST] = DATA
        async with reading(fetcher, chunks) as reader:  # whole, and so right
            assert await reader.read(30 * CHUNK, CHUNK) == DATA[30 * CHUNK : 31 * CHUNK]


# --- room --------------------------------------------------------------------------------------


async def test_parts_count_and_are_evicted_when_nobody_reads_them(
    tmp_path: Path, no_leaks: None
) -> None:
    memory = large_store()
    filler = [os.urandom(4 << 20) for _ in range(12)]
    names = [memory.add(data) for data in filler]
    limits = Limits(size=40 << 20, keep_free=0)
    async with serving(tmp_path, memory, limits) as fetcher:
        cache = fetcher.cache
        async with reading(fetcher) as reader:
            for number in range(100):  # far from each other: nothing ahead
                await reader.read((40 + number * 37 % 100) * CHUNK, 10)
            assert 25 << 20 <= cache.usage.used <= 40 << 20
            for name in names:  # what is read is not evicted
                os.close(await fetcher.open(name, 4 << 20))
            assert await reader.read(40 * CHUNK, 10) == DATA[40 * CHUNK :][:10]
            assert len(list(cache.scan_partial())) == 1
        for name in names:
            os.close(await fetcher.open(name, 4 << 20))
        assert list(cache.scan_partial()) == []
        assert not os.path.exists(f"{cache.partial_path(DIGEST)}.map")
        cache.recount()
        assert cache.usage.used <= 40 << 20
        async with reading(fetcher) as reader:
            assert await reader.read(40 * CHUNK, 10) == DATA[40 * CHUNK :][:10]


async def test_a_blob_larger_than_the_cache_can_be_read(tmp_path: Path, no_leaks: None) -> None:
    limits = Limits(size=16 << 20, keep_free=0)
    store = Counts(large_store())
    async with serving(tmp_path, store, limits) as fetcher:
        cache = fetcher.cache
        async with reading(fetcher) as reader:
            await read_all(reader)
            assert 8 << 20 < cache.usage.used <= 16 << 20
            assert len(asked(store)) < COUNT
            await wait_all_tasks_blocked()
            store.ranges.clear()
            across = 100 * CHUNK - 1000  # one of both is not kept, and neither is asked for twice
            assert await reader.read(0, 10) == DATA[:10]
            assert await reader.read(across, 2000) == DATA[across : across + 2000]
            assert await reader.read(250 * CHUNK, 10) == DATA[250 * CHUNK :][:10]
            assert {at for at, _ in asked(store)} <= {99, 100, 250}
            with pytest.raises(NoSpace):
                await reader.bring()
        assert fetcher.counters.failures == 0
        assert not cache.has(DIGEST, SIZE)


async def test_a_full_disk_is_no_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_leaks: None
) -> None:
    async with serving(tmp_path, large_store()) as fetcher, reading(fetcher) as reader:

        def full(*_: object) -> int:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", full)
            with pytest.raises(NoSpace):
                await reader.read(0, 10)


# --- cancellation ------------------------------------------------------------------------------


class Threaded(Passes):
    """Gives the bytes of a part from a thread, as a store does for many of them."""

    async def get_range(
        self, digest: Digest, size: int, start: int, length: int, sink: Sink
    ) -> None:
        def work() -> None:
            for at in range(start, start + length, 100_000):
                sink.write(DATA[at : min(at + 100_000, start + length)])

        await trio.to_thread.run_sync(work)


async def test_chunks_may_come_from_a_thread(tmp_path: Path, no_leaks: None) -> None:
    async with serving(tmp_path, Threaded(large_store())) as fetcher:
        async with reading(fetcher) as reader:
            await read_all(reader)
        await complete(fetcher.cache)


async def test_a_reader_cut_anywhere_leaves_nothing(tmp_path: Path) -> None:
    memory = large_store()

    async def use(fetcher: Fetcher) -> None:
        async with reading(fetcher, head=True) as reader:
            at = 2 * CHUNK
            assert await reader.read(at, 2 * CHUNK) == DATA[at : at + 2 * CHUNK]

    async def attempt(cut: Cut) -> None:
        cache = Cache(tmp_path / str(cut.number), Limits(keep_free=0))
        before = Traces.of(cache)
        async with open_fetcher(cache, memory) as fetcher:
            await cut.during(partial(use, fetcher))
            await use(fetcher)
            assert fetcher.counters.failures == 0
            await wait_all_tasks_blocked()
        await threads_ended()
        assert_nothing_left(cache, before)
        cache.close()

    assert await at_every_await(attempt) > 5


async def test_a_service_that_ends_anywhere_in_a_read_leaves_nothing(tmp_path: Path) -> None:
    memory = large_store()

    async def use(cache: Cache) -> None:
        async with open_fetcher(cache, memory) as fetcher, reading(fetcher) as reader:
            at = 10 * CHUNK
            assert await reader.read(at, 2 * CHUNK) == DATA[at : at + 2 * CHUNK]

    async def attempt(cut: Cut) -> None:
        cache = Cache(tmp_path / str(cut.number), Limits(keep_free=0))
        before = Traces.of(cache)
        await cut.during(partial(use, cache))
        await threads_ended()
        assert_nothing_left(cache, before)
        await use(cache)
        cache.close()

    assert await at_every_await(attempt) > 5


def test_the_bound_is_what_the_tests_think() -> None:
    assert SIZE > LARGE
    assert CHUNKS.are_used(SIZE)
