"""Fetching ahead, where it could harm those who read: it lets them run, and takes nothing away."""

import os
import time
from pathlib import Path

import trio
from trio.testing import wait_all_tasks_blocked

from aysfs import digest as digests
from aysfs.cache.ahead import Ahead, Going
from aysfs.cache.crew import Outcome
from aysfs.cache.fetch import Fetcher
from aysfs.digest import Digest
from aysfs.limits import Limits
from aysfs.pack.index import PackIndex
from aysfs.store.faults import Passes
from aysfs.store.memory import MemoryStore
from aysfs.store.protocol import Sink
from tests.packing import many, packed
from tests.t3_cache.test_carry import has, read_all, serving


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
    blobs = iter([(digests.of(one), len(one)) for one in data])
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
