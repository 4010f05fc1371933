"""Second links of blobs that an overlay has just asked for (docs/format.md, "Cache").

An overlay looks for a blob in ``objects``, then asks the fault layer, then looks in ``incoming``:
it does not look in ``objects`` again, so what was fetched meanwhile must be linked there. Once the
overlay has found it the link has done its work; it is removed a minute later, or with the blob.
"""

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress

from aysfs.cache.blobs import Cache
from aysfs.digest import Digest, from_hex

KEPT = 60.0
"""Seconds for which nobody removes a link, unless the room is needed."""


class Incoming:
    """The links that this process made, and those that it found. Safe to call from any thread."""

    def __init__(self, cache: Cache, clock: Callable[[], float] = time.monotonic) -> None:
        """Enter the folder. Links of a process that died count as made now."""
        self._cache = cache
        self._clock = clock
        self._directories: set[str] = set()
        self._lock = threading.Lock()  # a link must not be made anew while it expires
        now = clock()
        # When each was made, the oldest first. A dict is slow to lose its first.
        self._made = OrderedDict.fromkeys(_found(f"{cache.root}/incoming"), now)

    def link(self, digest: Digest) -> None:
        """Link a blob that is in the cache; FileNotFoundError when it is not there any more."""
        path = self._cache.arrival_path(digest)
        directory = os.path.dirname(path)
        if directory not in self._directories:
            os.makedirs(directory, mode=0o700, exist_ok=True)
            self._directories.add(directory)
        with self._lock:
            self._made[digest] = self._clock()
            self._made.move_to_end(digest)
            try:
                os.link(self._cache.path(digest), path)
            except (
                FileExistsError
            ):  # maybe of a blob that was put into quarantine and fetched again
                with suppress(FileNotFoundError):
                    os.unlink(path)
                with suppress(FileExistsError):
                    os.link(self._cache.path(digest), path)

    def expire(self) -> None:
        """Remove the links that are a minute old."""
        while self._expire_one(self._clock() - KEPT):
            pass

    def _expire_one(self, before: float) -> bool:
        with self._lock:
            digest = next(iter(self._made), None)
            if digest is None or self._made[digest] >= before:
                return False
            del self._made[digest]
            with suppress(FileNotFoundError):
                os.unlink(self._cache.arrival_path(digest))
            return True


def _found(top: str) -> list[Digest]:
    os.makedirs(top, mode=0o700, exist_ok=True)
    found = []
    for _, _, names in os.walk(top):
        for name in names:
            with suppress(ValueError):
                found.append(from_hex(name))
    return found
