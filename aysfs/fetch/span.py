"""Neighbouring chunks of a large blob on their way in one request, and the sink that takes them.

Serves ``chunks``. A span knows who waits for which chunk, and how far it is; its sink verifies each
chunk and keeps it, in the event loop or in the thread of a store.
"""

import threading
from collections.abc import Sequence

import trio

from aysfs import digest as digests
from aysfs.cache.partial import Partial
from aysfs.cache.usage import on_disk
from aysfs.digest import Digest
from aysfs.errors import AysfsError, Corrupt, StoreTrouble
from aysfs.fetch.flights import InFlight
from aysfs.store.protocol import Store


class Span:
    """Some neighbouring chunks on their way, in one request."""

    def __init__(
        self,
        partial: Partial,
        first: int,
        count: int,
        last: int,
        why: object,
        deadline: float,
        early: "Early | None" = None,
    ) -> None:
        """Up to chunk ``last`` somebody waits for them, ``deadline`` seconds without progress.

        ``early`` brings them where they were asked for before their digests were known.
        """
        self.partial = partial
        self.early = early
        self.first = first
        self.count = count
        self.why = why
        self.reserved = self.fetched = 0
        self._deadline = deadline
        self.held: dict[int, bytes] | None = None
        """The chunks that came, where they are not kept in the cache."""
        self.scope = trio.CancelScope()
        self.is_dropped = False
        self._needed = max(0, min(count, last + 1 - first))
        self._waiting = 0
        self._since = 0.0  # when the first began to wait
        self._error: AysfsError | None = None
        self._is_over = False
        self._news = trio.Event()
        self._token = trio.lowlevel.current_trio_token()
        self._thread = threading.get_ident()
        self.moved()

    @property
    def is_needed(self) -> bool:
        """Whether somebody waited for one of them when it began."""
        return self._needed > 0

    @property
    def start(self) -> int:
        """Where in the blob they begin."""
        return self.first * self.partial.chunks.size

    @property
    def length(self) -> int:
        """Their bytes."""
        return sum(self.lengths)

    @property
    def lengths(self) -> Sequence[int]:
        """The bytes of each."""
        partial = self.partial
        return [
            partial.chunks.length(number, partial.size)
            for number in range(self.first, self.first + self.count)
        ]

    @property
    def room(self) -> int:
        """What they take on the disk."""
        return sum(map(on_disk, self.lengths))

    def told_of(self, now: float) -> InFlight:
        """For ``status``."""
        waited = now - self._since if self._waiting else 0.0
        return InFlight(
            self.partial.digest, self.length, self.fetched, self._waiting, waited, self.why
        )

    def drop(self) -> None:
        """Nobody wants them any more."""
        self.is_dropped = True
        self.scope.cancel()

    def shrink(self) -> None:
        """Only what somebody waits for."""
        self.count = self._needed

    async def landed(self, number: int) -> None:
        """Wait for one of the chunks, or for the end; raises the error that ended it."""
        self._waiting += 1
        self._since = self._since or trio.current_time()
        try:
            while not self._is_over and not self._has(number):
                await self._news.wait()
        finally:
            self._waiting -= 1
        if self._error is not None and not self._has(number):
            raise self._error

    def _has(self, number: int) -> bool:
        return number in self.held if self.held is not None else self.partial.has(number)

    def hold(self) -> None:
        """Keep the chunks in memory, for those who wait: there is no room for them."""
        self.held = {}

    def here(self, taken: int, length: int) -> None:
        """A chunk was written, which took so much of the room. From any thread."""
        self.reserved -= taken
        self.fetched += length
        if threading.get_ident() == self._thread:
            self._tell()
        else:
            self._token.run_sync_soon(self._tell, idempotent=True)

    def ended(self, error: AysfsError | None) -> None:
        """No more will come; ``error`` is for those who still wait, without one they ask again."""
        if not self._is_over:
            self._is_over, self._error = True, error
        self._tell()

    def moved(self) -> None:
        """There is progress: the deadline begins anew."""
        self.scope.deadline = trio.current_time() + self._deadline

    def _tell(self) -> None:
        self.moved()
        news, self._news = self._news, trio.Event()
        news.set()


class SpanSink:
    """Takes the bytes of a span, and keeps each chunk that is right."""

    def __init__(self, span: Span, descriptor: int) -> None:
        self._span = span
        self._partial = span.partial
        self._descriptor = descriptor
        self._number = span.first
        self._rest = bytearray()  # of a chunk that is not whole yet

    def write(self, data: bytes | bytearray | memoryview, /) -> None:
        view = memoryview(data)
        while view:
            if self._number >= self._span.first + self._span.count:
                raise Corrupt(f"blob {self._partial.digest.hex()}: more bytes than were asked for")
            length = self._partial.chunks.length(self._number, self._partial.size)
            piece = view[: length - len(self._rest)]
            view = view[len(piece) :]
            if len(piece) == length:
                self.take(piece, digests.of(piece))
            else:
                self._rest += piece
                if len(self._rest) == length:
                    whole, self._rest = self._rest, bytearray()
                    self.take(memoryview(whole), digests.of(whole))

    def take(self, data: memoryview, digest: Digest) -> None:
        """As ``write`` does with the bytes of the next chunk, of which somebody knows the digest.

        What comes after them may be written.
        """
        partial, number = self._partial, self._number
        if digest != partial.digest_of(number):
            raise Corrupt(f"blob {partial.digest.hex()}: chunk {number} has wrong bytes")
        if self._span.held is not None:
            self._span.held[number] = bytes(data)
            self._span.here(0, len(data))
        elif not partial.has(number):
            partial.put(self._descriptor, number, data)
            self._span.here(on_disk(len(data)), len(data))
        self._number += 1

    def restart(self) -> None:
        self._number = self._span.first
        self._rest.clear()

    def check_whole(self) -> None:
        """Corrupt unless all bytes came."""
        if self._number != self._span.first + self._span.count:
            raise Corrupt(f"blob {self._partial.digest.hex()}: fewer bytes than were asked for")


class Early:
    """The first bytes of a blob, asked for while nothing is known that would verify them.

    They are held, and hashed, until ``pour_into`` is told where they belong. A context: what is
    left of it when that ends is given up, unless it was ``kept``.
    """

    def __init__(self, store: Store, digest: Digest, size: int, cut: int, count: int) -> None:
        """So many chunks of ``cut`` bytes, PART_IN_LOOP at most: all is done in the event loop."""
        self.length = cut * count
        self.scope = trio.CancelScope()
        self._store = store
        self._digest = digest
        self._size = size
        self._cut = cut
        self._held = bytearray()
        self._hashed: list[Digest] = []  # the chunks of what is held that are whole
        self._sink: SpanSink | None = None
        self._error: AysfsError | None = None
        self._is_over = trio.Event()
        self._is_kept = False

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        if not self._is_kept:
            self.scope.cancel()

    def kept(self) -> "Early":
        """Itself, which goes on."""
        self._is_kept = True
        return self

    async def run(self) -> None:
        """Ask for them."""
        try:
            with self.scope:
                await self._store.get_range(self._digest, self._size, 0, self.length, self)
        except AysfsError as error:
            self._error = error
        except Exception as error:  # noqa: BLE001 - a bug in a store fails these chunks, not the mount
            self._error = StoreTrouble(f"blob {self._digest.hex()}: internal error: {error!r}")
        finally:
            self._is_over.set()

    async def pour_into(self, sink: "SpanSink") -> None:
        """Let the sink have them, those that are here at once; raises as the store or the sink."""
        held, hashed, cut = memoryview(self._held), self._hashed, self._cut
        self._forget()
        self._sink = sink
        try:
            for number, digest in enumerate(hashed):
                sink.take(held[number * cut : (number + 1) * cut], digest)
            sink.write(held[len(hashed) * cut :])
            await self._is_over.wait()
        finally:
            self._sink = None  # its descriptor is closed next: what still comes goes nowhere
        if self._error is not None:
            raise self._error

    def write(self, data: bytes | memoryview, /) -> None:
        """A sink of the store's."""
        if self._sink is not None:
            self._sink.write(data)
            return
        self._held += data
        with memoryview(self._held) as held:
            while (at := len(self._hashed) * self._cut) + self._cut <= len(held):
                self._hashed.append(digests.of(held[at : at + self._cut]))

    def restart(self) -> None:
        """A sink of the store's."""
        self._forget()
        if self._sink is not None:
            self._sink.restart()

    def _forget(self) -> None:
        self._held, self._hashed = bytearray(), []
