"""Large blobs read before all of them is here: by verified chunks, one flight a chunk.

Serves the engines and ``cat``. A chunk is fetched once, whoever asks, and kept (``partial``);
neighbours that are missing come in one request. Whoever reads on gets more and more of what follows
ahead of need, so that a sequential read is bound by the line and not by its round trips. Once the
last chunk is here the whole is verified, and the blob is one as any other.

Where that cannot be, the blob is fetched whole, as if it had no chunks: its index cannot be had, or
the store gives no parts. Trouble with one chunk is an error of those who wait for it, and of nobody
else. A flight without progress for the deadline fails, as one of the fetch service does.

State changes only in functions without ``await``; what a thread has written is told to the loop.
"""

import logging
import os
from collections.abc import Awaitable, Callable
from contextlib import closing, nullcontext

import trio

from aysfs.cache.blobs import Cache
from aysfs.cache.eviction import make_room
from aysfs.cache.partial import chunks_of_part, make_partial, open_partial
from aysfs.chunks import Chunks
from aysfs.digest import Digest
from aysfs.errors import AysfsError, BlobMissing, Corrupt, NoSpace, Stalled
from aysfs.fetch.flights import Flights, InFlight, Landed
from aysfs.fetch.large import AHEAD, Key, Large, Whole
from aysfs.fetch.span import Early

log = logging.getLogger(__name__)

FIRST = 1 << 20  # bytes that who begins at the beginning gets at once
_LINE = 2 << 20  # reads so near to where the last one ended go on: the kernel sends several at once
_WITHOUT_RANGES = 600.0  # seconds for which a store that gives no parts is not asked for any
_FULL = 5.0  # seconds for which a cache that could make no room is not asked to


class LargeBlobs:
    """The large blobs that are open in this process. Flights belong to ``nursery``."""

    def __init__(self, whole: Whole, flights: Flights, nursery: trio.Nursery) -> None:
        self.whole = whole
        self.flights = flights
        self.nursery = nursery
        self.completed: Callable[[Cache], Awaitable[object]] = _nothing
        """Run for each blob that was completed, once nobody has it open any more."""
        self.is_over = False
        self.ahead = 0  # requests under way that nobody waited for when they began
        self._open: dict[Key, Large] = {}
        self._refused: set[Key] = set()  # their chunks lie, or are not there
        self._full_until = -float("inf")  # there is no room, and looking for it takes a while
        self._whole_until = -float("inf")  # the store gives no parts

    async def open(
        self, digest: Digest, size: int, chunks: Chunks, why: object = "", *, head: bool = True
    ) -> "Reader":
        """A reader of a blob for which ``chunks.are_used``. Raises as ``Fetcher.open`` does.

        Most read the beginning first: with ``head`` it is asked for together with the index.
        """
        key = digest, size, chunks
        descriptor = self.whole.open_at_once(digest, size)
        if descriptor is not None:
            return Reader(self.whole.cache, None, descriptor, size, why)
        large = self._open.get(key)
        if large is not None and large.error is not None:
            large = None
        elif large is None and self._may_be_read(key):
            partial = open_partial(self.whole.cache, digest, size, chunks)
            early = None
            if partial is None:
                early = self._early(key) if head else None
                with early or nullcontext():
                    index = await self._index(key, why)
                    large = self._open.get(key)  # meanwhile
                    if large is None and index is not None:
                        partial = make_partial(self.whole.cache, digest, size, chunks, index)
                        early = early and early.kept()
            if partial is not None:
                self.flights.counters.misses += 1
                large = self._open[key] = Large(self, key, partial)
                large.complete_if_all_here()  # whoever had it before may have been killed then
                if early is not None:
                    large.take(early, why)
        if large is None:
            return Reader(
                self.whole.cache, None, await self.whole.open_fetched(digest, size, why), size, why
            )
        return Reader(self.whole.cache, large, -1, size, why)

    def part_of(self, digest: Digest, size: int) -> Chunks | None:
        """The chunks of a blob of which some are here, where they are to be used."""
        chunks = chunks_of_part(self.whole.cache, digest)
        if chunks is None or not chunks.are_used(size):
            return None
        return chunks if self._may_be_read((digest, size, chunks)) else None

    async def bring(self, digest: Digest, size: int, chunks: Chunks, why: object = "") -> None:
        """Have all of a blob in the cache; only what is missing is asked for."""
        with closing(await self.open(digest, size, chunks, why, head=False)) as reader:
            await reader.bring()

    def start(self, digest: Digest, size: int, chunks: Chunks, why: object, landed: Landed) -> None:
        """As ``bring``, with nobody who waits: ``landed`` is told how it ended."""
        self.nursery.start_soon(self._bring_and_tell, digest, size, chunks, why, landed)

    async def _bring_and_tell(
        self, digest: Digest, size: int, chunks: Chunks, why: object, landed: Landed
    ) -> None:
        error: AysfsError | None = Stalled(f"blob {digest.hex()}: the fetch service has ended")
        try:
            await self.bring(digest, size, chunks, why)
            error = None
        except AysfsError as caught:
            error = caught
        finally:
            landed(error)

    def end(self) -> None:
        """Fail what is still read: the flights are about to be ended."""
        self.is_over = True

    def told_of(self) -> list[InFlight]:
        """Every request under way, for ``status``."""
        now = trio.current_time()
        return [span.told_of(now) for large in self._open.values() for span in large.spans()]

    def _early(self, key: Key) -> Early | None:
        """The beginning of a blob, on its way."""
        digest, size, chunks = key
        count = FIRST // chunks.size
        if not count:
            return None
        early = Early(self.whole.store, digest, size, chunks.size, count)
        self.nursery.start_soon(early.run)
        return early

    def _may_be_read(self, key: Key) -> bool:
        return key not in self._refused and trio.current_time() >= self._whole_until

    async def _index(self, key: Key, why: object) -> bytes | None:
        """The index of a blob's chunks; None where there is none that could be used."""
        digest, size, chunks = key
        try:
            descriptor = await self.whole.open(chunks.digest, chunks.index_size(size), why)
        except (BlobMissing, Corrupt) as error:
            log.warning("%s: read as a whole, its chunks are not known: %s", digest.hex(), error)
            self._refused.add(key)
            return None
        with os.fdopen(descriptor, "rb") as file:
            return file.read()

    # --- for Large -------------------------------------------------------------------------

    def forget(self, large: Large) -> None:
        """Nobody has it open any more."""
        if self._open.get(large.key) is large:
            del self._open[large.key]
        if large.is_done and not self.is_over:
            self.nursery.start_soon(self.completed, self.whole.cache)

    def refuse(self, large: Large) -> None:
        """Its chunks are not those of its blob: read it whole from now on."""
        self._refused.add(large.key)

    async def make_room(self, size: int) -> bool:
        """Evict until so many bytes fit, and reserve them; False when that cannot be."""
        if trio.current_time() < self._full_until:
            return False
        try:
            # Not abandoned when cancelled: the room that it reserves would be lost.
            await trio.to_thread.run_sync(make_room, self.whole.cache, size)
        except NoSpace:
            self._full_until = trio.current_time() + _FULL
            return False
        return True

    def has_no_ranges(self) -> None:
        """The store gives no parts: do not ask it for any, for a while."""
        self._whole_until = trio.current_time() + _WITHOUT_RANGES


async def _nothing(_cache: Cache) -> None:
    """For those whom it does not matter to."""


class Reader:
    """One open file. Close it."""

    def __init__(
        self, cache: Cache, large: Large | None, descriptor: int, size: int, why: object
    ) -> None:
        self.cache = cache
        self._large = large
        self._descriptor = descriptor
        self._size = size
        self._why = why
        self._at = -1  # up to where it was read, -1 before the first
        self._in_line = 0  # bytes read one behind the other
        if large is not None:
            large.readers += 1

    @property
    def is_whole(self) -> bool:
        """Whether all of the blob is in the cache, as one of its own."""
        return self._large is None or self._large.is_done or self._large.whole is not None

    async def read(self, offset: int, length: int) -> bytes:
        """These bytes of the blob, fewer at its end, verified. Raises as ``Fetcher.open`` does."""
        end = min(offset + length, self._size)
        if offset >= end:
            return b""
        if self._large is None:
            return os.pread(self._descriptor, end - offset, offset)
        return await self._large.read(offset, end, self._ahead(offset, end), self._why)

    async def bring(self) -> None:
        """Have all of the blob in the cache, as one of its own."""
        if self._large is not None:
            await self._large.bring(self._why)

    def close(self) -> None:
        """Let go of it. What is fetched ahead for nobody else ends."""
        if self._large is not None:
            self._large.leave()
        else:
            os.close(self._descriptor)

    def _ahead(self, offset: int, end: int) -> int:
        """Bytes behind a read that are likely to be wanted: as many as were read in one line."""
        before, self._at = self._at, max(self._at, end)
        if before < 0:
            self._in_line = end - offset
            return FIRST - end if offset == 0 else 0
        if not before - _LINE <= offset <= before + _LINE:
            self._at, self._in_line = end, end - offset
            return 0
        self._in_line += end - offset
        return min(self._in_line, AHEAD) if end > before else 0
