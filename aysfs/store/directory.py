"""A directory as a store: a local disk, or whatever the kernel mounts.

Serves whoever reads or publishes through the Store protocol, and owns the files below the
root. Both layouts are read, the plain one is written. A blob appears under its name only
whole and verified. Readers are not verified for: that is the receiver's work. Abandoned
temporary files (``.<md5>.<random>.tmp``) are left to upkeep.
"""

import contextlib
import ctypes
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, TypeVar

import trio

from aysfs import digest as digests
from aysfs.digest import Digest
from aysfs.errors import AysfsError, BlobMissing, Corrupt, ListMissing, StoreTrouble
from aysfs.names import ServiceName
from aysfs.store import layout
from aysfs.store.local import is_local
from aysfs.store.protocol import BlobSource, OpenList, Sink

T = TypeVar("T")
_Opener = Callable[[], contextlib.AbstractContextManager[BinaryIO]]

CHUNK = 1 << 20
THREADS = 8
MODE = 0o444
NO_ROOT = "is the disk of the store mounted?"

# A blob of this size is synced before it gets its name. A smaller one that a power loss
# tears is left empty by file systems that write data before metadata (ext4 and its like
# allocate late), and a file of another size is never taken for a blob: see `missing`.
SYNC_FROM = 1 << 20

# A blob of at most this size is read in the event loop where the disk is a local one: the way
# to a thread and back costs more than the reading. 4000 blobs of 4 KiB on ext4, page cache
# warm, into a sink that drops them: 10 to 12 us of CPU a blob, with the thread 160 to 210.
AT_HAND = 64 << 10

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a fifo must not hold a thread for ever
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class DirectoryStore:
    """Blobs and lists below ``root/namespace``.

    Writing makes the namespace where it is missing, and the root only with ``create``: a
    missing root is more often a disk that is not mounted than a store that is new.
    """

    def __init__(
        self, root: Path, namespace: str = layout.DEFAULT_NAMESPACE, *, create: bool = False
    ) -> None:
        self._root = os.path.abspath(root)
        self._namespace = layout.check_namespace(namespace)
        self._create = create
        self._limiter = trio.CapacityLimiter(THREADS)
        self._buffers: list[memoryview] = []
        # A namespace that is not there yet may be one on a network that is not mounted yet.
        self._local = is_local(self._path(self._namespace))

    @property
    def label(self) -> str:
        return self._root

    async def get(self, digest: Digest, size: int, sink: Sink) -> None:
        gate = _Gate(sink)
        try:
            await self._in_thread(lambda: self._read_blob(digest, size, gate))
        finally:
            gate.close()

    def at_hand(self, digest: Digest, size: int) -> bytes | None:
        if size > AT_HAND or not self._local:
            return None
        with contextlib.suppress(AysfsError, OSError):
            fd, _ = self._open_blob(digest, size)
            try:
                return os.read(fd, size + 1)
            finally:
                os.close(fd)
        return None

    async def missing(self, blobs: Mapping[Digest, int]) -> set[Digest]:
        return await self._in_thread(lambda: self._find_missing(blobs))

    async def put(self, digest: Digest, size: int, source: BinaryIO) -> None:
        borrowed = contextlib.nullcontext(source)
        await self._in_thread(lambda: self._write_blob(digest, size, lambda: borrowed))

    async def put_many(self, sources: Sequence[BlobSource]) -> None:
        stop = threading.Event()

        def work() -> None:
            for source in sources:
                if stop.is_set():
                    return
                self._write_blob(source.digest, source.size, source.open)

        try:
            await self._in_thread(work)
        finally:
            stop.set()

    async def open_list(self, name: ServiceName) -> OpenList:
        return await self._in_thread(lambda: self._open_list(name))

    async def put_list(self, name: ServiceName, chunks: Iterable[bytes]) -> None:
        await self._in_thread(lambda: self._write_list(name, chunks))

    async def lists(self) -> list[ServiceName]:
        return await self._in_thread(self._lists)

    async def aclose(self) -> None:
        self._buffers.clear()

    # Below here: what runs in worker threads.

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._limiter)

    def _path(self, relative: str) -> str:
        return f"{self._root}/{relative}"

    def _open_blob(self, digest: Digest, size: int) -> tuple[int, str]:
        """The blob where a layout has it with this size; Corrupt when only with another."""
        other: Corrupt | None = None
        for relative in (
            layout.blob(self._namespace, digest),
            layout.old_blob(self._namespace, digest),
        ):
            path = self._path(relative)
            try:
                return _open_sized(path, size), path
            except FileNotFoundError:
                continue
            except OSError as error:
                raise _trouble(path, error) from error
            except Corrupt as error:
                other = other or error
        if other is not None:
            raise other
        self._check_present()
        raise BlobMissing(f"{self._root} has no blob {digest.hex()}")

    def _check_present(self) -> None:
        """StoreTrouble unless the namespace is there: only then "no such file" means missing."""
        path = self._path(self._namespace)
        try:
            if stat.S_ISDIR(os.stat(path).st_mode):
                return
        except OSError as error:
            raise _trouble(path, error) from error
        raise StoreTrouble(f"{path}: not a directory")

    def _read_blob(self, digest: Digest, size: int, gate: "_Gate") -> None:
        fd, path = self._open_blob(digest, size)
        try:
            with self._buffer() as buffer:
                for piece in _pieces(fd, path, buffer):
                    gate.write(piece)
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def _buffer(self) -> Iterator[memoryview]:
        try:
            buffer = self._buffers.pop()
        except IndexError:
            buffer = memoryview(bytearray(CHUNK))
        try:
            yield buffer
        finally:
            self._buffers.append(buffer)

    def _find_missing(self, wanted: Mapping[Digest, int]) -> set[Digest]:
        if not (self._create or os.path.isdir(self._root)):
            raise StoreTrouble(f"{self._root}: no such directory", hint=NO_ROOT)
        absent = self._not_held(layout.blob, wanted, wanted)
        if absent and os.path.isdir(self._path(f"{self._namespace}/files")):
            absent = self._not_held(layout.old_blob, absent, wanted)
        return absent

    def _not_held(
        self,
        place: Callable[[str, Digest], str],
        asked: Iterable[Digest],
        sizes: Mapping[Digest, int],
    ) -> set[Digest]:
        return {d for d in asked if not self._holds(place(self._namespace, d), sizes[d])}

    def _holds(self, relative: str, size: int) -> bool:
        path = self._path(relative)
        try:
            return os.stat(path).st_size == size
        except FileNotFoundError:
            return False
        except OSError as error:
            raise _trouble(path, error) from error

    def _write_blob(self, digest: Digest, size: int, source: _Opener) -> None:
        path = self._path(layout.blob(self._namespace, digest))
        try:
            if os.stat(path).st_size == size:
                return
        except FileNotFoundError:
            pass
        except OSError as error:
            raise _trouble(path, error) from error

        def fill(fd: int) -> None:
            with source() as file:
                _copy_verified(file, fd, digest, size, path)
            if size >= SYNC_FROM:
                with _blaming(path):
                    os.fdatasync(fd)

        self._write_file(path, fill)

    def _write_file(self, target: str, fill: Callable[[int], None]) -> None:
        """Make a file that is there whole, when ``fill`` ends well, or not at all.

        Temporary files share the namespace's directory. ext4 places a file by the directory
        that it is created in: made in 256 different ones, files cost 3 to 7 times more
        (46 to 98 us against 13), and the rename that brings them there costs 10.
        """
        name = f".{target.rpartition('/')[2]}.{os.urandom(6).hex()}.tmp"
        path = self._path(f"{self._namespace}/{name}")
        with _blaming(path):
            fd = self._with_directories(target, lambda: os.open(path, _CREATE, MODE))
        done = False
        try:
            try:
                fill(fd)
                with _blaming(path):
                    os.fchmod(fd, MODE)  # whatever the umask took away
            finally:
                os.close(fd)
            with _blaming(target):
                self._with_directories(target, lambda: os.rename(path, target))
            done = True
        finally:
            if not done:
                with contextlib.suppress(OSError):
                    os.unlink(path)

    def _with_directories(self, target: str, make: Callable[[], T]) -> T:
        """Do it, at need again after the directories down to the target's were made."""
        try:
            return make()
        except FileNotFoundError:
            self._make_directories(os.path.dirname(target))
            return make()

    def _make_directories(self, directory: str) -> None:
        if self._create:
            os.makedirs(self._root, exist_ok=True)
        else:
            os.stat(self._root)
        path = self._root
        for part in os.path.relpath(directory, self._root).split("/"):
            path = f"{path}/{part}"
            with contextlib.suppress(FileExistsError):
                os.mkdir(path)
                os.chmod(path, 0o755)

    def _open_list(self, name: ServiceName) -> OpenList:
        path = self._path(layout.list_path(self._namespace, name))
        try:
            file = open(path, "rb")  # noqa: SIM115 - the receiver closes it
        except FileNotFoundError:
            self._check_present()
            raise ListMissing(f"{self._root} has no list {name}") from None
        except OSError as error:
            raise _trouble(path, error) from error
        return OpenList(file, os.fstat(file.fileno()).st_mtime_ns, path)

    def _write_list(self, name: ServiceName, chunks: Iterable[bytes]) -> None:
        path = self._path(layout.list_path(self._namespace, name))

        def fill(fd: int) -> None:
            for chunk in chunks:
                with _blaming(path):
                    _write_all(fd, chunk)
            with _blaming(path):
                _sync_file_system(fd)  # blobs first: no list may name one a power loss takes
                os.fsync(fd)

        self._write_file(path, fill)
        with _blaming(path):
            _sync_directory(os.path.dirname(path))

    def _lists(self) -> list[ServiceName]:
        path = self._path(layout.list_directory(self._namespace))
        try:
            found = os.listdir(path)
        except FileNotFoundError:
            self._check_present()
            return []
        except OSError as error:
            raise _trouble(path, error) from error
        return sorted(filter(None, map(layout.parse_list_file, found)), key=str)


class _AbandonedError(Exception):
    """The caller has gone: ends the worker thread, and nobody sees it."""


class _Gate:
    """Passes a thread's writes on until the caller has gone, and after that not one more.

    A cancelled caller closes its descriptors, whose numbers are soon another file's: a late
    write would damage that one. ``close`` waits for the write under way, one chunk at most.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._lock = threading.Lock()
        self._closed = False

    def write(self, data: memoryview) -> None:
        with self._lock:
            if self._closed:
                raise _AbandonedError
            self._sink.write(data)

    def close(self) -> None:
        with self._lock:
            self._closed = True


def _trouble(path: str, error: OSError) -> StoreTrouble:
    return StoreTrouble(f"{path}: {error.strerror or error}")


class _blaming:  # noqa: N801 - reads as a statement
    """OSError from the body becomes StoreTrouble that names the path."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, _type: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, OSError):
            raise _trouble(self._path, error) from error


def _open_sized(path: str, size: int) -> int:
    """A descriptor of a regular file of this size."""
    fd = os.open(path, _READ)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise StoreTrouble(f"{path}: not a regular file")
        if found.st_size != size:
            raise Corrupt(f"{path}: {found.st_size} bytes where {size} were expected")
    except BaseException:
        os.close(fd)
        raise
    return fd


def _pieces(fd: int, path: str, buffer: memoryview) -> Iterator[memoryview]:
    """The bytes of a file, each piece in the same memory."""
    while True:
        with _blaming(path):
            count = os.readv(fd, [buffer])
        if not count:
            return
        yield buffer[:count]


def _copy_verified(file: BinaryIO, fd: int, digest: Digest, size: int, path: str) -> None:
    """Copy to ``fd``; Corrupt when the bytes are not those of the digest and size.

    OSError from reading ``file`` is its owner's and passes through.
    """
    hasher = digests.hasher()
    done = 0
    while data := file.read(min(CHUNK, size - done + 1)):
        done += len(data)
        if done > size:
            raise Corrupt(f"{path}: refused, more than the {size} bytes that were announced")
        hasher.update(data)
        with _blaming(path):
            _write_all(fd, data)
    if done != size:
        raise Corrupt(f"{path}: refused, {done} bytes where {size} were announced")
    if hasher.digest() != digest:
        raise Corrupt(f"{path}: refused, the bytes have md5 {hasher.digest().hex()}")


def _write_all(fd: int, data: bytes) -> None:
    written = os.write(fd, data)
    while written < len(data):
        written += os.write(fd, memoryview(data)[written:])


_libc = ctypes.CDLL(None, use_errno=True)


def _sync_file_system(fd: int) -> None:
    """Make everything on the file system of ``fd`` durable."""
    if _libc.syncfs(fd) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
