"""Blobs out of packs: each verified, none asked for twice, and whatever a pack is, none lost."""

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from aysfs import digest as digests
from aysfs.cache.blobs import Cache
from aysfs.digest import Digest
from aysfs.errors import BlobMissing, NoSpace
from aysfs.fetch.ahead import Ahead, Going
from aysfs.fetch.carry import Outcome
from aysfs.fetch.fetcher import Fetcher, open_fetcher
from aysfs.limits import DEADLINE, Limits
from aysfs.pack.format import Columns, Entry
from aysfs.pack.frame import compress
from aysfs.pack.index import Pack, PackIndex
from aysfs.store.faults import (
    AnswersAnother,
    Counts,
    FlipsLastByte,
    Passes,
    Truncates,
    Vanishes,
    WithoutRanges,
)
from aysfs.store.memory import MemoryStore
from aysfs.store.protocol import Sink, Store
from tests.cancelling import (
    Cut,
    Traces,
    assert_nothing_left,
    at_every_await,
    threads_ended,
)
from tests.conftest import ExpectOutput
from tests.packing import many, pack_of, packed

ROOMY = Limits(size=1 << 30, keep_free=0)
_NOT_USED = r"^WARNING +aysfs\.fetch\.crew:.*is not used.*$"


@asynccontextmanager
async def serving(
    tmp_path: Path,
    store: Store,
    *indexes: PackIndex,
    limits: Limits = ROOMY,
    deadline: float = DEADLINE,
    parallel: int = 16,
) -> AsyncIterator[Fetcher]:
    cache = Cache(tmp_path / "cache", limits)
    try:
        async with open_fetcher(cache, store, deadline=deadline, parallel=parallel) as fetcher:
            for index in indexes:
                fetcher.crew.packs.add(index)
            yield fetcher
            while fetcher.in_flight():  # neighbours of what was read
                await trio.lowlevel.checkpoint()
            left = set(os.listdir(cache.usage.directory))
            assert left <= {"alive", "reserved", "synced"}
    finally:
        cache.close()


async def read(fetcher: Fetcher, data: bytes) -> bytes:
    with os.fdopen(await fetcher.open(digests.of(data), len(data), "a test"), "rb") as file:
        return file.read()


async def read_all(fetcher: Fetcher, blobs: Sequence[bytes]) -> None:
    for one in blobs:
        assert await read(fetcher, one) == one


def has(fetcher: Fetcher, data: bytes) -> bool:
    return fetcher.cache.has(digests.of(data), len(data))


async def follow(fetcher: Fetcher, index: PackIndex, ahead: Ahead | None = None) -> Going:
    crew, going = fetcher.crew, Going("a test")
    course = crew.packs.course(index, start_pack_only=False, wanted=crew.is_wanted)
    await (ahead or Ahead(fetcher)).follow(course, going)
    return going


def asked_bytes(store: Counts, index: PackIndex) -> list[int]:
    """How often each stored byte of the first pack was asked for."""
    counts = [0] * index.packs[0].size
    for digest, start, length in store.ranges:
        assert digest == index.packs[0].digest
        for at in range(start, start + length):
            counts[at] += 1
    return counts


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


# --- faults ------------------------------------------------------------------------------


class SpoilsParts(Passes):
    """The parts of packs come through a store that has a fault, the blobs through a good one."""

    def __init__(self, good: Store, bad: Store) -> None:
        super().__init__(good)
        self._bad = bad

    async def get_range(
        self, digest: Digest, size: int, start: int, length: int, sink: Sink
    ) -> None:
        await self._bad.get_range(digest, size, start, length, sink)


@pytest.mark.parametrize(
    "spoil",
    [FlipsLastByte, lambda store: Truncates(store, 100), lambda store: AnswersAnother(store, b"x")],
    ids=["altered", "truncated", "another"],
)
@pytest.mark.parametrize("ahead", [False, True], ids=["on-demand", "ahead"])
async def test_a_pack_whose_bytes_are_wrong_costs_no_blob(
    tmp_path: Path, no_leaks: None, spoil: type, ahead: bool, expected_output: ExpectOutput
) -> None:
    expected_output(_NOT_USED)
    data, memory = many(40), MemoryStore()
    index = packed(memory, [data])
    for one in data:
        memory.add(one)
    async with serving(tmp_path, SpoilsParts(memory, spoil(memory)), index) as fetcher:
        if ahead:
            await follow(fetcher, index)
        await read_all(fetcher, data)


async def test_a_missing_pack_costs_no_blob(
    tmp_path: Path, no_leaks: None, expected_output: ExpectOutput
) -> None:
    expected_output(_NOT_USED)
    data, memory = many(40), MemoryStore()
    index = packed(memory, [data])
    for one in data:
        memory.add(one)
    del memory.blobs[index.packs[0].digest]
    store = Counts(memory)
    async with serving(tmp_path, store, index) as fetcher:
        await read_all(fetcher, data)
        assert len(store.ranges) == 1


@pytest.mark.parametrize("kind", ["swapped", "bomb", "no frame", "short"])
async def test_a_lying_index_or_frame_costs_no_blob(
    tmp_path: Path, no_leaks: None, kind: str, expected_output: ExpectOutput
) -> None:
    """The index is consistent, and what it says of some frames is wrong."""
    expected_output(_NOT_USED)
    data = many(6)
    frames = [compress(one) for one in data]
    frames[2] = {
        "swapped": compress(data[3]),
        "bomb": compress(bytes(50 << 20)),
        "no frame": b"no frame at all",
        "short": compress(data[2][:-1]),
    }[kind]
    pack, packed_bytes = pack_of(data, frames)
    memory = MemoryStore()
    memory.add(packed_bytes)
    for one in data:
        memory.add(one)
    index = PackIndex.join([pack], has_start=False)
    store = Counts(memory)
    async with serving(tmp_path, store, index) as fetcher:
        await read_all(fetcher, data)
        assert store.gets[digests.of(data[2])] == 1


async def test_an_index_that_names_other_sizes_costs_no_blob(
    tmp_path: Path, no_leaks: None, expected_output: ExpectOutput
) -> None:
    expected_output(_NOT_USED)
    data = many(4)
    frames = [compress(one) for one in data]
    entries = Columns(
        Entry(digests.of(blob), len(blob) - (number == 1), len(frame))
        for number, (blob, frame) in enumerate(zip(data, frames, strict=True))
    )
    _, pack_bytes = pack_of(data)
    memory = MemoryStore()
    memory.add(pack_bytes)
    for one in data:
        memory.add(one)
    index = PackIndex.join(
        [Pack(digests.of(pack_bytes), len(pack_bytes), entries)], has_start=False
    )
    async with serving(tmp_path, memory, index) as fetcher:
        going = await follow(fetcher, index)
        assert going.state == "done, but for what is lost"
        await read_all(fetcher, data)


@pytest.mark.parametrize("ahead", [False, True], ids=["on-demand", "ahead"])
async def test_without_ranges_a_pack_comes_whole_and_a_miss_alone(
    tmp_path: Path, no_leaks: None, ahead: bool
) -> None:
    data, memory = many(40), MemoryStore()
    index = packed(memory, [data])
    for one in data:
        memory.add(one)
    store = Counts(WithoutRanges(memory))
    async with serving(tmp_path, store, index) as fetcher:
        if ahead:
            await follow(fetcher, index)
        await read_all(fetcher, data)
        if ahead:
            assert store.gets == {index.packs[0].digest: 1}
        else:
            assert store.gets == {digests.of(one): 1 for one in data}


async def test_a_store_that_gave_no_parts_is_asked_again_after_a_while(
    tmp_path: Path, no_leaks: None, mock_clock: MockClock
) -> None:
    data, memory = many(40), MemoryStore()
    index = packed(memory, [data])
    for one in data:
        memory.add(one)

    class AtFirst(WithoutRanges):
        refuses = True

        async def get_range(
            self, digest: Digest, size: int, start: int, length: int, sink: Sink
        ) -> None:
            if self.refuses:
                await super().get_range(digest, size, start, length, sink)
            await memory.get_range(digest, size, start, length, sink)

    inner = AtFirst(memory)
    store = Counts(inner)
    async with serving(tmp_path, store, index) as fetcher:
        await read_all(fetcher, data[:2])
        assert len(store.ranges) == 1
        inner.refuses = False
        mock_clock.jump(601)
        await read_all(fetcher, data)
        assert store.calls["get"] == 2
        assert len(store.ranges) > 1


async def test_the_rate_is_held_within_one_large_blob_too(
    tmp_path: Path, no_leaks: None, mock_clock: MockClock
) -> None:
    mock_clock.autojump_threshold = 0.01
    large = os.urandom(1 << 20)
    memory = MemoryStore()
    index = packed(memory, [[b"small", large]])
    store = Counts(memory)
    async with serving(tmp_path, store, index) as fetcher:
        begun = trio.current_time()
        await follow(fetcher, index, Ahead(fetcher, rate=100_000))
        seconds = trio.current_time() - begun
        assert 0.9 < len(large) / 100_000 / seconds < 1.1
        assert max(length for _, _, length in store.ranges) <= 100_000 // 4
        assert max(asked_bytes(store, index)) == 1
        assert await read(fetcher, large) == large


async def test_no_rate_holds_for_who_waits(
    tmp_path: Path, no_leaks: None, mock_clock: MockClock
) -> None:
    mock_clock.autojump_threshold = 0.01
    large = os.urandom(1 << 20)
    memory = MemoryStore()
    index = packed(memory, [[b"small", large]])
    async with serving(tmp_path, memory, index) as fetcher, trio.open_nursery() as nursery:
        nursery.start_soon(follow, fetcher, index, Ahead(fetcher, rate=10_000))
        await trio.sleep(5)
        begun = trio.current_time()
        assert await read(fetcher, large) == large
        assert trio.current_time() - begun < 2


async def test_an_outage_ends_no_course_and_fails_only_who_waits(
    tmp_path: Path, no_leaks: None, mock_clock: MockClock, expected_output: ExpectOutput
) -> None:
    mock_clock.autojump_threshold = 0.01
    data, memory = many(40), MemoryStore()
    index = packed(memory, [data])
    store = Vanishes(memory)
    store.gone = True
    async with serving(tmp_path, store, index) as fetcher, trio.open_nursery() as nursery:
        nursery.start_soon(follow, fetcher, index)
        await trio.sleep(5)
        assert not any(has(fetcher, one) for one in data)
        store.gone = False
    assert all(has(fetcher, one) for one in data)


async def test_a_blob_that_no_store_has_is_missing_whatever_a_pack_says(
    tmp_path: Path, no_leaks: None, expected_output: ExpectOutput
) -> None:
    expected_output(_NOT_USED)
    expected_output(r"^WARNING +aysfs\.fetch\.flights:.*has no blob.*$")
    data, memory = many(3), MemoryStore()
    index = packed(memory, [data])
    memory.blobs.clear()
    async with serving(tmp_path, memory, index) as fetcher:
        with pytest.raises(BlobMissing):
            await read(fetcher, data[0])


async def test_no_space_is_told_to_who_waits(
    tmp_path: Path, no_leaks: None, expected_output: ExpectOutput
) -> None:
    expected_output(r"^WARNING +aysfs\.fetch\.flights:.*can never fit.*$")
    data, memory = many(3, 8192), MemoryStore()
    index = packed(memory, [data])
    memory.add(data[0])
    async with serving(tmp_path, memory, index, limits=Limits(size=4096, keep_free=0)) as fetcher:
        with pytest.raises(NoSpace):
            await read(fetcher, data[0])


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
