"""Large blobs by chunks: what faults, a lack of room and cancellation do."""

import os
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
from aysfs.fetch.fetcher import Fetcher, open_fetcher
from aysfs.fetch.span import Early
from aysfs.limits import CHUNK, Limits
from aysfs.store.chain import Chain
from aysfs.store.faults import Counts, FailsOnce, FlipsLastByte, Passes, Stalls, Truncates
from aysfs.store.memory import MemoryStore
from aysfs.store.protocol import Sink
from tests.cancelling import Cut, Traces, assert_nothing_left, at_every_await, threads_ended
from tests.large_blob import CHUNKS, COUNT, DATA, DIGEST, SIZE, flipped, large_store, lying
from tests.t3_fetch.large_reads import (
    Waits,
    asked,
    complete,
    read_all,
    reading,
    serving,
    settled,
)

pytestmark = pytest.mark.usefixtures("failures_are_logged")


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


async def test_what_comes_when_nobody_takes_it_any_more_goes_nowhere() -> None:
    """The descriptor of its sink is closed then, and its number may be another blob's."""

    class Later(Passes):
        """Gives the second half when it is told to, as libcurl may after the end of a request."""

        async def get_range(
            self, digest: Digest, size: int, start: int, length: int, sink: Sink
        ) -> None:
            sink.write(bytes(length // 2))
            with trio.CancelScope(shield=True):
                await go_on.wait()
            sink.write(bytes(length // 2))

    class Taken:
        def __init__(self) -> None:
            self.count = 0

        def take(self, data: memoryview, _digest: Digest) -> None:
            self.count += len(data)

        def write(self, data: bytes) -> None:
            self.count += len(data)

    go_on, taken = trio.Event(), Taken()
    early = Early(Later(MemoryStore()), digests.of(b""), 1 << 20, 1024, 4)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(early.run)
        await wait_all_tasks_blocked()
        with trio.move_on_after(0):
            await early.pour_into(taken)  # type: ignore[arg-type]  # as far as it is one
        assert taken.count == 2048
        go_on.set()
    assert taken.count == 2048
