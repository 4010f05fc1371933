"""What is fetched beside misses: newest first, a few at once, and nothing of what is forgotten."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from aysfs.fetch.beside import Beside
from aysfs.fetch.carry import Carried, Outcome
from aysfs.fetch.segment import Segment
from aysfs.pack.index import PackIndex
from aysfs.store.memory import MemoryStore
from tests.packing import many, packed

INDEX = packed(MemoryStore(), [many(1)])
OTHER = packed(MemoryStore(), [many(2)])


class Way:
    """So many segments of a length that tells whose they are."""

    def __init__(self, name: int, count: int, index: PackIndex = INDEX) -> None:
        self.index = index
        self._name = name
        self._left = count

    @property
    def is_over(self) -> bool:
        return not self._left

    def look(self) -> bool:
        return True

    def next(self, _most: int) -> Segment | None:
        self._left -= 1
        return Segment(self.index.packs[0], 0, self._name, ())


class Line:
    """Brings a segment when it is told to."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.outcome = Outcome.DONE
        self.go_on = trio.Semaphore(0)
        self.turns = 0
        self.is_calm = trio.Event()
        self.is_calm.set()

    async def calm(self) -> None:
        await self.is_calm.wait()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        self.turns += 1
        await trio.lowlevel.checkpoint()
        yield
        self.turns -= 1

    async def carry(self, segment: Segment) -> Carried:
        self.asked.append(segment.length)
        await self.go_on.acquire()
        return Carried(self.outcome, 1, 0.05, 0.06)


async def test_the_last_miss_is_followed_first_and_the_older_ones_after_it() -> None:
    line = Line()
    async with trio.open_nursery() as nursery:
        beside = Beside(line.turn, line.carry, line.calm, nursery)
        beside.follow(Way(1, 10))
        await wait_all_tasks_blocked()
        assert line.asked == [1] * 6
        beside.follow(Way(2, 3))
        for _ in range(13):
            line.go_on.release()
            await wait_all_tasks_blocked()
    assert line.asked == [1] * 6 + [2] * 3 + [1] * 4
    assert line.turns == 0


async def test_while_a_reader_waits_a_request_is_begun_now_and_then(
    autojump_clock: MockClock,
) -> None:
    line = Line()
    async with trio.open_nursery() as nursery:
        beside = Beside(line.turn, line.carry, line.calm, nursery)
        line.is_calm = trio.Event()
        beside.follow(Way(1, 6))
        await trio.sleep(0.0149)
        assert line.asked == [1] * 2
        line.is_calm.set()
        await trio.sleep(0.0001)
        assert line.asked == [1] * 6
        for _ in range(6):
            line.go_on.release()


@pytest.mark.parametrize(("latency", "is_quick"), [(0.009, True), (0.011, False)])
async def test_what_comes_is_told_where_the_line_is_known_to_be_quick(
    latency: float, is_quick: bool
) -> None:
    line = Line()
    async with trio.open_nursery() as nursery:
        beside = Beside(line.turn, line.carry, line.calm, nursery)
        with beside.all_comes(OTHER):
            with beside.all_comes(INDEX):
                assert not beside.coming, "nobody knows yet how quick it is"
                beside.learn(latency)
                beside.learn(0.02)
                assert list(beside.coming) == ([OTHER, INDEX] if is_quick else [])
                beside.follow(Way(2, 1))
                line.go_on.release()
                await wait_all_tasks_blocked()
                assert line.asked == ([] if is_quick else [2]), "that comes anyway"
            assert list(beside.coming) == ([OTHER] if is_quick else [])
        assert not beside.coming


async def test_what_is_not_found_yet_is_looked_for_before_anybody_makes_way() -> None:
    line = Line()
    line.is_calm = trio.Event()
    looks = 0

    class Long(Way):
        def look(self) -> bool:
            nonlocal looks
            looks += 1
            return looks > 100

    async with trio.open_nursery() as nursery:
        beside = Beside(line.turn, line.carry, line.calm, nursery)
        beside.follow(Long(1, 1))
        for _ in range(110):
            await trio.lowlevel.checkpoint()
        assert looks > 100
        line.is_calm.set()
        line.go_on.release()
    assert line.asked == [1]


async def test_a_newer_miss_while_one_makes_way_is_looked_for_first() -> None:
    line = Line()
    line.is_calm = trio.Event()

    class Late(Way):
        looks = 0

        def look(self) -> bool:
            self.looks += 1
            return self.looks > 3

        def next(self, most: int) -> Segment | None:
            assert self.looks > 3
            return super().next(most)

    async with trio.open_nursery() as nursery:
        beside = Beside(line.turn, line.carry, line.calm, nursery)
        beside.follow(Way(1, 1))
        for _ in range(3):
            await trio.lowlevel.checkpoint()
        beside.follow(Late(2, 1))
        line.is_calm.set()
        for _ in range(2):
            line.go_on.release()
    assert line.asked == [2, 1]


async def test_nothing_runs_when_there_is_nothing_to_follow() -> None:
    line = Line()
    async with trio.open_nursery() as nursery:
        beside = Beside(line.turn, line.carry, line.calm, nursery)
        beside.follow(Way(1, 0))
        await wait_all_tasks_blocked()
        assert not nursery.child_tasks
        beside.follow(Way(1, 1))
        line.go_on.release()
        await wait_all_tasks_blocked()
        assert not nursery.child_tasks
    assert line.asked == [1]


async def test_a_way_that_fails_is_left_and_others_are_not() -> None:
    line = Line()
    line.outcome = Outcome.TROUBLE
    async with trio.open_nursery() as nursery:
        beside = Beside(line.turn, line.carry, line.calm, nursery)
        beside.follow(Way(1, 100))
        await wait_all_tasks_blocked()
        beside.follow(Way(2, 1))
        for _ in range(7):
            line.go_on.release()
        await wait_all_tasks_blocked()
        assert not nursery.child_tasks
    assert line.asked == [1] * 6 + [2]


async def test_what_leads_through_forgotten_packs_is_not_followed() -> None:
    line = Line()
    async with trio.open_nursery() as nursery:
        beside = Beside(line.turn, line.carry, line.calm, nursery)
        beside.follow(Way(1, 100))
        beside.follow(Way(2, 7, OTHER))
        await wait_all_tasks_blocked()
        beside.forget(INDEX)
        for _ in range(7):
            line.go_on.release()
            await wait_all_tasks_blocked()
        assert not nursery.child_tasks
    assert line.asked == [2] * 7


async def test_a_thousand_misses_are_not_all_remembered() -> None:
    line = Line()
    async with trio.open_nursery() as nursery:
        beside = Beside(line.turn, line.carry, line.calm, nursery)
        for name in range(1000):
            beside.follow(Way(name, 1))
        for _ in range(1000):
            line.go_on.release()
        await wait_all_tasks_blocked()
    assert line.asked == [*range(999, 935, -1)]
