"""Fetching what will be asked for, before it is: through packs, in the order in which it is needed.

Serves mounts, ``fetch`` and ``unpack``. A few requests side by side keep the line busy; each asks
for so little that a reader who waits for a blob of it does not wait long. While somebody waits for
a blob that is not on this way, one request now and then is all that is begun here. Nothing is
evicted for it.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass

import trio

from aysfs.errors import AysfsError, NoSpace
from aysfs.fetch.carry import Carried, Outcome
from aysfs.fetch.fetcher import Fetcher
from aysfs.fetch.pace import SHORTEST, SHORTEST_POLITE, SIDE_BY_SIDE, Pace
from aysfs.fetch.planner import Course
from aysfs.fetch.segment import Segment
from aysfs.tree import Blob

log = logging.getLogger(__name__)

_YIELDS = 0.050  # seconds for which the last of us waits for readers
_WORTH_IT = 1 << 20  # bytes of room in the cache with which it goes on
_PIECE = 1 << 20  # bytes of a large blob
_AT_ONCE = 16  # blobs that are there already, before others may run
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 16.0  # seconds after trouble
_PATIENCE = 8.0  # the longest pause while somebody waits for all of it, and is to be told


@dataclass
class Going:
    """How far it is, for ``status``. Bytes are those of packs, as stored, or of single blobs."""

    what: str
    done: int = 0  # or needed no doing
    total: int = 0
    lost: int = 0  # of what is done: in damaged packs, or there was no room
    under_way: int = 0
    state: str = "waiting"


class Ahead:
    """Fetches ahead through one fetch service."""

    def __init__(
        self,
        fetcher: Fetcher,
        *,
        rate: int | None = None,
        polite: bool = True,
        tell: Callable[[], None] | None = None,
    ) -> None:
        """``polite``: make way for readers who wait for something else. Who is not ends in trouble.

        ``tell`` is called whenever something has come.
        """
        self._fetcher = fetcher
        self._pace = Pace(rate, SHORTEST_POLITE if polite else SHORTEST)
        self._polite = polite
        self._tell = tell
        self._pause = _FIRST_PAUSE
        self._again = 0.0  # of trio's clock: when to try after trouble

    async def follow(self, course: Course, going: Going) -> None:
        """Have all of a course in the cache, but for what fails. Ends when the cache is full."""
        going.total, going.state = course.total, "fetching"
        async with trio.open_nursery() as nursery:
            for number in range(SIDE_BY_SIDE):
                nursery.start_soon(self._go, course, going, number, nursery.cancel_scope)
        if going.state == "fetching":
            going.state = "done, but for what is lost" if going.lost else "done"

    async def _go(
        self, course: Course, going: Going, number: int, everybody: trio.CancelScope
    ) -> None:
        while not course.is_over:
            most = await self._pace.allow()
            if self._polite:
                with trio.move_on_after(float("inf") if number else _YIELDS):
                    await self._fetcher.calm()
            async with self._fetcher.crew.turn():
                segment = course.next(most)  # what it plans is boarded before anybody else can run
                going.lost += course.take_lost()
                if segment is None:
                    going.done = course.passed - going.under_way
                    await trio.lowlevel.checkpoint()
                    continue
                carried = await self._carry(segment, course, going)
            if carried.outcome is Outcome.DONE:
                self._pace.learn(carried.latency, carried.seconds)
            if self._tell is not None:
                self._tell()
            if carried.outcome is Outcome.FULL:
                going.lost += segment.length
                if self._is_too_large(segment):
                    continue
                log.info("%s: %s, it ends here", going.what, carried.outcome.value)
                going.state = carried.outcome.value
                everybody.cancel()
                return
            if carried.outcome is Outcome.NO_RANGES:
                course.go_back(segment)
            elif carried.outcome in (Outcome.TROUBLE, Outcome.UNUSABLE):
                going.state = carried.outcome.value
                if not self._polite and self._pause > _PATIENCE:
                    everybody.cancel()
                    return
                course.go_back(segment)
                await self._rest()
            else:
                going.lost += segment.length if carried.outcome is Outcome.DAMAGED else 0
                self._pause, going.state = _FIRST_PAUSE, "fetching"

    async def _carry(self, segment: Segment, course: Course, going: Going) -> Carried:
        """Bring a segment; what is under way is not done, and nothing is once this is over."""
        going.under_way += segment.length
        going.done = course.passed - going.under_way
        try:
            return await self._fetcher.crew.carry(segment, going.what, self._pace.throttle)
        finally:
            going.under_way -= segment.length
            going.done = course.passed - going.under_way

    def _is_too_large(self, segment: Segment) -> bool:
        """Whether it is one blob that has no room, and others have."""
        has_room = self._fetcher.cache.usage.has_room
        sizes = [frame.size for frame in segment.frames]
        return len(sizes) == 1 and not has_room(sizes[0]) and has_room(_WORTH_IT)

    async def _rest(self) -> None:
        """All of us for as long: the pause grows with the trouble, and not with who met it."""
        now = trio.current_time()
        if now >= self._again:
            self._again = now + self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        await trio.sleep_until(self._again)

    async def fetch_singly(
        self, blobs: Iterator[Blob], going: Going, most: int = SIDE_BY_SIDE
    ) -> None:
        """Have these in the cache by a request each, but for what fails; ``most`` at once.

        Ends when the cache is full.
        """
        going.state = "fetching"
        async with trio.open_nursery() as nursery:
            for _ in range(most):
                nursery.start_soon(self._fetch_some, blobs, going, nursery.cancel_scope)
        if going.state == "fetching":
            going.state = "done"

    async def _fetch_some(
        self, blobs: Iterator[Blob], going: Going, everybody: trio.CancelScope
    ) -> None:
        fetcher = self._fetcher
        for number, one in enumerate(blobs):
            going.done += one.size
            if not fetcher.crew.is_wanted(one.digest, one.size):
                if number % _AT_ONCE == 0:
                    await trio.lowlevel.checkpoint()
                continue
            try:
                await self._fetch_one(one, going.what)
            except NoSpace:
                log.info("%s: %s, it ends here", going.what, Outcome.FULL.value)
                going.state = Outcome.FULL.value
                everybody.cancel()
                return
            except AysfsError as error:  # the fetch has logged it
                log.debug("%s: %s", going.what, error)
            await trio.lowlevel.checkpoint()  # what is at hand waits for nothing

    async def _fetch_one(self, one: Blob, what: str) -> None:
        fetcher, (digest, size, chunks) = self._fetcher, one
        if chunks is None or not chunks.are_used(size) or fetcher.cache.has(digest, size):
            await self._pace.allow()
            self._pace.spend(size)
            await fetcher.bring_ahead(digest, size, what)
            return
        if not fetcher.cache.usage.has_room(size):
            raise NoSpace(f"blob {digest.hex()}: no room for its {size} bytes without evicting")
        # As a reader would: who really is one finds what is here, and what is on its way.
        with closing(await fetcher.large.open(digest, size, chunks, what)) as reader:
            for offset in range(0, size, _PIECE):
                piece = min(_PIECE, size - offset)
                await self._pace.allow()
                self._pace.spend(piece)
                await reader.read(offset, piece)
            await reader.bring()
