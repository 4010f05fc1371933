"""Blobs on their way into the cache, and who waits for each: the state of the fetch service.

Serves ``fetch`` and its crew. A flight is queued for the crew, or moving, or done. The table
changes only in functions without ``await``; nothing here waits for anything but the end of a
flight.
"""

import logging
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import trio

from aysfs.digest import Digest
from aysfs.errors import AysfsError, NoSpace, Stalled

log = logging.getLogger(__name__)

_TOLD = 100
_GRACE = 0.020  # seconds

SOMEBODY = -1
"""Stands for a process of which no number is known here, as of another pid namespace."""

Landed = Callable[[AysfsError | None], None]
"""Told of the end of a flight, in the middle of it: must be quick, and must not raise."""


class Moving(Protocol):
    """What brings a blob, alone or among others."""

    @property
    def progress(self) -> int:
        """Bytes that it has taken, and whatever else shows that it moves."""

    def here(self, digest: Digest) -> int:
        """Bytes of a blob that have come, as far as can be told."""


class InFlight(NamedTuple):
    """A flight as ``status`` tells of it. ``waited`` is in seconds, of the first who waits."""

    digest: Digest
    size: int
    here: int  # bytes
    waiting: int  # readers
    waited: float
    why: object
    who: tuple[int, ...] = ()  # processes that wait, as far as they are known

    def to_values(self) -> dict[str, object]:
        """Plain values, for the answer to ``status``."""
        return {
            "md5": self.digest.hex(),
            "size": self.size,
            "here": self.here,
            "waiting": self.waiting,
            "waited": round(self.waited, 3),
            "why": str(self.why),
            "who": sorted(set(self.who)),
        }


def in_words(flights: Iterable[InFlight]) -> dict[str, object]:
    """Flights for the answer to ``status``, which is one line: some of them where there are many.

    Who waits longest comes first. ``in_flight_more`` are left out although somebody waits.
    """
    order = sorted(flights, key=lambda one: (one.waiting == 0, -one.waited))
    return {
        "in_flight": [one.to_values() for one in order[:_TOLD]],
        "in_flight_more": sum(one.waiting > 0 for one in order[_TOLD:]),
    }


@dataclass
class Counters:
    """What the service did since it started, for ``status``."""

    hits: int = 0
    misses: int = 0
    fetched: int = 0  # blobs
    fetched_bytes: int = 0
    flushed_bytes: int = 0  # of them: the disk was told to have them
    failures: int = 0


@dataclass(eq=False, slots=True)
class Flight:
    """One blob."""

    digest: Digest
    size: int
    deadline: float
    why: object
    done: trio.Event = field(default_factory=trio.Event)
    told: list[Landed] = field(default_factory=list)
    waiting: int = 0  # tasks
    who: list[int] = field(default_factory=list)  # for which processes
    readers: int = 0  # those of them that want the descriptor; the last one out closes it
    since: float = 0.0  # when somebody began to wait; 0 when nobody did
    queued: bool = False  # for the crew
    alone: bool = False  # not to be brought by a pack: it was tried, or is not to be believed
    spares: bool = False  # evicts nothing: only who fetches ahead has asked
    scope: trio.CancelScope | None = None  # of the task that flies it
    stalled: bool = False
    descriptor: int | None = None
    error: AysfsError | None = None
    carrier: Moving | None = None
    ahead: bool = False  # its carrier was sent before anybody asked
    progress: int = 0  # what the watch saw last

    @property
    def is_asked_for(self) -> bool:
        """Whether anybody would miss it."""
        return bool(self.waiting or self.told)

    async def landed(self, who: int = 0) -> None:
        """Wait for the end of the flight, for a process if it is known; raises its error."""
        self.waiting += 1
        self.since = self.since or trio.current_time()
        self.who.append(who)
        try:
            await self.done.wait()
        finally:
            self.waiting -= 1
            self.who.remove(who)
        if self.error is not None:
            raise self.error

    def land(self) -> None:
        """Tell everybody that it has ended."""
        self.done.set()
        self.settle()
        for landed in self.told:
            landed(self.error)

    def settle(self) -> None:
        """Close the descriptor of a finished flight that nobody wants to read."""
        if self.descriptor is not None and not self.readers and self.done.is_set():
            os.close(self.descriptor)
            self.descriptor = None

    def told_of(self, now: float) -> InFlight:
        """For ``status``."""
        here = 0 if self.carrier is None else self.carrier.here(self.digest)
        waited = now - self.since if self.waiting else 0.0
        who = tuple(pid for pid in self.who if pid > 0)
        return InFlight(self.digest, self.size, here, self.waiting, waited, self.why, who)


class Flights:
    """All of them, one a blob."""

    def __init__(self, deadline: float, source: str, turns: int) -> None:
        """``deadline`` is in seconds without progress, ``source`` names what gives none.

        ``turns`` are the requests that the source answers at once.
        """
        self.counters = Counters()
        self.deadline = deadline
        self.source = source
        self._pressing = 0  # readers who wait for what nobody fetches ahead
        self._calm_since = float("-inf")  # when the last of them ended
        self._all: dict[tuple[Digest, int], Flight] = {}
        self._queue: deque[Flight] = deque()
        self._turns = turns  # that nobody has
        self._turns_ahead = max(1, turns // 2)  # that what nobody asked for may have of them
        self._idle = trio.lowlevel.ParkingLot()  # who has nothing to fly
        self._idle_ahead = trio.lowlevel.ParkingLot()  # who waits for a turn to fetch ahead
        self._makes_way = trio.lowlevel.ParkingLot()  # who makes way for readers
        self._ended = False
        self._fetched_before = 0

    def find(self, digest: Digest, size: int) -> Flight | None:
        """The flight that is under way, if one is."""
        return self._all.get((digest, size))

    def wanted(self, digest: Digest, size: int, why: object, *, spares: bool = False) -> Flight:
        """The flight that brings this blob: the one under way, or a new one. Stalled at the end.

        It evicts nothing as long as all who want it ``spares`` what is here.
        """
        flight = self._all.get((digest, size))
        if flight is None:
            if self._ended:
                raise self._over(digest)
            self.counters.misses += 1
            flight = self._all[digest, size] = Flight(digest, size, self._later(), why)
            flight.spares = spares
            self._enqueue(flight)
            return flight
        flight.spares &= spares
        if not flight.is_asked_for:
            flight.why = why
        return flight

    async def next(self) -> Flight:
        """The one that has waited longest for the crew, and a turn, until ``end_turn``."""
        while not (self._queue and self._turns):
            await self._idle.park()
        self._turns -= 1
        flight = self._queue.popleft()
        flight.queued = False
        return flight

    def end_turn(self) -> None:
        """A request has ended."""
        self._turns += 1
        if self._queue:
            self._idle.unpark()
        self._idle_ahead.unpark()

    @asynccontextmanager
    async def turn_ahead(self) -> AsyncIterator[None]:
        """A turn for what nobody has asked for, which leaves half of them for readers.

        Who waits inside of a store instead looks like a store that gives nothing.
        """
        while not (self._turns and self._turns_ahead):
            await self._idle_ahead.park()
        self._turns -= 1
        self._turns_ahead -= 1
        try:
            yield
        finally:
            self._turns_ahead += 1
            self.end_turn()

    async def landed(self, flight: Flight, who: int) -> None:
        """Wait for the end of a flight, for a process if it is known; raises its error."""
        presses = bool(who) and not flight.ahead
        self.press(presses)
        try:
            await flight.landed(who)
        finally:
            self.press(-presses)

    def press(self, by: int) -> None:
        """So many readers more, or less, wait for what nobody fetches ahead."""
        self._pressing += by
        if by and not self._pressing:
            self._calm_since = trio.current_time()
            self._makes_way.unpark_all()

    @property
    def is_pressed(self) -> bool:
        """Whether a reader waits for what nobody fetches ahead. To be read in any thread."""
        return self._pressing > 0

    async def quiet(self) -> None:
        """Wait until no reader waits for what nobody fetches ahead."""
        while self._pressing:
            await self._makes_way.park()

    async def calm(self) -> None:
        """As ``quiet``, and until nobody did so just now.

        Who has waited for one blob will often wait for the next in a moment.
        """
        while self._pressing or trio.current_time() < self._calm_since + _GRACE:
            await self.quiet()
            await trio.sleep_until(self._calm_since + _GRACE)

    def told_of(self) -> list[InFlight]:
        """Every flight, for ``status``."""
        now = trio.current_time()
        return [flight.told_of(now) for flight in self._all.values()]

    def _enqueue(self, flight: Flight) -> None:
        flight.queued = True
        self._queue.append(flight)
        self._idle.unpark()

    def _dequeue(self, flight: Flight) -> None:
        flight.queued = False
        self._queue.remove(flight)

    def _later(self) -> float:
        return trio.current_time() + self.deadline

    # --- many that share a carrier -----------------------------------------------------------

    def board(
        self,
        blobs: Sequence[tuple[Digest, int]],
        carrier: Moving,
        why: object,
        scope: trio.CancelScope,
        *,
        ahead: bool,
    ) -> list[Flight]:
        """Let a carrier bring these: flights that waited for the crew, and new ones.

        ``ahead`` of anybody's asking.
        """
        flights = []
        for digest, size in blobs:
            flight = self._all.get((digest, size))
            if flight is None:
                flight = self._all[digest, size] = Flight(digest, size, self._later(), why)
            elif flight.queued:
                self._dequeue(flight)
            flight.carrier, flight.scope = carrier, scope
            flight.ahead = ahead
            flights.append(flight)
        return flights

    def let_off(self, flight: Flight) -> None:
        """Its carrier did not bring it. The crew does, if anybody waits."""
        flight.carrier = flight.scope = None
        flight.ahead = False
        if self._ended:
            self.give_up(flight)
        elif flight.stalled:
            self.fail(flight, self._no_progress(flight))
        elif flight.is_asked_for:
            flight.alone, flight.deadline = True, self._later()
            self._enqueue(flight)
        else:
            flight.error = Stalled(f"blob {flight.digest.hex()}: given up, nobody waits for it")
            self._land(flight)

    # --- the end of a flight -----------------------------------------------------------------

    def arrived(self, flight: Flight, descriptor: int | None) -> None:
        """The blob is in the cache; ``descriptor`` is of it, where somebody wants to read it."""
        flight.descriptor = descriptor
        self.counters.fetched += 1
        self.counters.fetched_bytes += flight.size
        self._land(flight)

    def fail(self, flight: Flight, error: AysfsError) -> None:
        """The blob cannot be had, and whoever waits is told why."""
        flight.error = error
        if not (flight.spares and isinstance(error, NoSpace)):
            self.counters.failures += 1
            log.warning("%s: %s", flight.why or "fetch", error)
        self._land(flight)

    def interrupt(self, flight: Flight) -> None:
        """Who flew it was cancelled: it stalled, or we are ending."""
        if flight.stalled:
            self.fail(flight, self._no_progress(flight))
        else:
            self.give_up(flight)

    def give_up(self, flight: Flight) -> None:
        """The service ends before the flight."""
        flight.error = self._over(flight.digest)
        self._land(flight)

    def end(self) -> None:
        """Fail what waits for the crew, which is about to be dismissed, and what is still asked."""
        self._ended = True
        while self._queue:
            self.give_up(self._queue.popleft())

    def _land(self, flight: Flight) -> None:
        del self._all[flight.digest, flight.size]
        flight.land()

    def _over(self, digest: Digest) -> Stalled:
        return Stalled(f"blob {digest.hex()}: the fetch service has ended")

    # --- the watch ---------------------------------------------------------------------------

    async def watch(self) -> None:
        """Push back the deadline of every flight that moves; the others run into theirs.

        A flight that waits for its turn moves as long as any other does.
        """
        look = trio.current_time() + self.deadline / 8
        while True:
            # A flight that begins meanwhile has a deadline behind ``look``.
            first = min((flight.deadline for flight in self._all.values()), default=look)
            await trio.sleep_until(min(first, look))
            now = trio.current_time()
            if now >= look:
                look = now + self.deadline / 8
                self._push_back(now + self.deadline)
            for flight in [one for one in self._all.values() if one.deadline <= now]:
                self.stall(flight)

    def _push_back(self, later: float) -> None:
        queued, moving = [], self.counters.fetched_bytes != self._fetched_before
        self._fetched_before = self.counters.fetched_bytes
        for flight in self._all.values():
            if flight.stalled:
                continue
            if flight.carrier is None:
                queued.append(flight)
            elif flight.carrier.progress != flight.progress:
                flight.progress = flight.carrier.progress
                flight.deadline = later
                moving = True
        if moving:
            for flight in queued:  # one whose entry is being hashed may have longer already
                flight.deadline = max(flight.deadline, later)

    def stall(self, flight: Flight) -> None:
        """The deadline of a flight has passed."""
        flight.stalled, flight.deadline = True, float("inf")
        if flight.scope is not None:
            flight.scope.cancel()
            return
        self._dequeue(flight)
        self.fail(flight, self._no_progress(flight))

    def _no_progress(self, flight: Flight) -> Stalled:
        return Stalled(
            f"blob {flight.digest.hex()}: no progress in {self.deadline:g} s from {self.source}"
        )
