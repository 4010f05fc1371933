"""The fetch service: one flight a digest, every fault an error, nothing left behind."""

import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from aysfs import digest as digests
from aysfs.cache.blobs import Cache
from aysfs.digest import Digest
from aysfs.errors import AysfsError, BlobMissing, Corrupt, NoSpace, Stalled, StoreTrouble
from aysfs.fetch.bulk import Wanted, fetch_all
from aysfs.fetch.fetcher import Fetcher, open_fetcher
from aysfs.limits import Limits
from aysfs.store.faults import (
    AnswersAnother,
    Counts,
    FailsOnce,
    FlipsLastByte,
    Passes,
    Stalls,
    Truncates,
)
from aysfs.store.memory import MemoryStore
from aysfs.store.protocol import Sink, Store
from tests.conftest import ExpectOutput

DATA = b"some content" * 1000


@pytest.fixture(autouse=True)
def failures_are_logged(expected_output: ExpectOutput) -> None:
    """A failed fetch leaves one warning, which is what these tests provoke."""
    expected_output(r"^WARNING +aysfs\.fetch\.flights:.*$")


@asynccontextmanager
async def serving(
    tmp_path: Path, store: Store, limits: Limits | None = None, deadline: float = 60.0
) -> AsyncIterator[Fetcher]:
    cache = Cache(tmp_path / "cache", limits or Limits(keep_free=0))
    try:
        async with open_fetcher(cache, store, deadline=deadline) as fetcher:
            yield fetcher
            assert fetcher.in_flight() == []
            left = set(os.listdir(cache.usage.directory))
            assert left <= {"alive", "reserved", "synced"}
    finally:
        cache.close()


async def read(fetcher: Fetcher, digest: Digest, size: int) -> bytes:
    with os.fdopen(await fetcher.open(digest, size, "a test"), "rb") as file:
        return file.read()


async def test_a_blob_is_fetched_once_and_then_hit(tmp_path: Path, no_leaks: None) -> None:
    memory = MemoryStore()
    store = Counts(memory)
    digest = memory.add(DATA)
    async with serving(tmp_path, store) as fetcher:
        assert await read(fetcher, digest, len(DATA)) == DATA
        assert await read(fetcher, digest, len(DATA)) == DATA
        assert (fetcher.counters.hits, fetcher.counters.misses) == (1, 1)


async def test_a_hundred_readers_make_one_flight(tmp_path: Path, no_leaks: None) -> None:
    memory = MemoryStore()
    digest = memory.add(DATA)
    got: list[bytes] = []
    async with serving(tmp_path, memory) as fetcher:

        async def reader() -> None:
            got.append(await read(fetcher, digest, len(DATA)))

        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(reader)
        assert fetcher.counters.misses == 1
    assert got == [DATA] * 100


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (lambda store: FlipsLastByte(store), Corrupt),
        (lambda store: Truncates(store, 100), Corrupt),
        (lambda store: Truncates(store, 0), Corrupt),
        (lambda store: AnswersAnother(store, b"<html>please log in</html>"), Corrupt),
        (lambda store: AnswersAnother(store, DATA + b"!"), Corrupt),
        (lambda store: FailsOnce(store), StoreTrouble),
    ],
)
async def test_a_fault_is_an_error_and_nothing_is_kept(
    tmp_path: Path, no_leaks: None, fault: object, error: type[AysfsError]
) -> None:
    memory = MemoryStore()
    digest = memory.add(DATA)
    assert callable(fault)
    async with serving(tmp_path, fault(memory)) as fetcher:
        with pytest.raises(error):
            await fetcher.open(digest, len(DATA))
        assert not fetcher.cache.is_doubtful(digest)
        assert fetcher.cache.usage.used == 0


async def test_a_store_that_comes_back_is_asked_again(tmp_path: Path, no_leaks: None) -> None:
    memory = MemoryStore()
    digest = memory.add(DATA)
    async with serving(tmp_path, FailsOnce(memory)) as fetcher:
        with pytest.raises(StoreTrouble):
            await fetcher.open(digest, len(DATA))
        assert await read(fetcher, digest, len(DATA)) == DATA


async def test_a_missing_blob_is_missing_for_all_who_ask(tmp_path: Path, no_leaks: None) -> None:
    memory = MemoryStore()
    digest = digests.of(b"nowhere")
    failed = 0
    async with serving(tmp_path, memory) as fetcher:

        async def reader() -> None:
            nonlocal failed
            with pytest.raises(BlobMissing):
                await fetcher.open(digest, 7)
            failed += 1

        async with trio.open_nursery() as nursery:
            for _ in range(200):
                nursery.start_soon(reader)
        assert fetcher.counters.misses == 1
        assert failed == 200
        memory.add(b"nowhere")
        assert await read(fetcher, digest, 7) == b"nowhere"


async def test_a_stall_ends_at_the_deadline(
    tmp_path: Path, no_leaks: None, autojump_clock: MockClock
) -> None:
    memory = MemoryStore()
    digest = memory.add(DATA)
    async with serving(tmp_path, Stalls(memory, after=10), deadline=60) as fetcher:
        started = trio.current_time()
        with pytest.raises(Stalled):
            await fetcher.open(digest, len(DATA))
        assert 60 <= trio.current_time() - started <= 130


class Drips(Passes):
    """A byte now and then: slow is not stalled."""

    async def get(self, digest: Digest, size: int, sink: Sink) -> None:
        for byte in await self._bytes(digest, size):
            await trio.sleep(30)
            sink.write(bytes([byte]))


async def test_slow_is_not_stalled(
    tmp_path: Path, no_leaks: None, autojump_clock: MockClock
) -> None:
    memory = MemoryStore()
    digest = memory.add(b"drop by drop")
    async with serving(tmp_path, Drips(memory), deadline=60) as fetcher:
        assert await read(fetcher, digest, 12) == b"drop by drop"


class SlowDisk(Cache):
    """Hashing an entry takes until it is let."""

    def revalidate(self, digest: Digest, size: int | None = None) -> bool:
        assert self.hashed.wait(30)
        return super().revalidate(digest, size)

    hashed = threading.Event()


async def test_what_others_fetch_leaves_the_hashing_of_a_large_entry_its_time(
    tmp_path: Path, no_leaks: None, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aysfs.fetch.crew._SLOWEST_DISK", len(DATA) / 100)
    memory = MemoryStore()
    digest, other = memory.add(DATA), memory.add(b"other")
    cache = SlowDisk(tmp_path / "cache", Limits(keep_free=0))
    os.close(cache.insert(digest, DATA))
    os.utime(cache.path(digest))
    async with open_fetcher(cache, memory, deadline=60) as fetcher, trio.open_nursery() as nursery:
        nursery.start_soon(read, fetcher, digest, len(DATA))
        await wait_all_tasks_blocked()
        assert await read(fetcher, other, 5) == b"other"
        for _ in range(15):  # 60 s, and 100 for the hashing
            mock_clock.jump(10)
            await wait_all_tasks_blocked()
        assert [flight.digest for flight in fetcher.in_flight()] == [digest]
        cache.hashed.set()
    cache.close()


async def test_a_cancelled_reader_leaves_and_the_flight_goes_on(
    tmp_path: Path, no_leaks: None
) -> None:
    memory = MemoryStore()
    digest = memory.add(DATA)
    gate = trio.Event()

    class Waits(Passes):
        async def get(self, digest: Digest, size: int, sink: Sink) -> None:
            await gate.wait()
            await super().get(digest, size, sink)

    async with serving(tmp_path, Waits(memory)) as fetcher:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetcher.open, digest, len(DATA))
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert len(fetcher.in_flight()) == 1
        gate.set()
        await wait_all_tasks_blocked()
        assert fetcher.cache.has(digest, len(DATA))


async def test_a_bug_in_a_store_fails_one_blob(
    tmp_path: Path, no_leaks: None, expected_output: ExpectOutput
) -> None:
    expected_output(r"(?s)^ERROR +aysfs\.fetch\.crew:.*?^ZeroDivisionError: a bug$")

    class Buggy(Passes):
        async def get(self, digest: Digest, size: int, sink: Sink) -> None:
            raise ZeroDivisionError("a bug")

    memory = MemoryStore()
    digest = memory.add(DATA)
    async with serving(tmp_path, Buggy(memory)) as fetcher:
        with pytest.raises(StoreTrouble, match="a bug"):
            await fetcher.open(digest, len(DATA))


async def test_a_full_cache_makes_room(tmp_path: Path, no_leaks: None) -> None:
    memory = MemoryStore()
    blobs = [memory.add(bytes([number]) * 4096) for number in range(30)]
    limits = Limits(size=10 * 4096, keep_free=0)
    async with serving(tmp_path, memory, limits) as fetcher:
        for number, digest in enumerate(blobs):
            assert await read(fetcher, digest, 4096) == bytes([number]) * 4096
            assert fetcher.cache.usage.used <= limits.size


async def test_a_cache_full_of_what_is_read_has_no_space(tmp_path: Path, no_leaks: None) -> None:
    memory = MemoryStore()
    one, two = memory.add(b"1" * 4096), memory.add(b"2" * 4096)
    limits = Limits(size=4096, keep_free=0)
    async with serving(tmp_path, memory, limits) as fetcher:
        reader = await fetcher.open(one, 4096)
        with pytest.raises(NoSpace):
            await fetcher.open(two, 4096)
        os.close(reader)
        assert await read(fetcher, two, 4096) == b"2" * 4096


async def test_a_bulk_fetch_goes_on_past_what_fails(tmp_path: Path, no_leaks: None) -> None:
    memory = MemoryStore()
    wanted = [Wanted(memory.add(b"%d" % number), 1, f"/{number}") for number in range(9)]
    wanted.insert(4, Wanted(digests.of(b"gone"), 4, "/gone"))
    async with serving(tmp_path, memory) as fetcher:
        report = await fetch_all(fetcher, wanted, lambda _done, _size: None)
    assert (report.blobs, report.failed) == (10, 1)
    assert "/gone" in report.failures[0]
    assert isinstance(report.first_error, BlobMissing)


async def test_many_that_need_room_at_once_all_find_it(tmp_path: Path, no_leaks: None) -> None:
    memory = MemoryStore()
    old = [memory.add(bytes([number]) * 65536) for number in range(60)]
    new = [memory.add(bytes([number]) * 196608) for number in range(16)]
    async with serving(tmp_path, memory, Limits(size=64 * 65536, keep_free=0)) as fetcher:
        for digest in old:
            await fetcher.ensure(digest, 65536)
        async with trio.open_nursery() as nursery:
            for digest in new:
                nursery.start_soon(fetcher.ensure, digest, 196608)
        assert fetcher.counters.failures == 0
        assert sum(stored.size for stored in fetcher.cache.scan()) <= 64 * 65536


async def test_what_can_never_fit_evicts_nothing(tmp_path: Path, no_leaks: None) -> None:
    memory = MemoryStore()
    digest = memory.add(DATA)
    async with serving(tmp_path, memory, Limits(size=1 << 20, keep_free=0)) as fetcher:
        await fetcher.ensure(digest, len(DATA))
        with pytest.raises(NoSpace, match="never fit"):
            await fetcher.open(digests.of(b"huge"), 1 << 40)
        assert fetcher.cache.has(digest, len(DATA))


async def test_a_lying_size_does_not_disturb_an_honest_reader(
    tmp_path: Path, no_leaks: None
) -> None:
    memory = MemoryStore()
    digest = memory.add(DATA)
    async with serving(tmp_path, memory) as fetcher, trio.open_nursery() as nursery:

        async def liar() -> None:
            with pytest.raises(Corrupt):
                await fetcher.open(digest, len(DATA) + 1)

        nursery.start_soon(liar)
        assert await read(fetcher, digest, len(DATA)) == DATA


async def test_who_only_wants_it_there_and_who_reads_it_share_a_flight(
    tmp_path: Path, no_leaks: None
) -> None:
    memory = MemoryStore()
    store = Counts(memory)
    digest = memory.add(DATA)
    async with serving(tmp_path, store) as fetcher:
        told: list[AysfsError | None] = []
        assert fetcher.start(digest, len(DATA), "", told.append)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetcher.ensure, digest, len(DATA))
            assert await read(fetcher, digest, len(DATA)) == DATA
        assert told == [None]
        assert store.gets[digest] == 1
        assert not fetcher.start(digest, len(DATA), "", told.append)
        assert told == [None]


@pytest.mark.parametrize("ahead", [1, 2, 5, 100])
async def test_a_bulk_fetch_brings_each_blob_once(
    tmp_path: Path, no_leaks: None, ahead: int
) -> None:
    memory = MemoryStore()
    store = Counts(memory)
    wanted = [Wanted(memory.add(b"%d" % number), 2, f"/{number}") for number in range(10, 40)]
    steps: list[tuple[int, int]] = []
    async with serving(tmp_path, store) as fetcher:
        await fetcher.ensure(wanted[3].digest, 2)
        report = await fetch_all(
            fetcher, wanted, lambda done, size: steps.append((done, size)), ahead
        )
    assert (report.blobs, report.failed) == (30, 0)
    assert steps == [(number, 2 * number) for number in range(1, 31)]
    assert set(store.gets.values()) == {1}


async def test_a_bulk_fetch_ends_when_there_is_no_space(tmp_path: Path, no_leaks: None) -> None:
    memory = MemoryStore()
    wanted = [Wanted(digests.of(b"huge"), 1 << 40, "/huge")]
    wanted += [Wanted(memory.add(b"%d" % number), 2, "") for number in range(10, 99)]
    done: list[int] = []
    limits = Limits(size=1 << 20, keep_free=0)
    async with serving(tmp_path, memory, limits) as fetcher:
        with pytest.raises(NoSpace, match="never fit"):
            await fetch_all(fetcher, wanted, lambda number, _size: done.append(number), 4)
        reached = list(done)
        await wait_all_tasks_blocked()
    assert done == reached
    assert len(done) < 89
