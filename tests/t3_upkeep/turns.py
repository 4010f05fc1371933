"""Actors that do their work on one store step by step, as a plan says.

Everybody stops before each call to the store, and the test says who goes on: every place where
a gc can be begun, and can be cut in two, can be tried. Blobs have no grace period here, so only
the protocol protects them.
"""

import itertools
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import trio
import trio.testing

from aysfs.names import ServiceName
from aysfs.store import claims
from aysfs.store.faults import _Gated
from aysfs.store.memory import MemoryStore
from aysfs.store.protocol import Stored
from aysfs.upkeep.check import check
from aysfs.upkeep.gc import gc
from tests.cancelling import threads_ended

AT_ONCE = 10_000  # steps: to the end, or until it waits for somebody


class Turns(_Gated):
    """Each call waits until it is this actor's turn."""

    def __init__(self, inner: MemoryStore) -> None:
        super().__init__(inner)
        self._memory = inner
        self._event: trio.Event | None = None
        self._one = trio.StrictFIFOLock()  # where an actor asks several things side by side
        self.ended = False

    @property
    def is_waiting(self) -> bool:
        return self._event is not None

    async def _enter(self, call: str, key: object) -> None:
        async with self._one:
            self._event = trio.Event()
            await self._event.wait()

    async def shelf(self, first: int) -> list[Stored]:
        """A shelf that is empty is no step: the schedules would be long and say nothing."""
        if any(digest[0] == first for digest in self._memory.blobs):
            return await super().shelf(first)
        return await self._memory.shelf(first)

    def go_on(self) -> None:
        assert self._event is not None
        self._event.set()
        self._event = None


Actor = tuple[Turns, Callable[[], Awaitable[object]]]
Plan = Sequence[tuple[int, int]]  # which actor, for how many steps
Scene = Callable[[Plan], Awaitable[int]]  # has actors play; how many steps were made


async def play(actors: Sequence[Actor], plan: Plan) -> int:
    """Let actors go on as planned, and then each to its end; how many steps were made."""
    steps = 0
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, trio.testing.MockClock)

    async def run(turns: Turns, work: Callable[[], Awaitable[object]]) -> None:
        try:
            await work()
        finally:
            turns.ended = True

    async with trio.open_nursery() as nursery:
        for turns, work in actors:
            nursery.start_soon(run, turns, work)
        last = [(number, AT_ONCE) for number in range(len(actors))]
        for number, count in itertools.chain(plan, itertools.cycle(last)):
            turns = actors[number][0]
            for _ in range(count):
                await everybody_waits()
                if not turns.is_waiting:
                    break
                turns.go_on()
                steps += 1
            await everybody_waits()
            if all(turns.ended for turns, _ in actors):
                break
            if not any(turns.is_waiting for turns, _ in actors):
                clock.jump(claims.POLL)  # all poll
    return steps


async def everybody_waits() -> None:
    """Return when nobody can go on: not a task, not a worker thread."""
    await trio.testing.wait_all_tasks_blocked()
    while trio.to_thread.current_default_thread_limiter().borrowed_tokens:
        await threads_ended()
        await trio.testing.wait_all_tasks_blocked()


def played(scene: Scene, plan: Plan) -> int:
    return trio.run(scene, plan, clock=trio.testing.MockClock())


def new_store() -> MemoryStore:
    return MemoryStore(clock_ns=lambda: 10**18 + int(trio.current_time() * 1e9))


async def is_complete(store: MemoryStore, *names: ServiceName) -> None:
    assert set(names) <= set(await store.lists())
    report = await check(store, deep=True)
    assert report.damage == []
    assert report.unreadable == {}
    assert all(name.endswith((".image", ".packs", ".profile")) for name in store.noted)


def gc_of(turns: Turns) -> Callable[[], Awaitable[object]]:
    return partial(gc, turns, grace=-1, delete=True, settle=0, clock=trio.current_time)


async def beside_a_gc(
    store: MemoryStore, plan: Plan, work: Callable[[Turns], Awaitable[object]]
) -> int:
    """Play two actors: the first does its own work, the second is a gc."""
    worker, sweeper = Turns(store), Turns(store)
    return await play([(worker, partial(work, worker)), (sweeper, gc_of(sweeper))], plan)


def every_cut(scene: Scene) -> None:
    """Of two actors, each is cut in two at every place, and the other does all its work there."""
    total = played(scene, [])
    for before in range(total + 1):
        played(scene, [(0, before), (1, AT_ONCE)])
        played(scene, [(1, before), (0, AT_ONCE)])
