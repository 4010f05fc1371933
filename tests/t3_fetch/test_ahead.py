"""Fetching ahead, where it could harm those who read: it lets them run, and takes nothing away."""

import os
import resource
import time
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from aysfs import digest as digests
from aysfs.digest import Digest
from aysfs.fetch.ahead import Ahead, Going
from aysfs.fetch.carry import Outcome
from aysfs.fetch.fetcher import Fetcher
from aysfs.fetch.flights import Flights
from aysfs.fetch.modes import ALL, PACKS, PROFILE
from aysfs.fetch.prefetch import Prefetch, Seen
from aysfs.limits import Limits
from aysfs.names import parse_name
from aysfs.pack.index import PackIndex
from aysfs.store.faults import Counts, Passes, Vanishes
from aysfs.store.memory import MemoryStore
from aysfs.store.protocol import Held, Sink, Store
from aysfs.tree import Blob
from tests.packing import many, pack_of, packed, publish
from tests.t3_fetch.carrying import follow, has, read_all, serving


class Near(Passes):
    """A store that has everything at hand, as one on a local disk has what is small."""

    def __init__(self, memory: MemoryStore) -> None:
        super().__init__(memory)
        self._memory = memory

    def at_hand(self, digest: Digest, size: int) -> bytes | None:
        return self._memory.blobs.get(digest)


class AfterAWhile(Passes):
    """Gives nothing before others have had some turns."""

    async def get(self, digest: Digest, size: int, sink: Sink) -> None:
        for _ in range(20):
            await trio.lowlevel.checkpoint()
        await super().get(digest, size, sink)


async def fetch_singly(fetcher: Fetcher, data: list[bytes]) -> Going:
    going = Going("a test")
    blobs = iter([Blob(digests.of(one), len(one)) for one in data])
    await Ahead(fetcher).fetch_singly(blobs, going)
    return going


async def test_what_a_store_has_at_hand_is_fetched_ahead_in_turns_with_others(
    tmp_path: Path, no_leaks: None
) -> None:
    data, memory = many(400), MemoryStore()
    for one in data:
        memory.add(one)
    turns = 0

    async def others(scope: trio.CancelScope) -> None:
        nonlocal turns
        with scope:
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

    async with serving(tmp_path, Near(memory)) as fetcher, trio.open_nursery() as nursery:
        scope = trio.CancelScope()
        nursery.start_soon(others, scope)
        await fetch_singly(fetcher, data)
        scope.cancel()
        assert all(has(fetcher, one) for one in data)
    assert turns > 90  # four of them in turns


async def test_what_is_fetched_ahead_singly_evicts_nothing(tmp_path: Path, no_leaks: None) -> None:
    data, memory = many(100, 4096), MemoryStore()
    for one in [b"older", *data]:
        memory.add(one)
    limits = Limits(size=40 * 4096, keep_free=0)
    async with serving(tmp_path, AfterAWhile(memory), limits=limits) as fetcher:
        await read_all(fetcher, [b"older"])
        going = await fetch_singly(fetcher, data)
        while fetcher.in_flight():
            await trio.lowlevel.checkpoint()
        assert going.state == Outcome.FULL.value
        assert has(fetcher, b"older")
        assert 30 < sum(has(fetcher, one) for one in data) < 40
        await read_all(fetcher, data[60:70])  # who reads has room made


# --- many small ones in a pack -----------------------------------------------------------


class Drips(Passes):
    """Gives one blob byte by byte, until it is told to go on."""

    def __init__(self, inner: MemoryStore, slow: Digest) -> None:
        super().__init__(inner)
        self.go_on = trio.Event()
        self._slow = slow

    async def get(self, digest: Digest, size: int, sink: Sink) -> None:
        if digest != self._slow:
            await super().get(digest, size, sink)
            return
        data = await self._bytes(digest, size)
        for at in range(size):
            with trio.move_on_after(0.02):
                await self.go_on.wait()
            sink.write(data[at : at + 1])


async def carry_all(fetcher: Fetcher, index: PackIndex) -> None:
    """Bring all that one segment may have."""
    crew = fetcher.crew
    course = crew.packs.course(index, start_pack_only=False, wanted=crew.is_wanted)
    segment = course.next(1 << 20)
    assert segment is not None
    await crew.carry(segment, "a test")


async def test_who_waits_for_the_first_of_many_does_not_wait_for_the_last(
    tmp_path: Path, no_leaks: None
) -> None:
    data, memory = many(1000, 16), MemoryStore()
    index = packed(memory, [data])
    async with serving(tmp_path, Near(memory), index) as fetcher, trio.open_nursery() as nursery:
        nursery.start_soon(carry_all, fetcher, index)
        while not fetcher.in_flight():
            await trio.lowlevel.checkpoint()
        await read_all(fetcher, data[:1])
        assert sum(has(fetcher, one) for one in data) < 200


async def test_making_way_for_readers_neither_holds_the_event_loop_nor_looks_like_a_stall(
    tmp_path: Path, no_leaks: None
) -> None:
    data, memory = many(1000, 16), MemoryStore()
    index = packed(memory, [data])
    wanted = memory.add(bytes(1000))
    store = Drips(memory, wanted)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while not store.go_on.is_set():
            await trio.lowlevel.checkpoint()
            turns += 1

    async with serving(tmp_path, store, index, deadline=0.4) as fetcher:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetcher.ensure, wanted, 1000, "a test", os.getpid())
            await wait_all_tasks_blocked()
            nursery.start_soon(others)
            begun = time.monotonic()
            nursery.start_soon(carry_all, fetcher, index)
            await trio.lowlevel.checkpoint()
            await read_all(fetcher, data[-1:])
            assert time.monotonic() - begun > 0.8  # each of them made way
            store.go_on.set()
        assert all(has(fetcher, one) for one in data)
    assert turns > 1000


# --- trouble -----------------------------------------------------------------------------


async def test_who_waits_for_all_of_it_is_not_kept_waiting_by_a_store_that_is_gone(
    tmp_path: Path, no_leaks: None, mock_clock: MockClock
) -> None:
    mock_clock.autojump_threshold = 0.01
    memory = MemoryStore()
    index = packed(memory, [many(40)])
    store = Vanishes(memory)
    store.gone = True
    async with serving(tmp_path, store, index) as fetcher:
        with trio.fail_after(120):
            going = await follow(fetcher, index, Ahead(fetcher, polite=False))
        assert going.state == Outcome.TROUBLE.value


async def test_a_disk_that_is_full_ends_fetching_ahead(tmp_path: Path, no_leaks: None) -> None:
    memory = MemoryStore()
    index = packed(memory, [[os.urandom(9 << 20)]])  # more than is held in memory
    store = Counts(memory)
    async with serving(tmp_path, store, index) as fetcher:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
        try:
            with trio.fail_after(20):
                going = await follow(fetcher, index)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert going.state == Outcome.FULL.value
        assert len(store.ranges) == 1


async def test_a_cache_that_cannot_be_written_is_not_blamed_on_a_pack(
    tmp_path: Path, no_leaks: None
) -> None:
    data, memory = many(20), MemoryStore()
    index = packed(memory, [data[:10], data[10:]])

    class OutOfDescriptors(Passes):
        async def get_range(
            self, digest: Digest, size: int, start: int, length: int, sink: Sink
        ) -> None:
            before = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
            try:
                await super().get_range(digest, size, start, length, sink)
                await wait_all_tasks_blocked()
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, before)

    async with serving(tmp_path, memory, index) as fetcher:
        await follow(fetcher, PackIndex.join([pack_of(data[:10])[0]], has_start=False))
    async with serving(tmp_path, OutOfDescriptors(memory), index) as fetcher:
        crew = fetcher.crew
        fetcher.cache.usage.reserve(1 << 20)  # room that needs no look at who else has some
        fetcher.cache.usage.release(1 << 20)
        course = crew.packs.course(index, start_pack_only=False, wanted=crew.is_wanted)
        segment = course.next(1 << 20)
        assert segment is not None
        carried = await crew.carry(segment, "a test")
        assert carried.outcome is Outcome.UNUSABLE
        assert crew.packs.is_trusted(segment.pack)


async def test_a_blob_that_a_pack_has_twice_is_taken_in_once(
    tmp_path: Path, no_leaks: None
) -> None:
    data, memory = many(3), MemoryStore()
    index = packed(memory, [[data[0], data[1], data[0], data[2]]])
    async with serving(tmp_path, memory, index) as fetcher, trio.open_nursery() as nursery:
        nursery.start_soon(carry_all, fetcher, index)
        while not fetcher.in_flight():
            await trio.lowlevel.checkpoint()
        await read_all(fetcher, data)
        assert fetcher.counters.fetched == 3


async def test_what_is_wrong_with_a_neighbour_in_the_cache_fails_no_reader(
    tmp_path: Path, no_leaks: None
) -> None:
    data, memory = many(8), MemoryStore()
    index = packed(memory, [data])
    async with serving(tmp_path, memory, index) as fetcher:
        place = Path(fetcher.cache.path(digests.of(data[3]))).parent
        assert not Path(fetcher.cache.path(digests.of(data[2]))).is_relative_to(place)
        place.parent.mkdir(exist_ok=True)
        place.touch()  # no directory
        await read_all(fetcher, data[2:3])


async def test_packs_of_another_list_are_not_used_however_late_that_is_known(
    tmp_path: Path, no_leaks: None
) -> None:
    data, memory, name = many(40), MemoryStore(), parse_name("a__b")
    index = await publish(memory, name, [data], list_sha256="0" * 64)

    class TellsInTheMiddle(Passes):
        """The list arrives together with the last byte of the index."""

        async def get(self, digest: Digest, size: int, sink: Sink) -> None:
            await super().get(digest, size, sink)
            prefetch.shows(Seen(["1" * 64], lambda: iter(())))

    store = Counts(TellsInTheMiddle(memory))
    async with serving(tmp_path, store) as fetcher, trio.open_nursery() as nursery:
        prefetch = Prefetch(fetcher, ALL, polite=False)
        nursery.start_soon(prefetch.run, [name])
        await prefetch.until_packs_are_done(lambda _done, _size: None)
        assert fetcher.crew.packs.around(*_first(index), fetcher.crew.is_wanted) is None
        assert store.ranges == []
        nursery.cancel_scope.cancel()


async def test_who_waits_for_all_of_it_does_not_wait_for_the_list_first(
    tmp_path: Path, no_leaks: None
) -> None:
    data, memory, name = many(40), MemoryStore(), parse_name("a__b")
    await publish(memory, name, [data], list_sha256="0" * 64)
    async with serving(tmp_path, memory) as fetcher, trio.open_nursery() as nursery:
        prefetch = Prefetch(fetcher, ALL, polite=False)
        nursery.start_soon(prefetch.run, [name])
        while not all(has(fetcher, one) for one in data):
            await trio.lowlevel.checkpoint()
        prefetch.shows(Seen(["0" * 64], lambda: iter(())))
        await prefetch.until_packs_are_done(lambda _done, _size: None)
        nursery.cancel_scope.cancel()


async def test_what_makes_way_for_readers_waits_for_the_list(
    tmp_path: Path, no_leaks: None
) -> None:
    """Which is on the same line, and which a mount waits for."""
    data, memory, name = many(40), MemoryStore(), parse_name("a__b")
    await publish(memory, name, [data], list_sha256="0" * 64)
    async with serving(tmp_path, memory) as fetcher, trio.open_nursery() as nursery:
        prefetch = Prefetch(fetcher, ALL)
        nursery.start_soon(prefetch.run, [name])
        while not fetcher.crew.packs._indexes:
            await trio.lowlevel.checkpoint()
        await wait_all_tasks_blocked()
        assert not any(has(fetcher, one) for one in data)
        prefetch.shows(Seen(["0" * 64], lambda: iter(())))
        await prefetch.until_packs_are_done(lambda _done, _size: None)
        assert all(has(fetcher, one) for one in data)
        nursery.cancel_scope.cancel()


async def test_what_is_fetched_of_another_list_ends_when_that_is_known(
    tmp_path: Path, no_leaks: None
) -> None:
    data, memory, name = many(40), MemoryStore(), parse_name("a__b")
    await publish(memory, name, [data], list_sha256="0" * 64)

    class Endless(Passes):
        async def get_range(
            self, digest: Digest, size: int, start: int, length: int, sink: Sink
        ) -> None:
            asked.set()
            await trio.sleep_forever()

    asked = trio.Event()
    async with serving(tmp_path, Endless(memory)) as fetcher, trio.open_nursery() as nursery:
        prefetch = Prefetch(fetcher, ALL, polite=False)
        nursery.start_soon(prefetch.run, [name])
        await asked.wait()
        prefetch.shows(Seen(["1" * 64], lambda: iter(())))
        await prefetch.until_packs_are_done(lambda _done, _size: None)
        assert fetcher.crew.packs._indexes == []
        nursery.cancel_scope.cancel()


def _first(index: PackIndex) -> tuple[Digest, int]:
    return index.digest(0), index.size(0)


@pytest.mark.parametrize("has_start", [False, True], ids=["index", "head of the start pack"])
async def test_a_long_index_is_sorted_where_nobody_waits_for_it(
    tmp_path: Path, no_leaks: None, has_start: bool
) -> None:
    """The first blob that is looked for would else hold the event loop: half a second a million."""
    memory, name = MemoryStore(), parse_name("a__b")
    await publish(memory, name, [many(5)], has_start=has_start, list_sha256="0" * 64)

    class NoIndex(Passes):
        async def get(self, digest: Digest, size: int, sink: Sink) -> None:
            await trio.sleep_forever()

    store = NoIndex(memory) if has_start else Passes(memory)
    async with serving(tmp_path, store) as fetcher, trio.open_nursery() as nursery:
        prefetch = Prefetch(fetcher, PROFILE if has_start else PACKS)
        nursery.start_soon(prefetch.run, [name])
        while not (indexes := fetcher.crew.packs._indexes):
            await trio.lowlevel.checkpoint()
        assert "_sorted" in vars(indexes[0])  # before anybody could look for a blob
        nursery.cancel_scope.cancel()


# --- a slow line -------------------------------------------------------------------------


class Narrow(Passes):
    """Answers so many requests at once, as a store over SSH does, and each takes its time."""

    def __init__(self, inner: Store, channels: int) -> None:
        super().__init__(inner)
        self.waited = 0
        self._channels = trio.CapacityLimiter(channels)

    async def get(self, digest: Digest, size: int, sink: Sink) -> None:
        await self._drip(await self._bytes(digest, size), sink)

    async def get_range(
        self, digest: Digest, size: int, start: int, length: int, sink: Sink
    ) -> None:
        held = Held()
        await super().get_range(digest, size, start, length, held)
        await self._drip(held.getvalue(), sink)

    async def _drip(self, data: bytes, sink: Sink) -> None:
        self.waited += not self._channels.available_tokens
        async with self._channels:
            step = max(1, len(data) // 100)
            for at in range(0, len(data), step):
                await trio.sleep(1)
                sink.write(data[at : at + step])


async def test_what_is_fetched_ahead_over_a_slow_line_makes_no_reader_look_stalled(
    tmp_path: Path, no_leaks: None, mock_clock: MockClock
) -> None:
    mock_clock.autojump_threshold = 0.01
    memory = MemoryStore()
    parts = [[os.urandom(400_000), b"read %d" % one, os.urandom(400_000)] for one in range(8)]
    index = packed(memory, parts)
    alone = os.urandom(1000)
    memory.add(alone)
    store = Narrow(memory, 8)
    async with (
        serving(tmp_path, store, index, parallel=8) as fetcher,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(follow, fetcher, index)
        await trio.sleep(0.5)
        for part in parts[4:]:  # what is beside each is fetched as well
            nursery.start_soon(read_all, fetcher, part[1:2])
        await trio.sleep(5)
        await read_all(fetcher, [alone])
        await trio.sleep(2000)  # all of it has come
        assert not fetcher.in_flight()
    assert store.waited == 0


async def test_who_waited_for_what_is_fetched_ahead_is_given_no_moment(
    autojump_clock: MockClock,
) -> None:
    flights = Flights(60, "a test", 16)
    flight = flights.wanted(digests.of(b"a"), 1, "a test")
    flight.ahead = True
    await trio.sleep(1)
    with trio.move_on_after(1):
        await flights.landed(flight, 1)
    ended = trio.current_time()
    await flights.calm()
    assert trio.current_time() == ended
