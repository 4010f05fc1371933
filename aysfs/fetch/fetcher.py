"""The fetch service: a verified blob for whoever asks, one flight a digest.

Serves the engines, ``cat``, ``fetch`` and ``unpack``. A flight belongs to the service, not to
the reader that asked first: a reader that is cancelled leaves, the flight goes on. Every wait
is bounded: a flight without progress for ``deadline`` seconds fails, and its readers with it.

Whoever wants many blobs is told of each instead of waiting for it.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from aysfs.cache.blobs import Cache
from aysfs.chunks import Chunks
from aysfs.digest import Digest
from aysfs.errors import AysfsError, NoSpace
from aysfs.fetch.chunks import LargeBlobs
from aysfs.fetch.crew import Crew
from aysfs.fetch.flights import Flights, InFlight, Landed
from aysfs.fetch.workers import Workers
from aysfs.limits import DEADLINE, LARGE
from aysfs.store.protocol import Store


class Fetcher:
    """Opens blobs, fetching them when they are not in the cache. Made by ``open_fetcher``."""

    def __init__(
        self, cache: Cache, store: Store, flights: Flights, crew: Crew, nursery: trio.Nursery
    ) -> None:
        self.cache = cache
        self.store = store
        self.crew = crew
        self.counters = flights.counters
        self._flights = flights
        self.large = LargeBlobs(self, flights, nursery)

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

    async def open_fetched(self, digest: Digest, size: int, why: object = "", who: int = 0) -> int:
        """As ``open``, for whom ``open_at_once`` has just had nothing. ``who`` is a process."""
        flight = self._flights.wanted(digest, size, why)
        flight.readers += 1
        try:
            await self._flights.landed(flight, who)
            if flight.readers == 1 and flight.descriptor is not None:
                mine, flight.descriptor = flight.descriptor, None
                return mine
            # Not a dup: readers must not share an offset. Works for an unlinked blob as well.
            return os.open(f"/proc/self/fd/{flight.descriptor}", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            flight.readers -= 1
            flight.settle()

    async def ensure(self, digest: Digest, size: int, why: object = "", who: int = 0) -> bool:
        """Have the blob in the cache; raises as ``open``. ``who`` is a process.

        Whether this call brought it: it was not here, nor on its way for somebody else.
        """
        before = self.counters.misses
        if self._ensure_at_once(digest, size):
            return self.counters.misses != before
        if (chunks := self._part_of(digest, size)) is not None:
            await self.large.bring(digest, size, chunks, why)
            return True
        flight = self._flights.wanted(digest, size, why)
        is_new = self.counters.misses != before
        await self._flights.landed(flight, who)
        return is_new

    async def bring_ahead(self, digest: Digest, size: int, why: object) -> None:
        """As ``ensure``, before anybody asks: nothing is evicted for it, NoSpace instead."""
        if self._ensure_at_once(digest, size):
            return
        if not self.cache.usage.has_room(size):
            raise NoSpace(f"blob {digest.hex()}: no room for its {size} bytes without evicting")
        if (chunks := self._part_of(digest, size)) is not None:
            await self.large.bring(digest, size, chunks, why)
            return
        await self._flights.landed(self._flights.wanted(digest, size, why, spares=True), 0)

    def start(self, digest: Digest, size: int, why: object, landed: Landed) -> bool:
        """As ``ensure``, with nobody who waits: ``landed`` is told how it ended.

        False, and nobody is told, when the blob is there already.
        """
        if self._ensure_at_once(digest, size):
            return False
        if (chunks := self._part_of(digest, size)) is not None:
            self.large.start(digest, size, chunks, why, landed)
            return True
        self._flights.wanted(digest, size, why).told.append(landed)
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
        if self._flights.find(digest, size) is not None:
            return None
        data = self.store.at_hand(digest, size)
        if data is None or self.cache.is_doubtful(digest):
            return None
        try:
            descriptor = self.cache.insert(digest, data)
        except AysfsError:
            return None
        self.counters.misses += 1
        self.counters.fetched += 1
        self.counters.fetched_bytes += size
        return descriptor

    def _part_of(self, digest: Digest, size: int) -> Chunks | None:
        """The chunks of a large blob of which some are here: only the others are fetched."""
        return self.large.part_of(digest, size) if size > LARGE else None

    def in_flight(self) -> list[InFlight]:
        """Every flight, and every request for chunks."""
        return self._flights.told_of() + self.large.told_of()

    async def calm(self) -> None:
        """Wait until no reader waits for what nobody fetches ahead."""
        await self._flights.calm()


@asynccontextmanager
async def open_fetcher(
    cache: Cache,
    store: Store,
    *,
    deadline: float = DEADLINE,
    parallel: int = 16,
    processes: int = 0,
) -> AsyncIterator[Fetcher]:
    """A fetch service for the length of the block; flights under way end with it.

    Up to so many ``processes`` take in what comes in packs before anybody asks.
    """
    workers = Workers(cache, processes)
    try:
        async with trio.open_nursery() as nursery:
            flights = Flights(deadline, store.label, parallel)
            crew = Crew(cache, store, flights, workers, nursery)
            fetcher = Fetcher(cache, store, flights, crew, nursery)
            nursery.start_soon(flights.watch)
            if processes:
                nursery.start_soon(workers.end_idle)
            for _ in range(parallel):
                nursery.start_soon(crew.work)
            try:
                yield fetcher
            finally:
                flights.end()
                fetcher.large.end()
                nursery.cancel_scope.cancel()
    finally:
        await workers.end()
