"""How full the cache is, agreed between processes: the bound is a bound.

``usage`` holds the bytes of all objects; every process has its own ``reserved`` in its
directory under ``tmp/`` and a lock on it. A process takes room from the shared count in
shares, hands it out to its downloads without asking anybody, and keeps what became objects
in its reservation until it settles: the sum of all counts never passes the bound. What a
dead process had not settled is found by a recount, which whoever sweeps its directory owes.
All changes of the shared count happen under one short file lock.
"""

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from aysfs.errors import CacheUnusable, NoSpace
from aysfs.limits import Limits

_COUNT = struct.Struct("<q")
BLOCK = 4096
_LARGEST_SHARE = 64 << 20  # a share costs 60 us: not once a blob


def on_disk(size: int) -> int:
    """Bytes that a blob takes: whole blocks."""
    return -(-size // BLOCK) * BLOCK


class _Counter:
    """One shared integer in a file. Not mapped: a full disk must be an OSError, not a SIGBUS."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    @property
    def value(self) -> int:
        data = os.pread(self._descriptor, _COUNT.size, 0)
        return int(_COUNT.unpack(data)[0]) if len(data) == _COUNT.size else 0

    @value.setter
    def value(self, value: int) -> None:
        os.pwrite(self._descriptor, _COUNT.pack(value), 0)

    def close(self) -> None:
        os.close(self._descriptor)


class Usage:
    """This process's share in the count. Safe to call from any thread."""

    def __init__(self, root: Path, limits: Limits) -> None:
        self.limits = limits
        self._root = root
        self._share = min(_LARGEST_SHARE, limits.size // 64)
        self._here = threading.Lock()  # between threads, as the file lock between processes
        self._closed = False
        self._mine = threading.Lock()  # protects the three numbers below; taken before _here
        self._free = 0  # reserved, and not yet handed out
        self._pending = 0  # handed out to downloads under way
        self._settling = 0  # became objects, and still counted in our reservation
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
        with self._mine:
            if self._free < need:
                self._settle(need)
            self._free -= need
            self._pending += need

    def release(self, size: int) -> None:
        """Give reserved room back: the download failed."""
        with self._mine:
            self._pending -= on_disk(size)
            self._free += on_disk(size)
            if self._free > self._share:
                self._write(self._share)

    def commit(self, size: int) -> None:
        """Reserved room became an object's.

        Called after the rename: what is settled before a scan finds it, a recount would lose, and
        the bound with it. One that is evicted before this call may count until the next recount.
        """
        with self._mine:
            self._pending -= on_disk(size)
            self._settling += on_disk(size)

    def freed(self, size: int) -> None:
        """An object's blocks are free again."""
        if self._settling:  # it may be one of these, and the shared count not know it yet
            with self._mine:
                self._write(self._free)
        with self._locked():
            self._objects.value = max(0, self._objects.value - on_disk(size))

    def recount(self, scan: Callable[[], int]) -> None:
        """Replace the count by what ``scan`` finds, and count what was added meanwhile.

        Errs upwards: what lands during the scan may count twice, until the next recount.
        """
        with self._mine:
            self._write(self._free)
        before = self._objects.value
        found = scan()
        with self._locked():
            self._objects.value = found + max(0, self._objects.value - before)

    @property
    def used(self) -> int:
        """Bytes of all objects, those of other processes as of their last settling."""
        return self._objects.value + self._settling

    def excess(self, size: int) -> int:
        """Bytes to evict until a blob of this size fits, with a tenth of the bound to spare."""
        need = on_disk(size)
        with self._mine:
            self._write(0)
        with self._locked():
            over = self._objects.value + self._all_reserved() + need - self.limits.size
            # As ``reserve`` sees it: what is under way has not taken its room on the disk yet.
            short = self.limits.keep_free + self._pending + need - self.disk_free()
        if over <= 0 and short <= 0:
            return 0
        return max(over, short) + self.limits.size // 10

    def has_room(self, size: int) -> bool:
        """Whether a blob fits without evicting, as far as it can be known without reserving."""
        need = on_disk(size)
        with self._mine:
            if self._free >= need:
                return True
            with self._locked():
                taken = self._objects.value + self._settling + self._all_reserved()
            short = self.disk_free() - self._pending - need < self.limits.keep_free
        return taken + need <= self.limits.size and not short

    def can_ever_fit(self, size: int) -> bool:
        """Whether evicting everything could make room: if not, nothing should be evicted."""
        need = on_disk(size)
        freeable = self.disk_free() + self._objects.value
        return need <= self.limits.size and freeable - need >= self.limits.keep_free

    def _settle(self, need: int) -> None:
        """Take a new share that holds ``need``: a whole one, else just what is needed."""
        for share in (need + self._share, need):
            try:
                self._write(share)
            except NoSpace:
                continue
            return
        self._write(0)
        raise NoSpace(
            f"the cache is full: its bound is {self.limits.size} bytes,"
            f" and {self.limits.keep_free} stay free on its disk"
        )

    def _write(self, share: int) -> None:
        """Hand over what became objects and hold ``share`` besides what is under way."""
        try:
            with self._locked():
                objects = self._objects.value + self._settling
                others = self._all_reserved() - self._reserved.value
                grows = share > self._free
                if grows and objects + others + self._pending + share > self.limits.size:
                    raise NoSpace("no share")
                if grows and self.disk_free() - self._pending - share < self.limits.keep_free:
                    raise NoSpace("no share")
                self._objects.value = objects
                self._settling = 0
                self._reserved.value = self._pending + share
                self._free = share
        except OSError as error:
            raise NoSpace(f"the count of the cache cannot be kept: {error.strerror}") from error

    def disk_free(self) -> int:
        """Bytes that this user may still write on the cache's file system."""
        status = os.statvfs(self._lock)
        return status.f_bavail * status.f_frsize

    def sweep(self) -> int:
        """Remove what dead processes left under ``tmp/``; how many they were.

        Their objects may not be counted yet: the caller owes a recount.
        """
        removed = 0
        with self._locked():
            for directory in (self._root / "tmp").iterdir():
                if directory != self.directory and not _is_alive(directory):
                    shutil.rmtree(directory, ignore_errors=True)
                    removed += 1
        return removed

    def close(self) -> None:
        """Settle and leave: the directory goes first, so that nobody finds it unlocked.

        A worker thread that was given up may still be about to count: it is refused from here
        on, as the numbers of our descriptors may be other files' by then.
        """
        with contextlib.suppress(NoSpace), self._mine:
            self._write(0)
        with self._here:
            self._closed = True
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

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with self._here:
            if self._closed:
                raise CacheUnusable(f"the cache {self._root} was left")
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._lock, fcntl.LOCK_UN)


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
