"""Second links of blobs that an overlay has just asked for (docs/format.md, "Cache").

An overlay looks for a blob in ``objects``, then asks the fault layer, then looks in ``incoming``:
it does not look in ``objects`` again, so what was fetched meanwhile must be linked there. Once the
overlay has found it the link has done its work; it is removed a minute later, or with the blob.
"""

import os
import time
from collections import deque
from contextlib import suppress

from aysfs.cache.blobs import Cache
from aysfs.digest import Digest, from_hex

KEPT = 60.0
"""Seconds for which nobody removes a link, unless the room is needed."""


class Incoming:
    """The links that this process made, and those that it found."""

    def __init__(self, cache: Cache) -> None:
        """Enter the folder. Links of a process that died count as made now."""
        self._cache = cache
        self._directories: set[str] = set()
        now = time.monotonic()
        self._made = deque((now, digest) for digest in _found(f"{cache.root}/incoming"))

    @property
    def top(self) -> str:
        """The folder, a data layer of the overlays."""
        return f"{self._cache.root}/incoming"

    def link(self, digest: Digest) -> None:
        """Link a blob that is in the cache; FileNotFoundError when it is not there any more."""
        path = self._cache.arrival_path(digest)
        directory = os.path.dirname(path)
        if directory not in self._directories:
            os.makedirs(directory, mode=0o700, exist_ok=True)
            self._directories.add(directory)
        self._made.append((time.monotonic(), digest))
        try:
            os.link(self._cache.path(digest), path)
        except FileExistsError:  # maybe of a blob that was put into quarantine and fetched again
            with suppress(FileNotFoundError):
                os.unlink(path)
            with suppress(FileExistsError):
                os.link(self._cache.path(digest), path)

    def expire(self) -> None:
        """Remove the links that are a minute old."""
        before = time.monotonic() - KEPT
        while self._made and self._made[0][0] < before:
            _, digest = self._made.popleft()
            with suppress(FileNotFoundError):
                os.unlink(self._cache.arrival_path(digest))


def _found(top: str) -> list[Digest]:
    os.makedirs(top, mode=0o700, exist_ok=True)
    found = []
    for _, _, names in os.walk(top):
        for name in names:
            with suppress(ValueError):
                found.append(from_hex(name))
    return found
