"""The writing half of the directory store: files that are there whole, or not at all.

Serves ``DirectoryStore``; runs in the thread of whoever calls. Owns temporary files
(``.<name>.<random>.tmp`` in the namespace's directory; those of a writer that was killed are
left to upkeep) and the moment when one gets its name: only verified, and a list only after
everything written before it is durable.
"""

import contextlib
import ctypes
import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from typing import BinaryIO, TypeVar

from aysfs import digest as digests
from aysfs.digest import Digest
from aysfs.errors import Corrupt, StoreTrouble
from aysfs.names import ServiceName
from aysfs.store import layout
from aysfs.store.blame import blaming
from aysfs.store.directory_read import NO_ROOT, Reader, holds
from aysfs.store.protocol import BlobSource

T = TypeVar("T")

CHUNK = 1 << 20
MODE = 0o444

# A blob of this size is synced before it gets its name. A smaller one that a power loss
# tears is left empty by file systems that write data before metadata (ext4 and its like
# allocate late), and a file of another size is never taken for a blob: see `missing`.
SYNC_FROM = 1 << 20

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class Writer:
    """Makes blobs and lists below ``root/namespace``; the root itself only with ``create``."""

    def __init__(self, root: str, reader: Reader, namespace: str, *, create: bool) -> None:
        self._reader = reader
        self._root = root
        self._namespace = namespace
        self._create = create
        self._random = os.urandom(6).hex()
        self._numbers = itertools.count()

    def put(self, digest: Digest, size: int, file: BinaryIO) -> None:
        """Keep a blob, unless it is there: then nothing is read."""
        path = self._path(layout.blob(self._namespace, digest))
        if not holds(path, size):
            self._write_blob(path, size, lambda fd: _copy_verified(file, fd, digest, size, path))

    def put_group(self, sources: Sequence[BlobSource]) -> None:
        """Keep blobs, also where they are: whoever sends many has asked what is missing."""
        for source in sources:
            self._put_source(source)

    def _put_source(self, source: BlobSource) -> None:
        digest, size = source.digest, source.size
        path = self._path(layout.blob(self._namespace, digest))
        if (held := source.held) is not None:
            self._write_blob(path, size, lambda fd: _write_blaming(fd, held, path))
            return

        def fill(fd: int) -> None:
            with source.open() as file:
                _copy_verified(file, fd, digest, size, path)

        self._write_blob(path, size, fill)

    def put_list(self, name: ServiceName, chunks: Iterable[bytes]) -> None:
        """Publish a list, after all that was written before is on the disk."""
        path = self._path(layout.list_path(self._namespace, name))

        def fill(fd: int) -> None:
            for chunk in chunks:
                _write_blaming(fd, chunk, path)
            with blaming(path):
                _sync_file_system(fd)  # blobs first: no list may name one a power loss takes
                os.fsync(fd)

        self._write_file(path, fill)
        with blaming(path):
            _sync_directory(os.path.dirname(path))

    def write_note(self, name: str, data: bytes) -> None:
        """Keep a note, durably where that matters.

        Syncing one would write out every blob that was put before it, on ext4 at least.
        """
        path = self._path(layout.note_path(self._namespace, name))
        if not layout.outlives_a_crash(name):
            self._write_file(path, lambda fd: _write_blaming(fd, data, path))
            return

        def fill(fd: int) -> None:
            _write_blaming(fd, data, path)
            with blaming(path):
                os.fsync(fd)

        self._write_file(path, fill)
        with blaming(path):
            _sync_directory(os.path.dirname(path))

    def delete_note(self, name: str) -> None:
        """Have no such note."""
        path = self._path(layout.note_path(self._namespace, name))
        with blaming(path):
            try:
                os.unlink(path)
            except FileNotFoundError:
                os.stat(self._root)  # a disk that is not mounted has no note either

    def delete_list(self, name: ServiceName) -> None:
        """Have no such list, durably: what only it named may be deleted next. ListMissing."""
        path = self._path(layout.list_path(self._namespace, name))
        with blaming(path):
            try:
                os.unlink(path)
            except FileNotFoundError:
                raise self._reader.list_missing(name) from None
            _sync_directory(os.path.dirname(path))

    def delete(self, digests: Iterable[Digest]) -> None:
        """Have no such blobs, in either layout."""
        places = [layout.blob]
        with blaming(self._root):
            os.stat(self._root)  # a disk that is not mounted has no blobs either
        if os.path.isdir(self._path(f"{self._namespace}/files")):
            places.append(layout.old_blob)
        for digest in digests:
            for place in places:
                self._unlink(place(self._namespace, digest))

    def delete_strays(self, paths: Iterable[str]) -> None:
        """Have no such temporary files."""
        for path in paths:
            self._unlink(f"{self._namespace}/{path}")

    def _unlink(self, relative: str) -> None:
        path = self._path(relative)
        with blaming(path), contextlib.suppress(FileNotFoundError):
            os.unlink(path)

    def _path(self, relative: str) -> str:
        return f"{self._root}/{relative}"

    def _write_blob(self, path: str, size: int, fill: Callable[[int], None]) -> None:
        def fill_and_sync(fd: int) -> None:
            fill(fd)
            with blaming(path):
                os.fdatasync(fd)

        self._write_file(path, fill if size < SYNC_FROM else fill_and_sync)

    def _write_file(self, target: str, fill: Callable[[int], None]) -> None:
        """Make a file that is there whole, when ``fill`` ends well, or not at all.

        Temporary files share the namespace's directory: one on the same file system that is
        there already. The rename costs 10 us of about 35 for a small blob. Directories of
        their own, O_TMPFILE and other orders were no faster: docs/performance.md.
        """
        last = target.rpartition("/")[2]
        name = layout.temporary(last, self._random, next(self._numbers))
        path = self._path(f"{self._namespace}/{name}")
        with blaming(path):
            fd = self._with_directories(target, lambda: os.open(path, _CREATE, MODE))
        try:
            try:
                fill(fd)
                with blaming(path):
                    os.fchmod(fd, MODE)  # whatever the umask took away
            finally:
                os.close(fd)
            with blaming(target):
                self._with_directories(target, lambda: os.rename(path, target))
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(path)
            raise

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
        elif not os.path.isdir(self._root):
            raise StoreTrouble(f"{self._root}: no such directory", hint=NO_ROOT)
        path = self._root
        for part in os.path.relpath(directory, self._root).split("/"):
            path = f"{path}/{part}"
            with contextlib.suppress(FileExistsError):
                os.mkdir(path)
                os.chmod(path, 0o755)


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
        _write_blaming(fd, data, path)
    if done != size:
        raise Corrupt(f"{path}: refused, {done} bytes where {size} were announced")
    if hasher.digest() != digest:
        raise Corrupt(f"{path}: refused, the bytes have md5 {hasher.digest().hex()}")


def _write_blaming(fd: int, data: bytes, path: str) -> None:
    with blaming(path):
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
