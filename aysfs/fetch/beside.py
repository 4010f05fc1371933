"""What is fetched beside misses: where each leads, and what lies next to it.

Serves the crew, which brings the misses themselves. What one reader's misses say is followed
newest first: the last one knows best what comes next.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Protocol

import trio

from aysfs.fetch.carry import Carried, Outcome
from aysfs.fetch.pace import Pace
from aysfs.fetch.segment import Segment
from aysfs.pack.index import PackIndex

_SIDE_BY_SIDE = 6  # requests at once
_QUICK = 0.010  # seconds until an answer begins, below which a miss is not worth more than itself
_REMEMBERED = 64  # ways that are remembered
_YIELDS = 0.005  # seconds between two requests while a reader waits: on a fast line he waits less


class Way(Protocol):
    """What is left to be fetched."""

    @property
    def index(self) -> PackIndex:
        """Whose packs it leads through."""

    @property
    def is_over(self) -> bool:
        """Whether there is nothing more to come."""

    def look(self) -> bool:
        """Find a little more of it; whether all is found."""

    def next(self, most: int) -> Segment | None:
        """Up to so many stored bytes, or one blob. None when nothing was wanted so far."""


class Beside:
    """Follows the ways of misses, a few requests side by side."""

    def __init__(
        self,
        turn: Callable[[], AbstractAsyncContextManager[None]],
        carry: Callable[[Segment], Awaitable[Carried]],
        calm: Callable[[], Awaitable[None]],
        nursery: trio.Nursery,
    ) -> None:
        """``turn`` is entered before a segment is planned, which ``carry`` brings.

        ``calm`` waits until no reader waits for a miss.
        """
        self._turn = turn
        self._carry = carry
        self._calm = calm
        self._nursery = nursery
        self._ways: deque[Way] = deque(maxlen=_REMEMBERED)  # the newest is the last
        self._pace = Pace()
        self._working = 0
        self._coming: list[PackIndex] = []
        self._quickest = float("inf")  # seconds until an answer began
        self._due = 0.0  # when the next may go while readers wait

    def follow(self, way: Way) -> None:
        """Bring what is on a way, before older ones."""
        self._ways.append(way)
        self._hire()

    def forget(self, index: PackIndex) -> None:
        """Follow no way through these packs any more."""
        self._ways = deque(
            (one for one in self._ways if one.index is not index), maxlen=_REMEMBERED
        )

    @contextmanager
    def all_comes(self, index: PackIndex) -> Iterator[None]:
        """All of these packs is on its way for the length of the block."""
        self._coming.append(index)
        try:
            yield
        finally:
            self._coming.remove(index)

    @property
    def coming(self) -> Collection[PackIndex]:
        """Packs of which a miss is to be brought alone: all comes soon, over a quick line.

        Over a slow one what is read next would come too late, and is brought as ever.
        """
        return self._coming if self._quickest < _QUICK else ()

    def learn(self, latency: float) -> None:
        """What any request took until its first byte."""
        self._quickest = min(self._quickest, latency)

    def _hire(self) -> None:
        if self._working < _SIDE_BY_SIDE:
            self._working += 1
            self._nursery.start_soon(self._work)

    async def _work(self) -> None:
        try:
            while (way := self._newest()) is not None:
                if not way.look():
                    await trio.lowlevel.checkpoint()
                    continue
                await self._make_way()
                async with self._turn():
                    await self._bring_some()
        finally:
            self._working -= 1

    async def _make_way(self) -> None:
        """Wait until no reader waits for a miss, or for one's turn to go all the same."""
        self._due = max(self._due, trio.current_time()) + _YIELDS
        with trio.move_on_at(self._due):
            await self._calm()
            self._due = trio.current_time()

    async def _bring_some(self) -> None:
        way = self._newest()  # it may be a newer one by now
        # What it plans is boarded before anybody else can run.
        segment = way.next(self._pace.size) if way is not None and way.look() else None
        if way is None or segment is None:
            await trio.lowlevel.checkpoint()
            return
        if self._newest() is not None:
            self._hire()
        carried = await self._carry(segment)
        if carried.outcome is Outcome.DONE:
            self._pace.learn(carried.latency, carried.seconds)
        elif way in self._ways:  # what fails is left to who reads it
            self._ways.remove(way)

    def _newest(self) -> Way | None:
        coming = self.coming
        while self._ways and (self._ways[-1].is_over or self._ways[-1].index in coming):
            self._ways.pop()
        return self._ways[-1] if self._ways else None
