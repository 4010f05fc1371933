"""One blob out of a pack into the cache.

Serves who carries segments, in this process or in one beside it. May wait for a disk. What a frame
gives is hashed on its way in, as any other bytes are.
"""

from aysfs.cache.blobs import Cache
from aysfs.cache.eviction import make_room
from aysfs.errors import NoSpace
from aysfs.fetch.segment import Frame
from aysfs.pack.expand import expand, expand_to

_STREAMED = 1 << 20  # a blob above it is never in memory as a whole


class Taker:
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
