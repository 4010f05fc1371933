"""One blob on its way into the cache: hashed while it is written, and there only once verified.

Serves the cache, which knows where blobs go, and whoever writes their bytes: a store, or a pack
that is taken apart.
"""

import contextlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TypeVar

from aysfs import digest as digests
from aysfs.cache.root import translated
from aysfs.cache.usage import Usage
from aysfs.digest import Digest
from aysfs.errors import Corrupt

NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC

_SHARED = 512 << 10  # of so many bytes at once, hashing and writing have a thread each
_writers = ThreadPoolExecutor(2, thread_name_prefix="cache-write")

T = TypeVar("T")


class Home(Protocol):
    """The cache, as far as one blob needs it."""

    root: Path
    usage: Usage

    def place(self, descriptor: int, tmp: str, digest: Digest, size: int) -> None:
        """Make a file of verified bytes, and of reserved room, the blob."""

    def place_and_open(self, descriptor: int, tmp: str, digest: Digest, size: int) -> int:
        """The same, and a descriptor to read it by."""


class Insertion:
    """The sink of one blob on its way in. Hashes while it writes; exists only until verified.

    ``write`` may run in a worker thread that outlives its flight: ``abort`` makes the next
    write fail instead of touching a descriptor that is no longer ours. ``progress`` counts
    the bytes taken, for whoever watches for a stall.
    """

    def __init__(self, cache: Home, tmp: str, digest: Digest, size: int) -> None:
        self.progress = 0
        self._cache = cache
        self._tmp = tmp
        self._digest = digest
        self._size = size
        self._hasher = digests.hasher()
        self._is_verified = False
        self._lock = threading.Lock()  # protects _descriptor against abort during a write
        self._descriptor: int | None = None
        try:
            self._descriptor = os.open(tmp, NEW, 0o400)
        except OSError as error:
            cache.usage.release(size)
            raise translated(error, cache.root) from error

    def here(self, _digest: Digest) -> int:
        """Bytes of the blob that have come."""
        return self.progress

    def write(self, data: bytes | memoryview) -> None:
        """Take the next bytes; Corrupt as soon as they cannot be, or are not, the blob."""
        with self._lock:
            if self._descriptor is None:
                raise Corrupt(f"blob {self._digest.hex()}: its fetch was given up")
            self.progress += len(data)
            if self.progress > self._size:
                raise Corrupt(f"blob {self._digest.hex()}: more than its {self._size} bytes")
            try:
                if len(data) < _SHARED:
                    self._hasher.update(data)
                    write_all(self._descriptor, data)
                else:
                    written = _writers.submit(write_all, self._descriptor, data)
                    self._hasher.update(data)
                    written.result()
            except OSError as error:
                raise translated(error, self._cache.root) from error
            if self.progress == self._size:
                self._verify()

    def restart(self) -> None:
        """Begin again with the first byte."""
        with self._lock:
            if self._descriptor is None:
                raise Corrupt(f"blob {self._digest.hex()}: its fetch was given up")
            self.progress = 0
            self._hasher = digests.hasher()
            self._is_verified = False
            try:
                os.lseek(self._descriptor, 0, os.SEEK_SET)
                os.ftruncate(self._descriptor, 0)
            except OSError as error:
                raise translated(error, self._cache.root) from error

    def commit(self) -> None:
        """Verify, stamp and place the blob; Corrupt, and nothing kept, when the bytes are wrong."""
        self._commit(self._cache.place)

    def commit_and_open(self) -> int:
        """As ``commit``; a descriptor to read the blob by, the caller's to close."""
        return self._commit(self._cache.place_and_open)

    def _commit(self, place: Callable[[int, str, Digest, int], T]) -> T:
        with self._lock:
            if self._descriptor is None:
                raise Corrupt(f"blob {self._digest.hex()}: its fetch was given up")
            if not self._is_verified:
                self._verify()
            try:
                placed = place(self._descriptor, self._tmp, self._digest, self._size)
            except OSError as error:
                raise translated(error, self._cache.root) from error
            self._close()
            return placed

    def _verify(self) -> None:
        if self.progress != self._size or self._hasher.digest() != self._digest:
            got = f"{self.progress} of {self._size} bytes"
            raise Corrupt(f"blob {self._digest.hex()}: wrong bytes ({got})")
        self._is_verified = True

    def abort(self) -> None:
        """Forget everything; harmless after ``commit`` and from any thread."""
        with self._lock:
            if self._descriptor is None:
                return
            self._close()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._tmp)
            self._cache.usage.release(self._size)

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write all of it, however often the kernel takes less."""
    written = os.write(descriptor, data)
    while written < len(data):
        written += os.write(descriptor, memoryview(data)[written:])
