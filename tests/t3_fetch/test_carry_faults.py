"""Packs that are wrong, and stores that fail or give no parts: no blob is lost by a pack."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from aysfs import digest as digests
from aysfs.digest import Digest
from aysfs.errors import BlobMissing, NoSpace, StoreTrouble
from aysfs.limits import Limits
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
from tests.conftest import ExpectOutput
from tests.packing import many, pack_of, packed
from tests.t3_fetch.carrying import follow, has, read, read_all, serving

_NOT_USED = r"^WARNING +aysfs\.fetch\.crew:.*is not used.*$"


def both_ways(data: Sequence[bytes]) -> tuple[MemoryStore, PackIndex]:
    """A store that has blobs in a pack, and each of them alone."""
    memory = MemoryStore()
    index = packed(memory, [data])
    for one in data:
        memory.add(one)
    return memory, index


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
    data = many(40)
    memory, index = both_ways(data)
    async with serving(tmp_path, SpoilsParts(memory, spoil(memory)), index) as fetcher:
        if ahead:
            await follow(fetcher, index)
        await read_all(fetcher, data)


async def test_a_missing_pack_costs_no_blob(
    tmp_path: Path, no_leaks: None, expected_output: ExpectOutput
) -> None:
    expected_output(_NOT_USED)
    data = many(40)
    memory, index = both_ways(data)
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
    data = many(40)
    memory, index = both_ways(data)
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
    data = many(40)
    memory, index = both_ways(data)

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


async def test_a_blob_that_a_pack_has_twice_is_fetched_alone_once_where_the_pack_fails(
    tmp_path: Path, no_leaks: None
) -> None:
    data = many(2)
    blobs = [data[0], data[1], data[1]]
    pack, packed_bytes = pack_of(blobs)
    memory = MemoryStore()
    for one in (packed_bytes, *data):
        memory.add(one)
    both_wait = trio.Event()

    class FailsLate(Passes):
        async def get_range(self, *_asked: object) -> None:
            await both_wait.wait()
            raise StoreTrouble("a test")

    store = Counts(FailsLate(memory))
    index = PackIndex.join([pack], has_start=False)
    async with serving(tmp_path, store, index) as fetcher, trio.open_nursery() as nursery:
        nursery.start_soon(read_all, fetcher, data[:1])
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(read_all, fetcher, data[1:])
        await trio.testing.wait_all_tasks_blocked()
        both_wait.set()
    assert sorted(store.gets.values()) == [1, 1]
