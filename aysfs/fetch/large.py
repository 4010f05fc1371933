"""One large blob that is open in this process: which chunks of it are on their way, and for whom.

Serves ``chunks``. Owns the flights of its chunks, and the steps that end them: the whole is
verified when nothing is missing, or fetched as such where there are no parts.
"""

import logging
import os
import threading
from collections.abc import Iterator
from typing import Protocol

import trio

from aysfs.cache.blobs import Cache
from aysfs.cache.partial import Partial, whole_digest
from aysfs.chunks import Chunks
from aysfs.digest import Digest
from aysfs.errors import AysfsError, Corrupt, NoRanges, NoSpace, Stalled, StoreTrouble
from aysfs.fetch.flights import Flights
from aysfs.fetch.span import Early, Span, SpanSink
from aysfs.store.protocol import Store

log = logging.getLogger(__name__)

Key = tuple[Digest, int, Chunks]
"""What a large blob is known by: two lists may cut the same one differently."""

AHEAD = 16 << 20  # the most that is fetched before it is asked for
REQUEST = 4 << 20  # the most that one request asks for
_AHEAD_AT_ONCE = 8  # requests that nobody waits for yet
_PAUSE = 1.0  # seconds without fetching ahead after a failure
_AGAIN = 3  # times that a chunk is asked for which was here and is not any more


class Whole(Protocol):
    """What of the fetch service is needed: blobs as a whole."""

    cache: Cache
    store: Store

    def open_at_once(self, digest: Digest, size: int) -> int | None: ...
    async def open_fetched(self, digest: Digest, size: int, why: object = "") -> int: ...
    async def open(self, digest: Digest, size: int, why: object = "") -> int: ...


class Home(Protocol):
    """What all large blobs of a process share."""

    whole: Whole
    flights: Flights
    nursery: trio.Nursery
    is_over: bool
    ahead: int

    async def make_room(self, size: int) -> bool: ...
    def has_no_ranges(self) -> None: ...
    def refuse(self, large: "Large") -> None: ...
    def forget(self, large: "Large") -> None: ...


class Large:
    """A blob that is open in this process, whoever reads it."""

    def __init__(self, home: Home, key: Key, partial: Partial) -> None:
        self.home = home
        self.key = key
        self.partial = partial
        self.readers = 0
        self.is_done = False  # it is a blob as any other
        self.error: AysfsError | None = None  # why nothing of it is to be read
        self.whole: int | None = None  # a descriptor of all of it, where it came whole
        self._size = key[1]
        self._cut = key[2].size
        self._flights: dict[int, Span] = {}  # by chunk
        self._falling_back: trio.Event | None = None
        self._completion: trio.Event | None = None  # set when the verification has ended
        self._working = 0  # tasks that use the files
        self._ahead_from = 0.0  # when to fetch ahead of need again, after a failure

    def spans(self) -> list[Span]:
        """The requests under way."""
        return list(dict.fromkeys(self._flights.values()))

    # --- for readers ------------------------------------------------------------------------

    async def read(self, start: int, end: int, ahead: int, why: object) -> bytes:
        """These bytes, at least one; and begin to fetch as many behind them."""
        first, last = start // self._cut, (end - 1) // self._cut
        if self.home.is_over:
            raise Stalled(f"blob {self.key[0].hex()}: the fetch service has ended")
        if self.whole is None and self.partial.is_removed:  # all of it may have come meanwhile
            self.whole = self.home.whole.open_at_once(self.key[0], self._size)
        held: dict[int, bytes] = {}
        if self.whole is None:
            self._want(first, last, last + max(0, ahead) // self._cut, why)
            for number in range(first, last + 1):
                if (data := await self._arrived(number, why)) is not None:
                    held[number] = data
        if self.error is not None:
            raise self.error
        if not held:
            return self._pread(start, end)
        cut, pieces = self._cut, []
        for number in range(first, last + 1):
            begin, stop = max(start, number * cut), min(end, (number + 1) * cut)
            chunk = held.get(number)
            if chunk is None:
                pieces.append(self._pread(begin, stop))
            else:
                pieces.append(chunk[begin - number * cut : stop - number * cut])
        return b"".join(pieces)

    def _pread(self, start: int, end: int) -> bytes:
        descriptor = self.partial.descriptor if self.whole is None else self.whole
        data = os.pread(descriptor, end - start, start)
        if len(data) != end - start:  # somebody cut the file under us
            raise Corrupt(f"blob {self.key[0].hex()}: its entry in the cache became shorter")
        return data

    async def bring(self, why: object) -> None:
        """Fetch what is missing, in order, and wait until the whole is verified."""
        ahead = AHEAD // self._cut
        for number in range(self.partial.count):
            if self.whole is None and self.error is None and not self.partial.has(number):
                self._want(number, number, number + ahead, why)
                if await self._arrived(number, why) is not None:
                    raise NoSpace(f"blob {self.key[0].hex()}: the cache has no room for all of it")
        self.complete_if_all_here()  # the last request may not have ended yet
        while self._completion is not None:
            await self._completion.wait()
        if self.error is not None:
            raise self.error
        if not self.is_done and self.whole is None:  # evicted, say, or another process was first
            digest, size, _ = self.key
            os.close(await self.home.whole.open(digest, size, why))

    def leave(self) -> None:
        """One reader less."""
        self.readers -= 1
        if not self.readers:
            for span in self.spans():
                span.drop()
            self._flights.clear()  # who comes meanwhile begins anew
        self._settle()

    async def _arrived(self, number: int, why: object) -> bytes | None:
        """Wait for a chunk; an error of its own, and not that of a neighbour, is raised.

        Its bytes, where they are not kept in the cache.
        """
        for _ in range(_AGAIN):
            if self.whole is not None or self.error is not None or self.partial.has(number):
                return None
            self._want(number, number, number, why)
            span = self._flights.get(number)
            if span is None:
                continue
            self.home.flights.press(1)
            try:
                await span.landed(number)
                if span.held is not None and number in span.held:
                    return span.held[number]
            except Corrupt:
                if span.count == 1:
                    raise
            finally:
                self.home.flights.press(-1)
        if not self.partial.has(number):
            raise StoreTrouble(f"blob {self.key[0].hex()}: chunk {number} does not stay here")
        return None

    def _want(self, first: int, last: int, ahead: int, why: object) -> None:
        """Begin to fetch what is missing, up to ``last`` needed and up to ``ahead`` likely."""
        if trio.current_time() < self._ahead_from:
            ahead = last
        ahead = min(ahead, self.partial.count - 1)
        most, deadline = max(1, REQUEST // self._cut), self.home.flights.deadline
        for begin, end in self._missing(first, ahead):
            if begin > last:
                # A little that is only likely waits until it is worth a request.
                is_little = 2 * (end - begin) < ahead - last and end < self.partial.count
                if is_little or self.home.ahead >= _AHEAD_AT_ONCE:
                    continue
            for at in range(begin, end, most):
                span = Span(self.partial, at, min(most, end - at), last, why, deadline)
                self._begin(span)

    def take(self, early: Early, why: object) -> None:
        """Have the beginning, which is on its way, brought as any other chunks."""
        count = early.length // self._cut
        span = Span(self.partial, 0, count, -1, why, self.home.flights.deadline, early)
        self._begin(span)

    def _begin(self, span: Span) -> None:
        self._flights.update(dict.fromkeys(range(span.first, span.first + span.count), span))
        self._working += 1
        self.home.ahead += not span.is_needed
        self.home.nursery.start_soon(self._fly, span)

    def _missing(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Runs of chunks that are neither here nor on their way: the first, and behind the last."""
        begin: int | None = None
        for number in range(first, last + 2):
            lacks = number <= last and number not in self._flights and not self.partial.has(number)
            if lacks and begin is None:
                begin = number
            elif not lacks and begin is not None:
                yield begin, number
                begin = None

    # --- flights ----------------------------------------------------------------------------

    async def _fly(self, span: Span) -> None:
        """Bring some chunks. Whatever happens, who waits for them is woken."""
        name = f"blob {self.key[0].hex()}"
        error: AysfsError | None = None
        try:
            with span.scope:
                await self._bring(span)
            error = self._cut_off(span) if span.scope.cancelled_caught else None
        except NoRanges:
            error = await self._fall_back(span)
        except NoSpace as caught:
            error = caught if span.is_needed else None
            self._pause_ahead()
        except AysfsError as caught:
            error = caught
        except Exception as caught:  # a bug in a store must fail these chunks, not the mount
            log.exception("chunks of %s", self.key[0].hex())
            error = StoreTrouble(f"{name}: internal error: {caught!r}")
        except trio.Cancelled:
            span.ended(Stalled(f"{name}: the fetch service has ended"))
            raise
        finally:
            self._land(span, error)

    def _land(self, span: Span, error: AysfsError | None) -> None:
        self._flights = {at: one for at, one in self._flights.items() if one is not span}
        if span.early is not None:
            span.early.scope.cancel()
        span.ended(error)
        self._working -= 1
        self.home.ahead -= not span.is_needed
        if error is not None:
            self._pause_ahead()
        counters = self.home.flights.counters
        counters.fetched_bytes += span.fetched
        if error is not None:
            counters.failures += 1
            log.warning("%s: %s", span.why or "fetch", error)
        self.complete_if_all_here()
        self._settle()

    def _pause_ahead(self) -> None:
        """What failed is not tried again with every read before somebody needs it."""
        self._ahead_from = trio.current_time() + _PAUSE

    def _cut_off(self, span: Span) -> AysfsError | None:
        """Why a request was ended: its deadline, or nobody reads any more."""
        if span.is_dropped:
            return None
        name, where = self.key[0].hex(), self.home.flights.source
        return Stalled(f"blob {name}: no progress in {self.home.flights.deadline:g} s from {where}")

    async def _bring(self, span: Span) -> None:
        cache, store = self.home.whole.cache, self.home.whole.store
        await self._reserve(span)
        try:
            with self.partial.opened_to_write() as descriptor:
                sink = SpanSink(span, descriptor)
                if span.early is not None:
                    await span.early.pour_into(sink)
                else:
                    await store.get_range(self.key[0], self._size, span.start, span.length, sink)
                sink.check_whole()
        finally:
            if span.reserved:
                cache.usage.release(span.reserved)

    async def _reserve(self, span: Span) -> None:
        """Room for a request; what nobody waits for evicts nothing, and is dropped instead.

        Where there is none, a blob that is larger than the cache say, readers get what they wait
        for all the same, and the next who wants it asks the store again.
        """
        usage = self.home.whole.cache.usage
        try:
            usage.reserve(span.room)
        except NoSpace:
            span.shrink()  # to what somebody waits for
            for at in [one for one, flying in self._flights.items() if flying is span]:
                if at >= span.first + span.count:
                    del self._flights[at]
            if not span.count:
                raise
            if not await self.home.make_room(span.room):
                span.hold()
                return
        span.reserved = span.room

    async def _fall_back(self, span: Span) -> AysfsError | None:
        """Have all of the blob, since its store gives no parts."""
        self.home.has_no_ranges()
        while self._falling_back is not None:
            await self._falling_back.wait()
        if self.whole is not None:
            return None
        self._falling_back = trio.Event()
        try:
            self.whole = await self.home.whole.open(self.key[0], self._size, span.why)
            self.partial.discard()
        except AysfsError as error:
            return error
        finally:
            self._falling_back.set()
            self._falling_back = None
        return None

    # --- the end ----------------------------------------------------------------------------

    def complete_if_all_here(self) -> None:
        """Begin to verify the whole, when nothing of it is missing."""
        if self.is_done or self.error or self.whole is not None or self._completion is not None:
            return
        if not self.partial.is_closed and self.partial.is_complete:
            self._completion = trio.Event()
            self._working += 1
            self.home.nursery.start_soon(self._complete)

    async def _complete(self) -> None:
        """Verify the whole, and let it be a blob."""
        stop = threading.Event()
        try:
            copy = os.dup(self.partial.descriptor)  # for a thread that may outlive this
            found = await trio.to_thread.run_sync(
                whole_digest, copy, self._size, stop.is_set, abandon_on_cancel=True
            )
            if found == self.key[0]:
                self.is_done = self.partial.complete()
            else:
                await self._judge_wrong_whole()
        except (AysfsError, OSError) as error:  # it stays as it is: every chunk can be read
            log.warning("blob %s: %s", self.key[0].hex(), error)
        finally:
            stop.set()
            completion, self._completion = self._completion, None
            assert completion is not None
            completion.set()
            self._working -= 1
            self._settle()

    async def _judge_wrong_whole(self) -> None:
        """All chunks are here, and together they are not the blob: who is wrong?"""
        if await trio.to_thread.run_sync(self.partial.doubt):
            return  # the disk was: these chunks are missing again
        name = self.key[0].hex()
        self.error = Corrupt(f"blob {name}: its chunks are right, and together another blob")
        self.home.whole.cache.report(str(self.error))
        self.home.refuse(self)
        self.partial.discard()

    def _settle(self) -> None:
        """Close what nobody uses."""
        if self.readers or self._working or self.partial.is_closed:
            return
        self.partial.close()
        if self.whole is not None:
            os.close(self.whole)
        self.home.forget(self)
