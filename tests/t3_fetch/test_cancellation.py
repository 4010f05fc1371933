"""Cancelled at any await, a fetch leaves nothing behind, and the next one succeeds."""

import contextlib
import os
import threading
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from aysfs import digest as digests
from aysfs.cache.blobs import Cache
from aysfs.errors import BlobMissing, Stalled
from aysfs.fetch.bulk import Wanted, fetch_all
from aysfs.fetch.fetcher import Fetcher, open_fetcher
from aysfs.limits import Limits
from aysfs.store.directory import AT_HAND, DirectoryStore
from aysfs.store.layout import DEFAULT_NAMESPACE, blob
from aysfs.store.memory import MemoryStore
from tests.cancelling import (
    CASES,
    PAGE,
    BlobCase,
    Cut,
    Traces,
    assert_nothing_left,
    at_every_await,
    held_back,
    insert,
    threads_ended,
)
from tests.conftest import ExpectOutput

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


async def read(fetcher: Fetcher, case: BlobCase) -> bytes:
    descriptor = await fetcher.open(case.digest, len(case.data), "a test")
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


async def landed(fetcher: Fetcher) -> None:
    """Let the flights go on until none is left."""
    while fetcher.in_flight():
        await threads_ended()
        await wait_all_tasks_blocked()


def shortest(case: BlobCase) -> int:
    """Awaits that a read cannot do with less of: a hit has none, a thread or a store has."""
    return 0 if case.name == "present" else 2


@each_case
async def test_a_reader_cut_anywhere_leaves_and_its_flight_lands(
    tmp_path: Path, case: BlobCase
) -> None:
    async def attempt(cut: Cut) -> None:
        cache, store = case.cache(tmp_path / str(cut.number)), case.store()
        before = Traces.of(cache)
        async with open_fetcher(cache, store) as fetcher:
            await wait_all_tasks_blocked()
            await cut.during(lambda: read(fetcher, case))
            assert all(one.waiting == 0 for one in fetcher.in_flight())
            assert await read(fetcher, case) == case.data
            await landed(fetcher)
            assert store.gets[case.digest] <= 1
            assert fetcher.counters.misses <= 1
            assert fetcher.counters.failures == 0
        await threads_ended()
        assert_nothing_left(cache, before)
        cache.close()

    assert await at_every_await(attempt) >= shortest(case)


@each_case
async def test_a_flight_stalled_anywhere_leaves_nothing(
    tmp_path: Path, case: BlobCase, expected_output: ExpectOutput
) -> None:
    """As when the deadline of a flight passes: its readers hear of it, nobody is cancelled."""
    expected_output(r"^WARNING +aysfs\.fetch\.flights:.*no progress.*$")

    async def attempt(cut: Cut) -> None:
        cache, store = case.cache(tmp_path / str(cut.number)), case.store()
        before = Traces.of(cache)
        async with open_fetcher(cache, store) as fetcher:

            def deadline_passes() -> None:
                flights = fetcher._flights
                for flight in list(flights._all.values()):
                    flights.stall(flight)

            async def stalled() -> None:
                with contextlib.suppress(Stalled):
                    assert await read(fetcher, case) == case.data

            await cut.during(stalled, deadline_passes)
            await landed(fetcher)
            await threads_ended()
            assert_nothing_left(cache, before)
            assert await read(fetcher, case) == case.data
        cache.close()

    assert await at_every_await(attempt) >= shortest(case)


@each_case
async def test_a_service_cut_anywhere_leaves_nothing(tmp_path: Path, case: BlobCase) -> None:
    async def attempt(cut: Cut) -> None:
        cache, store = case.cache(tmp_path / str(cut.number)), case.store()
        before = Traces.of(cache)
        fetchers: list[Fetcher] = []

        async def service() -> None:
            async with open_fetcher(cache, store) as fetcher, trio.open_nursery() as nursery:
                fetchers.append(fetcher)
                for _ in range(3):
                    nursery.start_soon(read, fetcher, case)

        await cut.during(service)
        await threads_ended()
        assert_nothing_left(cache, before)
        assert fetchers[0].in_flight() == []
        async with open_fetcher(cache, store) as again:
            assert await read(again, case) == case.data
        assert_nothing_left(cache, before)
        cache.close()

    assert await at_every_await(attempt) > shortest(case)


MANY = [b"%d" % number * 40_000 for number in range(4)]


def many(limits: Limits, root: Path) -> tuple[Cache, MemoryStore, list[Wanted]]:
    """A cache full of what nobody wants, and a store with blobs that somebody does."""
    cache, store = Cache(root, limits), MemoryStore()
    for number in range(60):
        insert(cache, b"%0*d" % (PAGE, number))
    return cache, store, [Wanted(store.add(data), len(data), "/many") for data in MANY]


@pytest.mark.parametrize("size", [1 << 30, 60 * PAGE], ids=["roomy", "full"])
async def test_a_bulk_fetch_cut_anywhere_leaves_nothing(tmp_path: Path, size: int) -> None:
    async def attempt(cut: Cut) -> None:
        root = tmp_path / str(cut.number)
        cache, store, wanted = many(Limits(size=size, keep_free=0), root)
        before = Traces.of(cache)

        async def bulk(fetcher: Fetcher) -> None:
            report = await fetch_all(fetcher, wanted, lambda _done, _size: None, ahead=3)
            assert (report.blobs, report.failed) == (len(MANY), 0)

        async def service() -> None:
            async with open_fetcher(cache, store, parallel=2) as fetcher:
                await bulk(fetcher)

        async with open_fetcher(cache, store, parallel=2) as fetcher:
            await cut.during(lambda: bulk(fetcher))
            await landed(fetcher)
            assert fetcher.counters.failures == 0
            cache.recount()  # one beside a fetch may count that blob twice
            assert_nothing_left(cache, before)
            await bulk(fetcher)
        for stored in list(cache.scan()):
            assert cache.unlink(stored)
            cache.usage.freed(stored.size)
        again = Cut(cut.number)
        await again.during(service)
        cut.made = cut.made or again.made
        await threads_ended()
        cache.recount()
        assert_nothing_left(cache, before)
        cache.close()

    assert await at_every_await(attempt) > len(MANY)


async def test_a_blob_that_no_store_has_is_missing_after_any_cut(
    tmp_path: Path, expected_output: ExpectOutput
) -> None:
    expected_output(r"^WARNING +aysfs\.fetch\.flights:.*has no blob.*$")
    case, store = CASES[0], MemoryStore()

    async def attempt(cut: Cut) -> None:
        cache = case.cache(tmp_path / str(cut.number))
        before = Traces.of(cache)

        async def failing(fetcher: Fetcher) -> None:
            with pytest.raises(BlobMissing):
                await read(fetcher, case)

        async def service() -> None:
            async with open_fetcher(cache, store) as fetcher:
                await failing(fetcher)

        async with open_fetcher(cache, store) as fetcher:
            await cut.during(lambda: failing(fetcher))
            await landed(fetcher)
            await failing(fetcher)
        again = Cut(cut.number)
        await again.during(service)
        cut.made = cut.made or again.made
        assert_nothing_left(cache, before)
        cache.close()

    assert await at_every_await(attempt) > 2


async def test_a_directory_store_cut_anywhere_writes_no_more(tmp_path: Path) -> None:
    size = 3 * AT_HAND
    data = os.urandom(size)
    digest = digests.of(data)
    path = tmp_path / "store" / blob(DEFAULT_NAMESPACE, digest)
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    store = DirectoryStore(tmp_path / "store")

    async def attempt(cut: Cut) -> None:
        cache = Cache(tmp_path / str(cut.number), Limits(keep_free=0))
        before = Traces.of(cache)
        insertion = cache.insertion(digest, size)
        await cut.during(lambda: store.get(digest, size, insertion))
        written = insertion.progress
        insertion.abort()
        await threads_ended(store._limiter)
        assert insertion.progress == written
        assert_nothing_left(cache, before)
        async with open_fetcher(cache, store) as fetcher:
            await fetcher.ensure(digest, size)
        assert_nothing_left(cache, before)
        cache.close()

    assert await at_every_await(attempt) >= 1


@pytest.mark.parametrize("size", [AT_HAND, 3 * AT_HAND], ids=["at-hand", "in-a-thread"])
async def test_a_service_over_a_directory_cut_anywhere_leaves_nothing(
    tmp_path: Path, size: int
) -> None:
    case = BlobCase("", os.urandom(size), CASES[0].prepare)
    path = tmp_path / "store" / blob(DEFAULT_NAMESPACE, case.digest)
    path.parent.mkdir(parents=True)
    path.write_bytes(case.data)
    store = DirectoryStore(tmp_path / "store")

    async def attempt(cut: Cut) -> None:
        cache = case.cache(tmp_path / str(cut.number))
        before = Traces.of(cache)

        async def service() -> None:
            async with open_fetcher(cache, store) as fetcher:
                await read(fetcher, case)

        await cut.during(service)
        await threads_ended(store._limiter)
        assert_nothing_left(cache, before)
        async with open_fetcher(cache, store) as fetcher:
            assert await read(fetcher, case) == case.data
        cache.close()

    assert await at_every_await(attempt) > 2


async def test_a_thread_that_outlives_its_cache_touches_no_descriptor_of_others(
    tmp_path: Path,
) -> None:
    """An abandoned thread finds an entry corrupt when the cache is closed, its numbers reused."""
    case = next(case for case in CASES if case.name == "small-corrupt")
    cache, store = case.cache(tmp_path / "cache"), case.store()
    others: list[int] = []
    with held_back(cache.path(case.digest)) as somebody_waits:
        with trio.CancelScope() as scope:
            async with open_fetcher(cache, store) as fetcher, trio.open_nursery() as nursery:
                nursery.start_soon(fetcher.ensure, case.digest, len(case.data))
                await wait_all_tasks_blocked()
                somebody_waits()
                scope.cancel()
        cache.close()
        for number in range(10):
            other = os.open(tmp_path / f"other{number}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
            others.append(other)
            os.write(other, b"precious" * 2)
    await threads_ended()
    for other in others:
        assert os.pread(other, 100, 0) == b"precious" * 2
        os.close(other)


def test_an_entry_put_right_meanwhile_is_not_quarantined(tmp_path: Path) -> None:
    """Two hash one corrupt entry, and the second to finish finds the other's good one there."""
    case = next(case for case in CASES if case.name == "small-corrupt")
    cache = case.cache(tmp_path / "cache")
    with held_back(cache.path(case.digest)) as somebody_waits:
        slow = threading.Thread(target=cache.revalidate, args=(case.digest, len(case.data)))
        slow.start()
        somebody_waits()
        insert(cache, case.data)
    slow.join()
    assert cache.has(case.digest, len(case.data))
    cache.close()
