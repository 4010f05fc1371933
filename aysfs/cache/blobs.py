"""Verified blobs on disk: the only code that can put one there, or say that one is good.

Serves the fetch service and the ``cache`` commands. Owns the cache directory
(docs/format.md, "Cache"): ``objects/<h0>/<h1>/<md5>``, ``incoming/<h0>/<h1>/<md5>``,
``tmp/<process>/``, ``quarantine/``.
Never asks a store. A method that may wait for a disk says so; run those in a thread.
"""

import contextlib
import fcntl
import itertools
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

from aysfs import digest as digests
from aysfs.cache import stamp
from aysfs.cache.insertion import NEW, Insertion, write_all
from aysfs.cache.root import enter, translated
from aysfs.cache.usage import Usage, on_disk
from aysfs.digest import Digest
from aysfs.errors import CacheUnusable, Corrupt
from aysfs.limits import LARGE, Limits

_CHUNK = 1 << 20
_NAME = 1 + 32  # bytes of a path that are its slash and its name
_KEPT_IN_QUARANTINE = 16

T = TypeVar("T")


class Stored(NamedTuple):
    """An object as a scan finds it. ``arrived_ns`` is its ctime: nothing sets it back.

    ``linked`` as long as an overlay may be about to open it. ``stamped`` when it was verified and
    not changed since. ``partial``: only chunks of it are here, and ``size`` is what they take.
    """

    arrived_ns: int
    size: int
    digest: Digest
    linked: bool = False
    stamped: bool = True
    partial: bool = False


class Cache:
    """One cache directory, opened by this process. Close it when done."""

    def __init__(
        self,
        root: Path,
        limits: Limits | None = None,
        report: Callable[[str], None] | None = None,
    ) -> None:
        """Create or enter a cache; CacheUnusable when it is another's or not writable.

        ``report`` is told, in one line, of every entry found corrupt.
        """
        self.root = root
        self.report = report if report is not None else _silent
        self._objects = f"{root}/objects"
        self._directories: set[str] = set()
        self._doubtful: set[Digest] = set()  # what ``open`` or ``has`` met with a broken stamp
        enter(root)
        try:
            self.usage = Usage(root, limits or Limits())
        except OSError as error:
            raise CacheUnusable(f"the cache {root} cannot be used: {error.strerror}") from error
        self._tmp = str(self.usage.directory)
        self._numbers = itertools.count(1)  # of files in tmp/; one step, whichever thread asks
        self.sweep()

    def sweep(self) -> None:
        """Clear away, and count, what processes left that were killed. Waits for the disk."""
        if self.usage.sweep():
            self.recount()

    def close(self) -> None:
        """Leave the cache: nothing of this process stays under ``tmp/``."""
        self.usage.close()

    def path(self, digest: Digest) -> str:
        """Where the blob is when it is here."""
        name = digest.hex()
        return f"{self._objects}/{name[0]}/{name[1]}/{name}"

    def partial_path(self, digest: Digest) -> str:
        """Where those chunks of a large blob lie that are here (``aysfs.cache.partial``)."""
        name = digest.hex()
        return f"{self.root}/partial/{name[0]}/{name[1]}/{name}"

    def place_of(self, stored: Stored) -> str:
        """Where something that a scan found lies."""
        return self.partial_path(stored.digest) if stored.partial else self.path(stored.digest)

    @contextlib.contextmanager
    def partial_lock(self) -> Iterator[None]:
        """Keep everybody else from making, opening or removing what lies in ``partial``."""
        path = f"{self.root}/partial"
        os.makedirs(path, mode=0o700, exist_ok=True)
        descriptor = os.open(f"{path}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def remove_partial(self, digest: Digest) -> None:
        """Remove an entry of ``partial``, under its lock; FileNotFoundError when there is none."""
        path = self.partial_path(digest)
        os.unlink(path)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{path}.map")

    def drop_partial(self, digest: Digest) -> None:
        """Have no entry of ``partial``, under its lock, and count its room as free."""
        with contextlib.suppress(FileNotFoundError):
            taken = os.stat(self.partial_path(digest)).st_blocks * 512
            self.remove_partial(digest)
            self.usage.freed(taken)

    def adopt(self, path: str, digest: Digest) -> None:
        """Make a stamped file, whose room is counted already, the blob."""
        self._rename(path, digest)

    def arrival_path(self, digest: Digest) -> str:
        """Where the blob's second link is for a while when an overlay asked for it."""
        name = digest.hex()
        return f"{self.root}/incoming/{name[0]}/{name[1]}/{name}"

    def open(self, digest: Digest, size: int) -> int | None:
        """A descriptor of the verified blob, None when it is not here or its stamp is broken."""
        try:
            descriptor = os.open(self.path(digest), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        if stamp.is_valid(os.fstat(descriptor), size, digest):
            return descriptor
        os.close(descriptor)
        self._doubtful.add(digest)
        return None

    def has(self, digest: Digest, size: int) -> bool:
        """Whether the verified blob is here."""
        try:
            if stamp.is_valid(os.stat(self.path(digest)), size, digest):
                return True
        except FileNotFoundError:
            return False
        self._doubtful.add(digest)
        return False

    def is_doubtful(self, digest: Digest) -> bool:
        """Whether ``open`` or ``has`` has met an entry that has to be hashed again."""
        return digest in self._doubtful

    def revalidate(self, digest: Digest, size: int | None = None) -> bool:
        """Hash an entry: stamp it anew when it is good, else quarantine it. Waits for the disk.

        False when there is no such entry, or it was wrong. Corrupt when it is good and only
        ``size`` is wrong: a list that lies must not cost anybody a good blob.
        """
        self._doubtful.discard(digest)
        path = self.path(digest)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            before = os.fstat(descriptor)
            found = _hash(descriptor)
            if found == digest:
                if not stamp.is_valid(before, before.st_size, digest):
                    stamp.apply(descriptor, digest)
                if size not in (None, before.st_size):
                    raise Corrupt(
                        f"blob {digest.hex()} has {before.st_size} bytes; the list says {size}"
                    )
                return True
        finally:
            os.close(descriptor)
        self._quarantine(path, digest, before)
        return False

    def insertion(self, digest: Digest, size: int, *, reserved: bool = False) -> Insertion:
        """Begin to take in a blob of known size; NoSpace when there is no room for it.

        ``reserved`` hands over room that ``make_room`` has reserved.
        """
        if not reserved:
            self.usage.reserve(size)
        return Insertion(self, self._new_name(), digest, size)

    def insert(self, digest: Digest, data: bytes, *, reserved: bool = False) -> int:
        """Take in a whole blob at once and open it; raises as an Insertion does."""
        return self._insert(digest, data, reserved, self.place_and_open)

    def keep(self, digest: Digest, data: bytes, *, reserved: bool = False) -> None:
        """As ``insert``, for nobody who reads it now."""
        self._insert(digest, data, reserved, self.place)

    def _insert(
        self,
        digest: Digest,
        data: bytes,
        reserved: bool,
        place: Callable[[int, str, Digest, int], T],
    ) -> T:
        if not reserved:
            self.usage.reserve(len(data))
        tmp = self._new_name()
        descriptor = None
        try:
            if digests.of(data) != digest:
                raise Corrupt(f"blob {digest.hex()}: wrong bytes")
            descriptor = os.open(tmp, NEW, 0o400)
            write_all(descriptor, data)
            return place(descriptor, tmp, digest, len(data))
        except (Corrupt, OSError) as error:
            if descriptor is not None:
                os.unlink(tmp)
            self.usage.release(len(data))
            if isinstance(error, OSError):
                raise translated(error, self.root) from error
            raise
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def nameless_file(self) -> BinaryIO:
        """A file for what is on its way here, gone when it is closed."""
        try:
            return tempfile.TemporaryFile(dir=self._tmp, buffering=0)
        except OSError as error:
            raise translated(error, self.root) from error

    def place(self, descriptor: int, tmp: str, digest: Digest, size: int) -> None:
        """Make a file of verified bytes, and of reserved room, the blob.

        On OSError the file is where it was and the room is still reserved.
        """
        stamp.apply(descriptor, digest)
        self._rename(tmp, digest)
        self.usage.commit(size)
        if size > LARGE:
            with self.partial_lock():
                self.drop_partial(digest)

    def place_and_open(self, descriptor: int, tmp: str, digest: Digest, size: int) -> int:
        """As ``place``; a descriptor to read the blob, opened before anybody can evict it."""
        # Not the writer's: a file that anybody holds open for writing cannot be executed.
        reader = os.open(tmp, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.place(descriptor, tmp, digest, size)
        except OSError:
            os.close(reader)
            raise
        return reader

    def _new_name(self) -> str:
        return f"{self._tmp}/{next(self._numbers)}"

    def _rename(self, tmp: str, digest: Digest) -> None:
        """Into the objects; two processes racing for one blob both succeed."""
        path = self.path(digest)
        directory = path[:-_NAME]
        if directory not in self._directories:
            os.makedirs(directory, mode=0o700, exist_ok=True)
            self._directories.add(directory)
        try:
            os.rename(tmp, path)
        except FileNotFoundError:  # somebody cleared the cache under us
            os.makedirs(directory, mode=0o700, exist_ok=True)
            os.rename(tmp, path)

    def scan(self) -> Iterator[Stored]:
        """Every object, in no order. Waits for the disk."""
        for first in _scandir(self._objects):
            for second in _scandir(first.path):
                for item in _scandir(second.path):
                    try:
                        status = item.stat(follow_symlinks=False)
                        name = digests.from_hex(item.name)
                    except (FileNotFoundError, ValueError):
                        continue
                    size = status.st_size
                    stamped = stamp.is_valid(status, size, name)
                    yield Stored(status.st_ctime_ns, size, name, status.st_nlink > 1, stamped)

    def scan_partial(self) -> Iterator[Stored]:
        """Every blob of which some chunks are here. Waits for the disk."""
        for first in _scandir(f"{self.root}/partial"):
            for second in _scandir(first.path):
                for item in _scandir(second.path):
                    with contextlib.suppress(FileNotFoundError, ValueError):
                        status, name = item.stat(follow_symlinks=False), digests.from_hex(item.name)
                        taken = status.st_blocks * 512
                        yield Stored(status.st_ctime_ns, taken, name, partial=True)

    def everything(self) -> list[Stored]:
        """All that takes room, the oldest arrival first. Waits for the disk."""
        return sorted([*self.scan(), *self.scan_partial()])

    def recount(self) -> None:
        """Count again what all of it takes. Waits for the disk."""
        self.usage.recount(lambda: sum(on_disk(stored.size) for stored in self.everything()))

    def unlink(self, stored: Stored) -> bool:
        """Drop an object that nobody reads, False when it was gone already.

        Its bytes go on counting until the caller tells ``usage`` that they are free.
        """
        if stored.partial:
            try:
                self.remove_partial(stored.digest)
            except FileNotFoundError:
                return False
            return True
        self._unlink_arrival(stored.digest)
        try:
            os.unlink(self.path(stored.digest))
        except FileNotFoundError:
            return False
        return True

    def _unlink_arrival(self, digest: Digest) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.arrival_path(digest))

    def _quarantine(self, path: str, digest: Digest, wrong: os.stat_result) -> None:
        """Put a wrong entry aside, the newest few for whoever wants to know what happened."""
        directory = self.root / "quarantine"
        directory.mkdir(mode=0o700, exist_ok=True)
        try:
            if not os.path.samestat(os.stat(path), wrong):
                return  # somebody fetched it again while we were hashing
            os.rename(path, directory / digest.hex())
        except FileNotFoundError:
            return
        self._unlink_arrival(digest)
        self.usage.freed(wrong.st_size)
        self.report(f"corrupt entry {digest.hex()} in the cache: quarantined")
        kept = sorted(directory.iterdir(), key=lambda item: item.lstat().st_ctime_ns)
        for item in kept[:-_KEPT_IN_QUARANTINE]:
            item.unlink(missing_ok=True)


def _hash(descriptor: int) -> Digest:
    """The digest of a whole file, which takes no more of the page cache than it did before."""
    was_there = in_page_cache(descriptor)
    hasher = digests.hasher()
    while chunk := os.read(descriptor, _CHUNK):
        hasher.update(chunk)
    if not was_there:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    return Digest(hasher.digest())


def in_page_cache(descriptor: int) -> bool:
    """Whether the first page of a file is in memory: nobody but the kernel knows who reads."""
    try:
        return os.preadv(descriptor, [bytearray(1)], 0, os.RWF_NOWAIT) == 1
    except OSError:  # EAGAIN: on the disk; EOPNOTSUPP: this file system cannot say
        return False


def _scandir(path: str) -> list["os.DirEntry[str]"]:
    try:
        with os.scandir(path) as items:
            return list(items)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _silent(_line: str) -> None:
    """The report of a caller that wants none."""
