"""Those who bring blobs: one by one, or a segment of a pack by one request.

Serves the fetch service. A fixed crew of tasks flies what is asked for: a task and a cancel scope
for each blob would cost more than a small blob's way over the network. Whatever happens, a flight
ends and its readers are woken.
"""

import logging
import os
from collections.abc import Awaitable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager

import trio

from aysfs.cache.blobs import Cache
from aysfs.cache.eviction import make_room
from aysfs.cache.insertion import Insertion
from aysfs.digest import Digest
from aysfs.errors import (
    AysfsError,
    BlobMissing,
    Corrupt,
    NoRanges,
    NoSpace,
    PackDamaged,
    StoreTrouble,
)
from aysfs.fetch.beside import Beside
from aysfs.fetch.carry import Arrival, Carried, Carry, Hands, Outcome, Throttle
from aysfs.fetch.flights import Flight, Flights
from aysfs.fetch.planner import Packs
from aysfs.fetch.segment import Segment
from aysfs.fetch.workers import Workers
from aysfs.pack.index import PackIndex
from aysfs.store.protocol import Store

log = logging.getLogger(__name__)

_BESIDE = "next to what is read"
_WITHOUT_RANGES = 600.0  # seconds for which a store that gives no parts is not asked for any
_THREADS = 2  # that take in what comes in packs: more make files in one directory, by turns
_SAMPLE = 64  # blobs that tell how much of all is wanted
_SLOWEST_DISK = 10_000_000  # bytes a second that hashing a doubtful entry may be slow to


class Crew:
    """Brings blobs from a store into a cache."""

    def __init__(
        self,
        cache: Cache,
        store: Store,
        flights: Flights,
        workers: Workers,
        nursery: trio.Nursery,
    ) -> None:
        """What is fetched beside misses runs in ``nursery``; ``workers`` take in what is ahead."""
        self.packs = Packs()
        self._cache = cache
        self._store = store
        self._flights = flights
        # Of their own: a reader's miss must not wait for those that make way for it.
        self._hands = Hands(Workers(cache, 0), trio.CapacityLimiter(_THREADS))
        self._hands_ahead = Hands(workers, trio.CapacityLimiter(_THREADS))
        self._ask_for_parts = 0.0  # when, of a store that gave none
        self._beside = Beside(self.turn, self._carry_beside, flights.quiet, nursery)

    async def work(self) -> None:
        """One of the crew: fly what waits, for ever."""
        while True:
            with trio.CancelScope() as scope:
                while not scope.cancel_called:  # by a stall
                    flight = await self._flights.next()
                    try:
                        await self._bring_it(flight, scope)
                    finally:
                        self._flights.end_turn()

    async def _bring_it(self, flight: Flight, scope: trio.CancelScope) -> None:
        """Bring a blob, out of a pack where it is in one, and then with what it leads to."""
        segment = self._segment(flight)
        if segment is None:
            flight.scope = scope
            await self._fly(flight)
        else:
            await self._carry(segment, _BESIDE, scope, ahead=False)

    def _segment(self, flight: Flight) -> Segment | None:
        """What to ask a pack for; None for a blob that comes by itself."""
        if self.packs.whole_only and trio.current_time() >= self._ask_for_parts:
            self.packs.whole_only = False
        if flight.alone or self._cache.is_doubtful(flight.digest):
            return None
        alone = self.packs.alone(flight.digest, flight.size, self._beside.coming)
        if alone is not None:
            return alone
        around = self.packs.around(flight.digest, flight.size, self.is_wanted)
        if around is None:
            return None
        self._beside.follow(around.rest)
        return around.segment

    # --- one by one --------------------------------------------------------------------------

    async def _fly(self, flight: Flight) -> None:
        ended = False
        try:
            descriptor = await self._fetch(flight)
            ended = True
            self._flights.arrived(flight, descriptor)
        except AysfsError as error:
            ended = True
            self._flights.fail(flight, error)
        except Exception as error:  # a bug in a store must fail this blob, not the mount
            ended = True
            name = flight.digest.hex()
            log.exception("fetch of %s", name)
            trouble = StoreTrouble(f"blob {name}: internal error: {error!r}")
            self._flights.fail(flight, trouble)
        finally:
            if not ended:
                self._flights.interrupt(flight)

    async def _fetch(self, flight: Flight) -> int | None:
        """Bring one blob; a descriptor of it when somebody wants to read it."""
        digest, size = flight.digest, flight.size
        if self._cache.is_doubtful(digest):
            flight.deadline += size / _SLOWEST_DISK
            await trio.to_thread.run_sync(
                self._cache.revalidate, digest, size, abandon_on_cancel=True
            )
            descriptor = self._cache.open(digest, size)
            if descriptor is not None:
                return descriptor
        insertion = await self._begin(flight)
        flight.carrier = insertion
        try:
            await self._store.get(digest, size, insertion)
            if flight.readers:
                return insertion.commit_and_open()
            insertion.commit()
            return None
        finally:
            insertion.abort()

    async def _begin(self, flight: Flight) -> Insertion:
        digest, size = flight.digest, flight.size
        try:
            return self._cache.insertion(digest, size)
        except NoSpace:
            if flight.spares:
                raise
            # Not abandoned when cancelled: the room that it reserves would be lost.
            await trio.to_thread.run_sync(make_room, self._cache, size)
            return self._cache.insertion(digest, size, reserved=True)

    # --- many by one request -----------------------------------------------------------------

    def is_wanted(self, digest: Digest, size: int) -> bool:
        """Whether a blob may be planned: it is neither here nor on its way."""
        flight = self._flights.find(digest, size)
        if flight is not None:
            return flight.queued and not flight.alone
        try:
            return not self._cache.has(digest, size) and not self._cache.is_doubtful(digest)
        except OSError:  # whoever reads it is told
            return False

    def forget(self, index: PackIndex) -> None:
        """Have no more out of these packs."""
        self.packs.remove(index)
        self._beside.forget(index)

    def all_comes(self, index: PackIndex) -> AbstractContextManager[None]:
        """To be entered while all of these packs is fetched, as fast as the line goes."""
        return self._beside.all_comes(index)

    async def get_ready(self, index: PackIndex) -> None:
        """Have those who take blobs in there, if much of these packs is wanted."""
        places = range(0, len(index), max(1, len(index) // _SAMPLE))
        wanted = sum(self.is_wanted(index.digest(at), index.size(at)) for at in places)
        await self._hands_ahead.workers.get_ready(wanted * len(index) // max(1, len(places)))

    def turn(self) -> AbstractAsyncContextManager[None]:
        """To be entered before a segment is planned that nobody asked for."""
        return self._flights.turn_ahead()

    async def carry(self, segment: Segment, why: str, throttle: Throttle | None = None) -> Carried:
        """Bring, before anybody asks, the blobs of a segment that was planned in this very moment.

        Nothing is raised: what somebody waits for by then is brought singly where a pack fails.
        The ``throttle`` holds for as long as nobody waits.
        """
        with trio.CancelScope() as scope:
            return await self._carry(segment, why, scope, ahead=True, throttle=throttle)
        return Carried(Outcome.TROUBLE)

    async def _carry_beside(self, segment: Segment) -> Carried:
        return await self.carry(segment, _BESIDE)

    async def _carry(
        self,
        segment: Segment,
        why: str,
        scope: trio.CancelScope,
        *,
        ahead: bool,
        throttle: Throttle | None = None,
    ) -> Carried:
        carry = Carry(segment)
        blobs = [(frame.digest, frame.size) for frame in segment.frames]
        flights = self._flights.board(blobs, carry, why, scope, ahead=ahead)
        party = _Party(flights, self._flights, self._cache, ahead=ahead)
        try:
            hands = self._hands_ahead if ahead else self._hands
            bringing = carry.bring(self._store, self._cache, party, hands, throttle)
            outcome = await self._judge(carry, party, bringing)
            if outcome is Outcome.DONE:
                self._beside.learn(carry.latency)
            return Carried(outcome, carry.progress, carry.latency, carry.seconds)
        finally:
            for flight in dict.fromkeys(flights):  # the pack may have a blob twice
                if not flight.done.is_set():
                    self._flights.let_off(flight)

    async def _judge(self, carry: Carry, party: "_Party", bringing: Awaitable[None]) -> Outcome:
        """What becomes of a carry."""
        name = carry.segment.pack.digest.hex()
        try:
            await bringing
        except NoRanges:
            self.packs.whole_only = True
            self._ask_for_parts = trio.current_time() + _WITHOUT_RANGES
            return Outcome.NO_RANGES
        except (BlobMissing, Corrupt) as error:
            self._distrust(carry.segment, error)
            return Outcome.DAMAGED
        except NoSpace as error:
            log.info("pack %s: %s", name, error)
            return Outcome.FULL
        except AysfsError as error:
            log.info("pack %s: %s", name, error)
            return Outcome.TROUBLE
        except Exception:  # a bug in a store must fail these blobs, not the mount
            log.exception("pack %s", name)
            return Outcome.TROUBLE
        finally:
            if party.damage is not None:
                self._distrust(carry.segment, party.damage)
        if party.damage is not None:
            return Outcome.DAMAGED
        if party.trouble is not None:
            log.info("pack %s: %s", name, party.trouble)
            return Outcome.UNUSABLE
        return Outcome.FULL if party.is_refused else Outcome.DONE

    def _distrust(self, segment: Segment, error: AysfsError) -> None:
        if self.packs.distrust(segment.pack.digest):
            log.warning("pack %s is not used: %s", segment.pack.digest.hex(), error)


class _Party:
    """The flights of a segment: who of them is waited for, and what becomes of each.

    One whose blob does not come is left for ``let_off``.
    """

    def __init__(
        self, members: Sequence[Flight], flights: Flights, cache: Cache, *, ahead: bool
    ) -> None:
        self.damage: AysfsError | None = None
        """What is wrong with the pack."""
        self.trouble: AysfsError | None = None
        """What is wrong with the cache."""
        self.is_refused = False  # the cache had no room for one of them
        self._members = members
        self._is_ahead = ahead
        self._flights = flights
        self._cache = cache

    def is_read(self, number: int) -> bool:
        return self._members[number].readers > 0

    def is_asked(self, number: int) -> bool:
        return self._members[number].is_asked_for

    @property
    def makes_way(self) -> bool:
        return self._is_ahead and self._flights.is_pressed

    async def calm(self) -> None:
        if self._is_ahead:
            await self._flights.quiet()

    def arrived(self, number: int, arrival: Arrival) -> None:
        flight, descriptor = self._members[number], arrival.descriptor
        if isinstance(arrival.error, NoSpace):
            self.is_refused = True
        elif isinstance(arrival.error, Corrupt | PackDamaged):
            self.damage = self.damage or arrival.error
        elif arrival.error is not None:
            self.trouble = self.trouble or arrival.error
        elif flight.done.is_set():  # the pack has it twice
            if descriptor is not None:
                os.close(descriptor)
        else:
            if descriptor is None and flight.readers:  # who came while it was taken in
                descriptor = self._cache.open(flight.digest, flight.size)
                if descriptor is None:
                    return
            self._flights.arrived(flight, descriptor)
