"""Many blobs by one request: a segment of a pack, asked for, taken apart and taken in.

Serves the crew of the fetch service. Owns the bytes of a segment on their way; each blob is taken
in as soon as its frame is here. A pack is believed no further than each blob's own digest: what a
frame gives is hashed as any other bytes are on their way in.
"""

import os
import threading
import time
from bisect import bisect_right
from collections.abc import Awaitable, Callable
from contextlib import suppress
from enum import Enum
from functools import cached_property
from itertools import accumulate
from typing import BinaryIO, NamedTuple, Protocol

import trio

from aysfs.cache.blobs import Cache
from aysfs.digest import Digest
from aysfs.errors import AysfsError, Corrupt, NoSpace, first_of
from aysfs.fetch.segment import Frame, Segment
from aysfs.fetch.take import Taker
from aysfs.fetch.workers import WorkerLost, Workers
from aysfs.store.protocol import Store

_HELD = 8 << 20  # stored bytes in memory; more are in a file without a name
_MAKES_WAY = 0.001  # seconds a blob that nobody waits for is late by while readers wait for others
_AT_ONCE = 32 << 10  # bytes of blobs that are taken in by the event loop: a thread costs more
# Blobs that are taken in before those who wait for them, or for others, have a turn; and that a
# process beside this one is given at once, which tells of each; no more bytes than that, or one.
# The content of frames counts by itself: a batch is not given up, and a few bytes may be gigabytes.
_TOGETHER, _GIVEN = 32, 256
_GIVEN_BYTES, _GIVEN_CONTENT = 8 << 20, 128 << 20


class Outcome(Enum):
    """How a segment fared."""

    DONE = "done"
    NO_RANGES = "the store gives no parts of a pack"
    FULL = "the cache is full"
    DAMAGED = "the pack is not what its index says"
    UNUSABLE = "the cache cannot be written"
    TROUBLE = "the store does not answer"


class Carried(NamedTuple):
    """What became of a segment: its bytes, and the seconds until the first and the last came."""

    outcome: Outcome
    progress: int = 0
    latency: float = 0.0
    seconds: float = 0.0


class Arrival(NamedTuple):
    """What became of a frame: the blob is in the cache, unless there is an error."""

    descriptor: int | None = None
    error: AysfsError | None = None


Throttle = Callable[[int], Awaitable[int]]
"""Waits until some of so many bytes may be asked for; how many, at least one."""


class Party(Protocol):
    """Those who wait for the frames of a segment, by a frame's number."""

    def is_read(self, number: int) -> bool:
        """Whether somebody wants to read the blob."""

    def is_asked(self, number: int) -> bool:
        """Whether anybody waits for it: only then is anything evicted."""

    @property
    def makes_way(self) -> bool:
        """Whether readers wait for something else, and nobody for this."""

    async def calm(self) -> None:
        """Wait until this need not make way."""

    def arrived(self, number: int, arrival: Arrival) -> None:
        """In the event loop, and at most once for each frame."""


class Hands(NamedTuple):
    """Who takes blobs in: processes beside this one, or threads of it."""

    workers: Workers
    threads: trio.CapacityLimiter


class Carry:
    """A segment on its way: the sink of its bytes."""

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self.latency = self.seconds = 0.0
        """From asking to the first and to the last byte."""
        self._asked = time.monotonic()
        self._bytes: _Held | _Filed = _Held(0)
        self._came = 0  # bytes
        self._begun = 0  # where the request begins that brings them
        self._ends = [frame.start + frame.stored for frame in segment.frames]
        self._taken = 0  # frames, of which others were told
        self._done = 0  # frames, counted by whatever thread takes them in
        self._news = trio.Event()
        self._ended = False
        self._token = trio.lowlevel.current_trio_token()
        self._thread = threading.get_ident()

    @property
    def progress(self) -> int:
        """For whoever watches for a stall: bytes that came, and frames that were taken in."""
        return self._came + self._done

    def here(self, digest: Digest) -> int:
        """About as much of a blob's size as of its frame has come."""
        frame = self._frames.get(digest)
        if frame is None:
            return 0
        came = min(max(self._came - frame.start, 0), frame.stored)
        return frame.size * came // frame.stored

    @cached_property
    def _frames(self) -> dict[Digest, Frame]:
        return {frame.digest: frame for frame in self.segment.frames}

    def write(self, data: bytes | memoryview, /) -> None:
        """Take the next bytes."""
        self.seconds = time.monotonic() - self._asked
        self.latency = self.latency or self.seconds
        if self._came + len(data) > self.segment.length:
            raise Corrupt(f"pack {self.segment.pack.digest.hex()}: more bytes than were asked for")
        self._bytes.put(self._came, data)
        self._came += len(data)
        if self._taken < len(self._ends) and self._ends[self._taken] <= self._came:
            if threading.get_ident() == self._thread:
                self._tell()
            else:
                self._token.run_sync_soon(self._tell, idempotent=True)

    def restart(self) -> None:
        """Begin again with the first byte of the request."""
        self._came = self._begun

    def _tell(self) -> None:
        self._news.set()

    async def bring(
        self,
        store: Store,
        cache: Cache,
        party: Party,
        hands: Hands,
        throttle: Throttle | None = None,
    ) -> None:
        """Have the blobs of all frames in the cache. Raises as ``get`` and ``get_range`` do."""
        length = self.segment.length
        self._bytes = _Held(length) if length <= _HELD else _Filed(cache.nameless_file())
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._take_in_all, cache, party, hands)
                await self._receive(store, party, throttle)
                self._ended = True
                self._tell()
        # Not `except*`: Python 3.11.2, Debian's, would wrap what is raised.
        except BaseExceptionGroup as group:
            raise first_of(group) from None
        finally:
            self._bytes.close()

    async def _receive(self, store: Store, party: Party, throttle: Throttle | None) -> None:
        pack, start, length, _ = self.segment
        if length == pack.size:
            await store.get(pack.digest, pack.size, self)
        elif throttle is None:
            await store.get_range(pack.digest, pack.size, start, length, self)
        else:
            while self._came < length:
                self._begun = self._came
                piece = left = length - self._came
                if not any(map(party.is_asked, range(len(self._ends)))):
                    piece = await throttle(left)
                await store.get_range(pack.digest, pack.size, start + self._came, piece, self)
                if self._came != self._begun + piece:
                    break
        if self._came != length:
            raise Corrupt(f"pack {pack.digest.hex()}: {self._came} bytes came of {length}")

    async def _take_in_all(self, cache: Cache, party: Party, hands: Hands) -> None:
        while True:
            await self._news.wait()
            self._news = trio.Event()
            here = bisect_right(self._ends, self._came)
            if self._ended or here > self._taken:
                self._news.set()
            if here > self._taken:
                await self._take_in_some(here, cache, party, hands)
            elif self._ended:
                return

    async def _take_in_some(self, here: int, cache: Cache, party: Party, hands: Hands) -> None:
        """Take in some of those before ``here``, by whoever does it best."""
        given = range(self._taken, min(here, self._taken + _GIVEN, self._within()))
        if not any(map(party.is_asked, given)) and hands.workers.are_worth_it(len(given)):
            with suppress(WorkerLost):
                await self._give(given, party, hands.workers)
            return
        # What a miss waits for is the first, and waits for no others.
        numbers = given[: _TOGETHER if self._taken else 1]
        size = sum(self.segment.frames[number].size for number in numbers)
        is_quick = size <= _AT_ONCE and not party.makes_way  # which is a sleep
        if is_quick and cache.usage.has_room(size):
            arrivals = self._arrivals(numbers, cache, party)
        else:
            # Not abandoned when cancelled: it is over soon, and what it opened would be lost.
            arrivals = await trio.to_thread.run_sync(
                self._arrivals, numbers, cache, party, limiter=hands.threads
            )
        for number, arrival in zip(numbers, arrivals, strict=True):
            party.arrived(number, arrival)
        self._taken = numbers.stop

    def _within(self) -> int:
        """The frame behind those that are given together as far as their bytes go."""
        frames, first = self.segment.frames, self._taken
        end = bisect_right(self._ends, frames[first].start + _GIVEN_BYTES)
        contents = accumulate(one.size for one in frames[first : min(end, first + _GIVEN)])
        return first + max(1, sum(content <= _GIVEN_CONTENT for content in contents))

    async def _give(self, numbers: range, party: Party, workers: Workers) -> None:
        """Let a process beside this one take them in. WorkerLost; what came until then is taken."""
        with trio.move_on_after(_MAKES_WAY * len(numbers)):
            await party.calm()
        frames = self.segment.frames[numbers.start : numbers.stop]
        start, end = frames[0].start, frames[-1].start + frames[-1].stored
        placed = [one._replace(start=one.start - start) for one in frames]

        def told(number: int, error: AysfsError | None) -> None:
            self._done += 1
            self._taken += 1
            party.arrived(numbers[number], Arrival(error=error))

        with self._bytes.part(start, end - start) as part:
            await workers.take_in(placed, part, told)

    def _arrivals(self, numbers: range, cache: Cache, party: Party) -> list[Arrival]:
        arrivals = []
        for number in numbers:
            frame = self.segment.frames[number]
            if party.makes_way and not party.is_asked(number):
                time.sleep(_MAKES_WAY)
            try:
                taker = Taker(cache, frame, make_way=party.is_asked(number))
                with self._bytes.part(frame.start, frame.stored) as part:
                    arrivals.append(Arrival(taker.take(part, opens=party.is_read(number))))
            except AysfsError as error:
                arrivals.append(Arrival(error=error))
            self._done += 1
        return arrivals


class _Held:
    """Bytes in memory, of a number that is known."""

    def __init__(self, length: int) -> None:
        self._data = bytearray(length)

    def put(self, at: int, data: bytes | memoryview) -> None:
        self._data[at : at + len(data)] = data

    def part(self, start: int, length: int) -> memoryview:
        return memoryview(self._data)[start : start + length]

    def close(self) -> None:
        self._data = bytearray()


class _Filed:
    """Bytes in a file. Not mapped: a full disk must be an OSError, not a SIGBUS."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def put(self, at: int, data: bytes | memoryview) -> None:
        try:
            while data:
                count = os.pwrite(self._file.fileno(), data, at)
                at, data = at + count, data[count:]
        except OSError as error:
            raise NoSpace(f"a pack on its way cannot be kept: {error.strerror}") from error

    def part(self, start: int, length: int) -> memoryview:
        return memoryview(os.pread(self._file.fileno(), length, start))

    def close(self) -> None:
        self._file.close()
