"""Blobs out of packs: each verified, and none asked for twice, on demand and ahead."""

import os
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from aysfs import digest as digests
from aysfs.cache.blobs import Cache
from aysfs.digest import Digest
from aysfs.fetch.ahead import Ahead
from aysfs.fetch.carry import Outcome
from aysfs.fetch.fetcher import open_fetcher
from aysfs.fetch.segment import part
from aysfs.limits import Limits
from aysfs.store.faults import Counts, Passes
from aysfs.store.memory import MemoryStore
from aysfs.store.protocol import Sink
from tests.cancelling import (
    Cut,
    Traces,
    assert_nothing_left,
    at_every_await,
    threads_ended,
)
from tests.packing import many, packed
from tests.t3_fetch.carrying import ROOMY, asked_bytes, follow, has, read, read_all, serving

# --- on demand ---------------------------------------------------------------------------


async def test_a_miss_brings_its_neighbours_by_two_requests(tmp_path: Path, no_leaks: None) -> None:
    data, memory = many(40), MemoryStore()
    index = packed(memory, [data])
    store = Counts(memory)
    async with serving(tmp_path, store, index) as fetcher:
        await read_all(fetcher, data[5:20])
        while fetcher.in_flight():
            await trio.lowlevel.checkpoint()
        assert len(store.ranges) == 2  # what follows, and what is before
        assert store.calls["get"] == 0
        assert all(has(fetcher, one) for one in data)


async def test_readers_of_neighbours_share_a_flight_and_no_byte_is_asked_for_twice(
    tmp_path: Path, no_leaks: None
) -> None:
    data, memory = many(200), MemoryStore()
    index = packed(memory, [data])
    store = Counts(memory)
    async with serving(tmp_path, store, index) as fetcher:
        async with trio.open_nursery() as nursery:
            for part in (data[::2], data[1::2], data[50:], data[::-1]):
                nursery.start_soon(read_all, fetcher, part)
        assert max(asked_bytes(store, index)) == 1
        assert store.calls["get"] == 0


async def test_a_miss_comes_alone_while_everything_comes_quickly(
    tmp_path: Path, no_leaks: None
) -> None:
    data, memory = many(2000), MemoryStore()
    index = packed(memory, [data])
    store = Counts(memory)
    async with serving(tmp_path, store, index) as fetcher:
        await read_all(fetcher, data[500:501])
        while fetcher.in_flight():
            await wait_all_tasks_blocked(0.001)  # threads are at work
        assert has(fetcher, data[499])
        assert has(fetcher, data[501])
        before = len(store.ranges)
        with fetcher.crew.all_comes(index):
            await read_all(fetcher, data[1500:1501])
            while fetcher.in_flight():
                await wait_all_tasks_blocked(0.001)  # threads are at work
        assert len(store.ranges) == before + 1
        assert not has(fetcher, data[1499])
        assert not has(fetcher, data[1501])


async def test_a_blob_in_no_pack_comes_alone(tmp_path: Path, no_leaks: None) -> None:
    data, memory = many(3), MemoryStore()
    index = packed(memory, [data[:2]])
    memory.add(data[2])
    store = Counts(memory)
    async with serving(tmp_path, store, index) as fetcher:
        await read_all(fetcher, data[2:])
        assert store.gets == {digests.of(data[2]): 1}
        assert store.ranges == []


async def test_a_large_blob_of_a_pack_comes_whole(tmp_path: Path, no_leaks: None) -> None:
    large = os.urandom(9 << 20)  # its frame does not fit what is held in memory
    memory = MemoryStore()
    index = packed(memory, [[b"small", large, b"behind"]])
    async with serving(tmp_path, Counts(memory), index) as fetcher:
        await read_all(fetcher, [large, b"small", b"behind"])


# --- ahead -------------------------------------------------------------------------------


async def test_a_course_brings_everything_once(tmp_path: Path, no_leaks: None) -> None:
    data, memory = many(400), MemoryStore()
    index = packed(memory, [data])
    store = Counts(memory)
    async with serving(tmp_path, store, index) as fetcher:
        going = await follow(fetcher, index)
        assert (going.state, going.done) == ("done", going.total)
        assert all(has(fetcher, one) for one in data)
        assert max(asked_bytes(store, index)) == 1
        before = list(store.ranges)
        await follow(fetcher, index)
        await read_all(fetcher, data)
        assert store.ranges == before
        assert store.calls["get"] == 0


async def test_readers_beside_a_course_cost_no_byte_twice(tmp_path: Path, no_leaks: None) -> None:
    data, memory = many(400), MemoryStore()
    index = packed(memory, [data])
    store = Counts(memory)
    async with serving(tmp_path, store, index) as fetcher, trio.open_nursery() as nursery:
        nursery.start_soon(follow, fetcher, index)
        nursery.start_soon(read_all, fetcher, data[::-3])
        nursery.start_soon(read_all, fetcher, data[7::5])
    assert max(asked_bytes(store, index)) == 1
    assert store.calls["get"] == 0


async def test_a_reader_whose_blob_is_fetched_ahead_waits_for_that(
    tmp_path: Path, no_leaks: None
) -> None:
    data, memory = many(10), MemoryStore()
    index = packed(memory, [data])
    gate = trio.Event()

    class Slow(Passes):
        async def get_range(
            self, digest: Digest, size: int, start: int, length: int, sink: Sink
        ) -> None:
            await gate.wait()
            await super().get_range(digest, size, start, length, sink)

    store = Counts(Slow(memory))
    async with serving(tmp_path, store, index) as fetcher, trio.open_nursery() as nursery:
        nursery.start_soon(follow, fetcher, index)
        await wait_all_tasks_blocked()
        nursery.start_soon(read_all, fetcher, data[3:4])
        await wait_all_tasks_blocked()
        waited = [one for one in fetcher.in_flight() if one.waiting]
        assert [one.digest for one in waited] == [digests.of(data[3])]
        assert waited[0].why == "a test"
        gate.set()
    assert len(store.ranges) == 1


async def test_who_waits_for_a_blob_of_a_pack_sees_how_far_it_is(
    tmp_path: Path, no_leaks: None
) -> None:
    small, large = many(2, 3_000_000)
    memory = MemoryStore()
    index = packed(memory, [[small, large]])
    go_on = trio.Event()

    class Halfway(Passes):
        async def get_range(
            self, digest: Digest, size: int, start: int, length: int, sink: Sink
        ) -> None:
            data = memory.blobs[digest][start : start + length]
            sink.write(data[: length * 3 // 4])
            await go_on.wait()
            sink.write(data[length * 3 // 4 :])

    segment = part(index, index.packs[0], 0, 2)
    async with serving(tmp_path, Halfway(memory), index) as fetcher, trio.open_nursery() as nursery:
        nursery.start_soon(fetcher.crew.carry, segment, "a test")
        await wait_all_tasks_blocked()
        nursery.start_soon(read_all, fetcher, [large])
        await wait_all_tasks_blocked()
        (waited,) = [one for one in fetcher.in_flight() if one.waiting]
        assert waited.here == pytest.approx(len(large) / 2, rel=0.01)
        go_on.set()


async def test_what_is_fetched_ahead_evicts_nothing_and_ends_when_the_cache_is_full(
    tmp_path: Path, no_leaks: None
) -> None:
    data, memory = many(100, 4096), MemoryStore()
    index = packed(memory, [data])
    for one in [b"older", *data]:
        memory.add(one)
    async with serving(
        tmp_path, Counts(memory), index, limits=Limits(size=40 * 4096, keep_free=0)
    ) as fetcher:
        await read_all(fetcher, [b"older"])
        going = await follow(fetcher, index)
        assert going.state == Outcome.FULL.value
        assert has(fetcher, b"older")
        assert 0 < sum(has(fetcher, one) for one in data) < 40
        # Who reads has room made: each comes, alone or with others.
        await read_all(fetcher, data[60:70])


async def test_a_blob_that_is_too_large_for_the_cache_does_not_keep_others_out(
    tmp_path: Path, no_leaks: None
) -> None:
    data, large = many(5), os.urandom(8 << 20)
    memory = MemoryStore()
    index = packed(memory, [[data[0], large, *data[1:]]])
    limits = Limits(size=4 << 20, keep_free=0)
    async with serving(tmp_path, memory, index, limits=limits) as fetcher:
        going = await follow(fetcher, index)
        assert all(has(fetcher, one) for one in data)
        assert going.state == "done, but for what is lost"
        assert going.lost >= len(large)


async def test_one_request_at_a_time_while_a_reader_waits_for_something_else(
    tmp_path: Path, no_leaks: None
) -> None:
    data, memory = many(400), MemoryStore()
    index = packed(memory, [data])
    wanted = memory.add(b"wanted")
    gate = trio.Event()
    under_way: list[int] = [0]

    class Slow(Passes):
        async def get(self, digest: Digest, size: int, sink: Sink) -> None:
            await gate.wait()
            await super().get(digest, size, sink)

        async def get_range(
            self, digest: Digest, size: int, start: int, length: int, sink: Sink
        ) -> None:
            under_way.append(under_way[-1] + 1)
            for _ in range(50):
                await trio.lowlevel.checkpoint()
            await super().get_range(digest, size, start, length, sink)
            under_way.append(under_way[-1] - 1)

    async with serving(tmp_path, Slow(memory), index) as fetcher, trio.open_nursery() as nursery:
        nursery.start_soon(fetcher.ensure, wanted, 6, "a test", os.getpid())
        await wait_all_tasks_blocked()
        nursery.start_soon(follow, fetcher, index)
        while not all(has(fetcher, one) for one in data):
            await trio.lowlevel.checkpoint()
        assert max(under_way) == 1
        gate.set()
    for one in data:
        os.unlink(fetcher.cache.path(digests.of(one)))
    async with serving(tmp_path, Slow(memory), index) as fetcher:
        await follow(fetcher, index)
    assert max(under_way) == 4


async def test_the_rate_is_held(tmp_path: Path, no_leaks: None, mock_clock: MockClock) -> None:
    mock_clock.autojump_threshold = 0.01
    data, memory = many(400), MemoryStore()
    index = packed(memory, [data])
    rate = 50_000
    async with serving(tmp_path, Counts(memory), index) as fetcher:
        begun = trio.current_time()
        await follow(fetcher, index, Ahead(fetcher, rate=rate))
        seconds = trio.current_time() - begun
    assert 0.9 < index.packs[0].size / rate / seconds < 1.1


async def test_the_rate_is_held_within_one_blob_too(
    tmp_path: Path, no_leaks: None, mock_clock: MockClock
) -> None:
    mock_clock.autojump_threshold = 0.01
    blob = os.urandom(30_000)  # not so large that a thread takes it in: it has no mocked clock
    memory = MemoryStore()
    index = packed(memory, [[b"small", blob]])
    store = Counts(memory)
    async with serving(tmp_path, store, index) as fetcher:
        begun = trio.current_time()
        await follow(fetcher, index, Ahead(fetcher, rate=3000))
        seconds = trio.current_time() - begun
        assert 0.9 < len(blob) / 3000 / seconds < 1.1
        assert max(length for _, _, length in store.ranges) <= 3000 // 4
        assert max(asked_bytes(store, index)) == 1
        assert await read(fetcher, blob) == blob


async def test_no_rate_holds_for_who_waits(
    tmp_path: Path, no_leaks: None, mock_clock: MockClock
) -> None:
    mock_clock.autojump_threshold = 0.01
    blob = os.urandom(30_000)
    memory = MemoryStore()
    index = packed(memory, [[b"small", blob]])
    async with serving(tmp_path, memory, index) as fetcher, trio.open_nursery() as nursery:
        nursery.start_soon(follow, fetcher, index, Ahead(fetcher, rate=300))
        await trio.sleep(5)
        begun = trio.current_time()
        assert await read(fetcher, blob) == blob
        assert trio.current_time() - begun < 2


# --- cut anywhere ------------------------------------------------------------------------


async def test_a_course_cut_anywhere_leaves_nothing(tmp_path: Path) -> None:
    data, memory = many(60), MemoryStore()
    index = packed(memory, [data[:30], data[30:]])

    async def attempt(cut: Cut) -> None:
        cache = Cache(tmp_path / str(cut.number), ROOMY)
        before = Traces.of(cache)
        async with open_fetcher(cache, Counts(memory)) as fetcher:
            fetcher.crew.packs.add(index)

            async def go() -> None:
                await follow(fetcher, index)

            await cut.during(go)
            assert fetcher.in_flight() == []
            await threads_ended()
            assert_nothing_left(cache, before)
            await read_all(fetcher, data)
        cache.close()

    assert await at_every_await(attempt) > 5


async def test_a_reader_of_a_pack_cut_anywhere_leaves_and_its_segment_lands(
    tmp_path: Path,
) -> None:
    data, memory = many(8), MemoryStore()
    index = packed(memory, [data])

    async def attempt(cut: Cut) -> None:
        cache = Cache(tmp_path / str(cut.number), ROOMY)
        before = Traces.of(cache)
        async with open_fetcher(cache, Counts(memory)) as fetcher:
            fetcher.crew.packs.add(index)

            async def go() -> None:
                assert await read(fetcher, data[2]) == data[2]

            await cut.during(go)
            while fetcher.in_flight():
                await trio.lowlevel.checkpoint()
            await threads_ended()
            assert_nothing_left(cache, before)
            await read_all(fetcher, data)
        cache.close()

    assert await at_every_await(attempt) > 3


async def test_a_service_that_ends_under_a_segment_leaves_nothing(tmp_path: Path) -> None:
    data, memory = many(8), MemoryStore()
    index = packed(memory, [data])

    async def attempt(cut: Cut) -> None:
        cache = Cache(tmp_path / str(cut.number), ROOMY)
        before = Traces.of(cache)

        async def go() -> None:
            async with open_fetcher(cache, Counts(memory)) as fetcher:
                fetcher.crew.packs.add(index)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(follow, fetcher, index)
                    nursery.start_soon(read_all, fetcher, data[::-1])

        await cut.during(go)
        await threads_ended()
        assert_nothing_left(cache, before)
        cache.close()

    assert await at_every_await(attempt) > 5
