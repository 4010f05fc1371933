"""The fetch service: a verified blob for whoever asks, one flight a digest.

Serves the engines, ``cat``, ``fetch`` and ``unpack``. A flight belongs to the service, not to
the reader that asked first: a reader that is cancelled leaves, the flight goes on. Every wait
is bounded: a flight without progress for ``deadline`` seconds fails, and its readers with it.

Flights are flown by a fixed crew of tasks: a task and a cancel scope for each would cost more
than a small blob's way over the network. For the same reason whoever wants many blobs is told of
each instead of waiting for it.

State (the table of flights) changes only in functions without ``await``.
"""

import logging
import os
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from aysfs.cache.blobs import Cache, Insertion
from aysfs.cache.chunks import LargeBlobs
from aysfs.cache.eviction import make_room
from aysfs.digest import Digest
from aysfs.errors import AysfsError, NoSpace, Stalled, StoreTrouble
from aysfs.limits import DEADLINE
from aysfs.store.protocol import Store

log = logging.getLogger(__name__)

_SLOWEST_DISK = 10_000_000  # bytes a second that hashing a doubtful entry may be slow to


Landed = Callable[[AysfsError | None], None]
"""Told of the end of a flight, in the middle of it: must be quick, and must not raise."""


@dataclass
class Counters:
    """What the service did since it started, for ``status``."""

    hits: int = 0
    misses: int = 0
    fetched_bytes: int = 0
    failures: int = 0


@dataclass(eq=False, slots=True)
class _Flight:
    digest: Digest
    size: int
    deadline: float
    why: object
    done: trio.Event = field(default_factory=trio.Event)
    told: list[Landed] = field(default_factory=list)
    waiting: int = 0  # tasks
    readers: int = 0  # those of them that want the descriptor; the last one out closes it
    scope: trio.CancelScope | None = None  # of the crew's task that flies it
    stalled: bool = False
    descriptor: int | None = None
    error: AysfsError | None = None
    insertion: Insertion | None = None
    progress: int = 0  # what the watch saw last

    async def landed(self) -> None:
        """Wait for the end of the flight; raises its error."""
        self.waiting += 1
        try:
            await self.done.wait()
        finally:
            self.waiting -= 1
        if self.error is not None:
            raise self.error

    def settle(self) -> None:
        """Close the descriptor of a finished flight that nobody wants to read."""
        if self.descriptor is not None and not self.readers and self.done.is_set():
            os.close(self.descriptor)
            self.descriptor = None


class Fetcher:
    """Opens blobs, fetching them when they are not in the cache. Made by ``open_fetcher``."""

    def __init__(self, cache: Cache, store: Store, deadline: float, nursery: trio.Nursery) -> None:
        self.cache = cache
        self.store = store
        self.large = LargeBlobs(self, nursery, deadline)
        self.counters = Counters()
        self._deadline = deadline
        self._flights: dict[tuple[Digest, int], _Flight] = {}
        self._queue: deque[_Flight] = deque()  # those of them that wait for the crew
        self._crew = trio.lowlevel.ParkingLot()  # who has nothing to fly
        self._ended = False
        self._fetched_before = 0

    def open_at_once(self, digest: Digest, size: int) -> int | None:
        """A descriptor as from ``open`` where that needs no waiting, else None."""
        descriptor = self.cache.open(digest, size)
        if descriptor is not None:
            self.counters.hits += 1
            return descriptor
        return self._take(digest, size)

    async def open(self, digest: Digest, size: int, why: object = "") -> int:
        """A descriptor of the verified blob, the caller's to close.

        ``why``, as text, names path or purpose in the log line of a failure. Raises BlobMissing,
        Corrupt, StoreTrouble, NoSpace or CacheUnusable.
        """
        descriptor = self.open_at_once(digest, size)
        if descriptor is not None:
            return descriptor
        return await self.open_fetched(digest, size, why)

    async def open_fetched(self, digest: Digest, size: int, why: object = "") -> int:
        """As ``open``, for whom ``open_at_once`` has just had nothing."""
        flight = self._flight(digest, size, why)
        flight.readers += 1
        try:
            await flight.landed()
            if flight.readers == 1 and flight.descriptor is not None:
                mine, flight.descriptor = flight.descriptor, None
                return mine
            # Not a dup: readers must not share an offset. Works for an unlinked blob as well.
            return os.open(f"/proc/self/fd/{flight.descriptor}", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            flight.readers -= 1
            flight.settle()

    async def ensure(self, digest: Digest, size: int, why: object = "") -> bool:
        """Have the blob in the cache; raises as ``open``.

        Whether this call brought it: it was not here, nor on its way for somebody else.
        """
        before = self.counters.misses
        if self._ensure_at_once(digest, size):
            return self.counters.misses != before
        flight = self._flight(digest, size, why)
        is_new = self.counters.misses != before
        await flight.landed()
        return is_new

    def start(self, digest: Digest, size: int, why: object, landed: Landed) -> bool:
        """As ``ensure``, with nobody who waits: ``landed`` is told how it ended.

        False, and nobody is told, when the blob is there already.
        """
        if self._ensure_at_once(digest, size):
            return False
        self._flight(digest, size, why).told.append(landed)
        return True

    def _ensure_at_once(self, digest: Digest, size: int) -> bool:
        """Whether the blob is in the cache, or could be taken in without waiting."""
        if self.cache.has(digest, size):
            self.counters.hits += 1
            return True
        descriptor = self._take(digest, size)
        if descriptor is None:
            return False
        os.close(descriptor)
        return True

    def _take(self, digest: Digest, size: int) -> int | None:
        """Take in a small blob that the store has at hand: a flight costs more than copying it.

        Declines in every doubt and trouble, since a flight says what is the matter.
        """
        if (digest, size) in self._flights:
            return None
        data = self.store.at_hand(digest, size)
        if data is None or self.cache.is_doubtful(digest):
            return None
        try:
            descriptor = self.cache.insert(digest, data)
        except AysfsError:
            return None
        self.counters.misses += 1
        self.counters.fetched_bytes += size
        return descriptor

    def missed(self) -> None:
        """Count a blob of which not all was here."""
        self.counters.misses += 1

    def brought(self, size: int, error: AysfsError | None, why: object) -> None:
        """Count bytes that came for a part of a blob, and log what came instead of the rest."""
        self.counters.fetched_bytes += size
        if error is not None:
            self.counters.failures += 1
            log.warning("%s: %s", why or "fetch", error)

    def in_flight(self) -> list[tuple[Digest, int, int, int, object]]:
        """Digest, size, bytes here, readers waiting and purpose of every flight."""
        return [
            (f.digest, f.size, f.insertion.progress if f.insertion else 0, f.waiting, f.why)
            for f in self._flights.values()
        ] + self.large.in_flight()

    def _flight(self, digest: Digest, size: int, why: object) -> _Flight:
        """The flight that brings this blob: the one under way, or a new one."""
        flight = self._flights.get((digest, size))
        if flight is None:
            if self._ended:
                raise self._over(digest)
            self.counters.misses += 1
            later = trio.current_time() + self._deadline
            flight = _Flight(digest, size, later, why)
            self._flights[digest, size] = flight
            self._queue.append(flight)
            self._crew.unpark()
        return flight

    async def work(self) -> None:
        """One of the crew: fly what waits, for ever."""
        while True:
            with trio.CancelScope() as scope:
                stalled = False
                while not stalled:  # which has the scope cancelled
                    while not self._queue:
                        await self._crew.park()
                    flight = self._queue.popleft()
                    flight.scope = scope
                    await self._fly(flight)
                    stalled = flight.stalled

    def end(self) -> None:
        """Fail what waits for the crew, which is about to be dismissed, and what is still asked."""
        self._ended = True
        self.large.end()
        while self._queue:
            flight = self._queue.popleft()
            flight.error = self._over(flight.digest)
            self._land(flight)

    def _over(self, digest: Digest) -> Stalled:
        return Stalled(f"blob {digest.hex()}: the fetch service has ended")

    async def _fly(self, flight: _Flight) -> None:
        """Bring one blob. Whatever happens, the flight ends and its readers are woken."""
        landed = False
        try:
            flight.descriptor = await self._fetch(flight)
            landed = True
        except AysfsError as error:
            flight.error = error
        except Exception as error:  # a bug in a store must fail this blob, not the mount
            log.exception("fetch of %s", flight.digest.hex())
            flight.error = StoreTrouble(f"blob {flight.digest.hex()}: internal error: {error!r}")
        finally:
            if landed or flight.error is not None:
                self._account(flight)
            elif flight.stalled:
                flight.error = self._no_progress(flight)
                self._account(flight)
            else:  # cancelled: we are ending
                flight.error = self._over(flight.digest)
            self._land(flight)

    def _land(self, flight: _Flight) -> None:
        del self._flights[flight.digest, flight.size]
        flight.done.set()
        flight.settle()
        for landed in flight.told:
            landed(flight.error)

    def _no_progress(self, flight: _Flight) -> Stalled:
        return Stalled(
            f"blob {flight.digest.hex()}: no progress in {self._deadline:g} s"
            f" from {self.store.label}"
        )

    def _stall(self, flight: _Flight) -> None:
        """The deadline of a flight has passed."""
        flight.stalled, flight.deadline = True, float("inf")
        if flight.scope is not None:
            flight.scope.cancel()
            return
        self._queue.remove(flight)
        flight.error = self._no_progress(flight)
        self._account(flight)
        self._land(flight)

    def _account(self, flight: _Flight) -> None:
        if flight.error is None:
            self.counters.fetched_bytes += flight.size
        else:
            self.counters.failures += 1
            log.warning("%s: %s", flight.why or "fetch", flight.error)

    async def _fetch(self, flight: _Flight) -> int | None:
        """Bring one blob; a descriptor of it when somebody wants to read it."""
        digest, size = flight.digest, flight.size
        if self.cache.is_doubtful(digest):
            flight.deadline += size / _SLOWEST_DISK
            await trio.to_thread.run_sync(
                self.cache.revalidate, digest, size, abandon_on_cancel=True
            )
            descriptor = self.cache.open(digest, size)
            if descriptor is not None:
                return descriptor
        insertion = await self._begin(digest, size)
        flight.insertion = insertion
        try:
            await self.store.get(digest, size, insertion)
            if flight.readers:
                return insertion.commit_and_open()
            insertion.commit()
            return None
        finally:
            insertion.abort()

    async def _begin(self, digest: Digest, size: int) -> Insertion:
        try:
            return self.cache.insertion(digest, size)
        except NoSpace:
            # Not abandoned when cancelled: the room that it reserves would be lost.
            await trio.to_thread.run_sync(make_room, self.cache, size)
            return self.cache.insertion(digest, size, reserved=True)

    async def watch(self) -> None:
        """Push back the deadline of every flight that moves; the others run into theirs.

        A flight that waits for its turn moves as long as any other does.
        """
        look = trio.current_time() + self._deadline / 8
        while True:
            # A flight that begins meanwhile has a deadline behind ``look``.
            first = min((flight.deadline for flight in self._flights.values()), default=look)
            await trio.sleep_until(min(first, look))
            now = trio.current_time()
            if now >= look:
                look = now + self._deadline / 8
                self._push_back(now + self._deadline)
            for flight in [one for one in self._flights.values() if one.deadline <= now]:
                self._stall(flight)

    def _push_back(self, later: float) -> None:
        queued, moving = [], self.counters.fetched_bytes != self._fetched_before
        self._fetched_before = self.counters.fetched_bytes
        for flight in self._flights.values():
            if flight.stalled:
                continue
            if flight.insertion is None:
                queued.append(flight)
            elif flight.insertion.progress != flight.progress:
                flight.progress = flight.insertion.progress
                flight.deadline = later
                moving = True
        if moving:
            for flight in queued:  # one whose entry is being hashed may have longer already
                flight.deadline = max(flight.deadline, later)


@asynccontextmanager
async def open_fetcher(
    cache: Cache,
    store: Store,
    *,
    deadline: float = DEADLINE,
    parallel: int = 16,
) -> AsyncIterator[Fetcher]:
    """A fetch service for the length of the block; flights under way end with it."""
    async with trio.open_nursery() as nursery:
        fetcher = Fetcher(cache, store, deadline, nursery)
        nursery.start_soon(fetcher.watch)
        for _ in range(parallel):
            nursery.start_soon(fetcher.work)
        try:
            yield fetcher
        finally:
            fetcher.end()
            nursery.cancel_scope.cancel()
