"""Many blobs by one request: a segment of a pack, asked for, taken apart and taken in.

Serves the fetch service. Owns the bytes of a segment on their way. A pack is believed no further
than each blob's own digest: what a frame gives is hashed as any other bytes are on their way in.
"""

import mmap
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import BinaryIO, NamedTuple

import trio

from aysfs.cache.blobs import Cache
from aysfs.cache.eviction import make_room
from aysfs.cache.packs import Frame, Segment
from aysfs.errors import AysfsError, Corrupt, NoSpace
from aysfs.pack.expand import expand, expand_to
from aysfs.store.protocol import Store

_HELD = 8 << 20  # stored bytes in memory; more are in a file without a name
_STREAMED = 1 << 20  # a blob above it is never in memory as a whole


class Arrival(NamedTuple):
    """What became of a frame: the blob is in the cache, unless there is an error."""

    descriptor: int | None = None
    error: AysfsError | None = None


class Carry:
    """A segment on its way: the sink of its bytes."""

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self.progress = 0
        self.latency = self.seconds = 0.0
        """From asking to the first and to the last byte."""
        self._asked = time.monotonic()
        self._data = bytearray()
        self._file: BinaryIO | None = None

    def write(self, data: bytes | memoryview, /) -> None:
        """Take the next bytes."""
        self.seconds = time.monotonic() - self._asked
        self.latency = self.latency or self.seconds
        self.progress += len(data)
        if self.progress > self.segment.length:
            raise Corrupt(f"pack {self.segment.pack.digest.hex()}: more bytes than were asked for")
        if self._file is None:
            self._data += data
        else:
            self._file.write(data)

    def restart(self) -> None:
        """Begin again with the first byte."""
        self.progress = 0
        self._data.clear()
        if self._file is not None:
            self._file.seek(0)
            self._file.truncate()

    async def receive(self, store: Store, cache: Cache) -> None:
        """Have all bytes. Raises as ``get`` and ``get_range`` do."""
        pack, start, length, _ = self.segment
        if length > _HELD:
            self._file = cache.nameless_file()
        if length == pack.size:
            await store.get(pack.digest, pack.size, self)
        else:
            await store.get_range(pack.digest, pack.size, start, length, self)
        if self.progress != length:
            raise Corrupt(f"pack {pack.digest.hex()}: {self.progress} bytes came of {length}")

    async def take_in(self, cache: Cache, is_read: "Asked", is_asked: "Asked") -> list[Arrival]:
        """Have the blobs of the frames in the cache, each verified; what became of them, in order.

        ``is_read`` says of a frame's number whether somebody wants to read it, ``is_asked`` whether
        anybody waits: only then is anything evicted for it. Not abandoned when cancelled: it is
        over soon, and what it opened would be lost.
        """
        return await trio.to_thread.run_sync(self._take_in, cache, is_read, is_asked)

    def close(self) -> None:
        """Let go of the bytes."""
        self._data = bytearray()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _take_in(self, cache: Cache, is_read: "Asked", is_asked: "Asked") -> list[Arrival]:
        arrivals = []
        with ExitStack() as opened:
            data = opened.enter_context(self._view(opened))
            for number, frame in enumerate(self.segment.frames):
                try:
                    taker = _Taker(cache, frame, make_way=is_asked(number))
                    with data[frame.start : frame.start + frame.stored] as part:
                        arrivals.append(Arrival(taker.take(part, opens=is_read(number))))
                except AysfsError as error:
                    arrivals.append(Arrival(error=error))
        return arrivals

    def _view(self, opened: ExitStack) -> memoryview:
        if self._file is None:
            return memoryview(self._data)
        self._file.flush()
        mapped = mmap.mmap(self._file.fileno(), self.segment.length, prot=mmap.PROT_READ)
        return memoryview(opened.enter_context(mapped))


Asked = Callable[[int], bool]


class _Taker:
    """Takes one blob in."""

    def __init__(self, cache: Cache, frame: Frame, *, make_way: bool) -> None:
        self._cache = cache
        self._frame = frame
        self._make_way = make_way

    def take(self, part: memoryview, *, opens: bool) -> int | None:
        """The blob of these stored bytes; a descriptor of it where one ``opens`` it."""
        digest, size = self._frame.digest, self._frame.size
        if size <= _STREAMED:
            data = expand(part, size)
            reserved = self._reserve(size)
            if opens:
                return self._cache.insert(digest, data, reserved=reserved)
            self._cache.keep(digest, data, reserved=reserved)
            return None
        insertion = self._cache.insertion(digest, size, reserved=self._reserve(size))
        try:
            expand_to(part, size, insertion.write)
            if opens:
                return insertion.commit_and_open()
            insertion.commit()
            return None
        finally:
            insertion.abort()

    def _reserve(self, size: int) -> bool:
        """Set room aside, evicting where somebody waits. NoSpace."""
        try:
            self._cache.usage.reserve(size)
        except NoSpace:
            if not self._make_way:
                raise
            make_room(self._cache, size)
        return True
