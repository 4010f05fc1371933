"""How full the cache is, agreed between processes: the bound is a bound.

``usage`` holds the bytes of all objects; every process has its own ``reserved`` in its
directory under ``tmp/`` and a lock on it. Room is reserved before the first byte of a
download and turned into object bytes before the rename, so a process that dies leaves the
count too high, never too low, and a dead one's reservation counts no more. All changes
happen under one short file lock.
"""

import errno
import fcntl
import mmap
import os
import secrets
import shutil
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aysfs.errors import NoSpace
from aysfs.limits import Limits

_COUNT = struct.Struct("<q")
BLOCK = 4096


def on_disk(size: int) -> int:
    """Bytes that a blob takes: whole blocks."""
    return -(-size // BLOCK) * BLOCK


class _Counter:
    """One shared integer in a file, mapped: a read costs no system call."""

    def __init__(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(descriptor).st_size < _COUNT.size:
                os.ftruncate(descriptor, _COUNT.size)
            self._map = mmap.mmap(descriptor, _COUNT.size)
        finally:
            os.close(descriptor)

    @property
    def value(self) -> int:
        return int(_COUNT.unpack_from(self._map)[0])

    @value.setter
    def value(self, value: int) -> None:
        _COUNT.pack_into(self._map, 0, value)

    def close(self) -> None:
        self._map.close()


class Usage:
    """This process's share in the count. Safe to call from any thread."""

    def __init__(self, root: Path, limits: Limits) -> None:
        self.limits = limits
        self._root = root
        self._lock = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._objects = _Counter(root / "usage")
        self.directory = root / "tmp" / f"{os.getpid()}-{secrets.token_hex(4)}"
        with self._locked():  # a sweep must not find the directory before its lock is held
            self.directory.mkdir(mode=0o700)
            alive = self.directory / "alive"
            self._alive = os.open(alive, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._alive, fcntl.LOCK_EX)
        self._reserved = _Counter(self.directory / "reserved")

    def reserve(self, size: int) -> None:
        """Set room aside for a blob; NoSpace when there is none without evicting."""
        need = on_disk(size)
        with self._locked():
            if self._objects.value + self._all_reserved() + need > self.limits.size:
                raise NoSpace(f"the cache is at its bound of {self.limits.size} bytes")
            if self.disk_free() - need < self.limits.keep_free:
                raise NoSpace(f"the disk of the cache has less than {self.limits.keep_free} free")
            self._reserved.value += need

    def release(self, size: int) -> None:
        """Give reserved room back: the download failed."""
        with self._locked():
            self._reserved.value -= on_disk(size)

    def commit(self, size: int) -> None:
        """Reserved room becomes an object's. Called before the rename."""
        with self._locked():
            self._reserved.value -= on_disk(size)
            self._objects.value += on_disk(size)

    def freed(self, size: int) -> None:
        """An object's blocks are free again."""
        with self._locked():
            self._objects.value = max(0, self._objects.value - on_disk(size))

    def recount(self, total: int) -> None:
        """Replace the count by what a scan found."""
        with self._locked():
            self._objects.value = total

    @property
    def used(self) -> int:
        """Bytes of all objects."""
        return self._objects.value

    def excess(self, wanted: int) -> int:
        """Bytes to evict until ``wanted`` more fit, with a tenth of the bound to spare."""
        with self._locked():
            over = self._objects.value + self._all_reserved() + wanted - self.limits.size
            short = self.limits.keep_free + wanted - self.disk_free()
        if over <= 0 and short <= 0:
            return 0
        return max(over, short) + self.limits.size // 10

    def disk_free(self) -> int:
        """Bytes that this user may still write on the cache's file system."""
        status = os.statvfs(self._lock)
        return status.f_bavail * status.f_frsize

    def sweep(self) -> int:
        """Remove what dead processes left under ``tmp/``; how many they were."""
        removed = 0
        with self._locked():
            for directory in (self._root / "tmp").iterdir():
                if directory != self.directory and not _is_alive(directory):
                    shutil.rmtree(directory, ignore_errors=True)
                    removed += 1
        return removed

    def close(self) -> None:
        """Leave: the directory goes first, so that nobody finds it unlocked."""
        shutil.rmtree(self.directory, ignore_errors=True)
        self._reserved.close()
        self._objects.close()
        os.close(self._alive)
        os.close(self._lock)

    def _all_reserved(self) -> int:
        total = 0
        for entry in os.scandir(self._root / "tmp"):
            if entry.name == self.directory.name:
                total += self._reserved.value
                continue
            directory = Path(entry.path)
            if not _is_alive(directory):
                continue
            try:
                total += int(_COUNT.unpack((directory / "reserved").read_bytes())[0])
            except (OSError, struct.error):
                continue  # just starting, or just gone
        return total

    @contextmanager
    def _locked(self) -> Iterator[None]:
        # A lock of its own: threads of one process would share an flock on one descriptor.
        descriptor = os.open(f"/proc/self/fd/{self._lock}", os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _is_alive(directory: Path) -> bool:
    """Whether a live process holds the lock of its directory under ``tmp/``."""
    try:
        descriptor = os.open(directory / "alive", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return error.errno not in (errno.ENOENT, errno.ENOTDIR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
