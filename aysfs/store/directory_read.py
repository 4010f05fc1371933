"""The reading half of the directory store: what lies below the root, in either layout.

Serves ``DirectoryStore``; runs in the thread of whoever calls. Owns its buffers and changes
nothing on the disk. Tells "not there" from trouble, and judges sizes but never content: that
is the receiver's work.
"""

import contextlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping

from aysfs.digest import Digest
from aysfs.errors import BlobMissing, Corrupt, ListMissing, NoteMissing, StoreTrouble
from aysfs.names import ServiceName
from aysfs.store import layout
from aysfs.store.blame import blaming, trouble
from aysfs.store.protocol import OpenList, Sink, Stored, Stray, Writes

CHUNK = 1 << 20
NO_ROOT = "is the disk of the store mounted? `aysfs store init` makes a new one"

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a fifo must not hold a thread for ever


class Reader:
    """Blobs and lists below ``root/namespace``, as they are found there.

    With ``create`` a store that is not there yet is one that holds nothing.
    """

    def __init__(self, root: str, namespace: str, *, create: bool) -> None:
        self._create = create
        self._root = root
        self._namespace = namespace
        self._buffers: list[memoryview] = []

    def read_small(self, digest: Digest, size: int) -> bytes:
        """All of a blob in one read: for the event loop, and so only for a local disk."""
        fd, path = self._open_blob(digest, size)
        try:
            with blaming(path):
                return os.read(fd, size + 1)
        finally:
            os.close(fd)

    def read(self, digest: Digest, size: int, sink: Sink) -> None:
        """A blob of any size, piece by piece."""
        fd, path = self._open_blob(digest, size)
        try:
            with self._buffer() as buffer:
                for piece in _pieces(fd, path, buffer):
                    sink.write(piece)
        finally:
            os.close(fd)

    def read_range(self, digest: Digest, size: int, start: int, length: int, sink: Writes) -> None:
        """A part of a blob, piece by piece."""
        fd, path = self._open_blob(digest, size)
        try:
            with blaming(path):
                os.lseek(fd, start, os.SEEK_SET)
            left = length
            with self._buffer() as buffer:
                while left:
                    with blaming(path):
                        count = os.readv(fd, [buffer[:left]])
                    if not count:
                        raise StoreTrouble(f"{path}: became shorter while it was read")
                    sink.write(buffer[:count])
                    left -= count
        finally:
            os.close(fd)

    def size_of(self, digest: Digest) -> int:
        """The size of a blob, where the first layout that has it has it."""
        for place in (layout.blob, layout.old_blob):
            path = self._path(place(self._namespace, digest))
            with blaming(path), contextlib.suppress(FileNotFoundError):
                found = os.stat(path)
                if stat.S_ISREG(found.st_mode):
                    return found.st_size
        self._check_present()
        raise BlobMissing(f"{self._root} has no blob {digest.hex()}")

    def missing(self, wanted: Mapping[Digest, int]) -> set[Digest]:
        """Those that neither layout holds with their size."""
        if not self._create and not os.path.isdir(self._root):
            raise StoreTrouble(f"{self._root}: no such directory", hint=NO_ROOT)
        absent = self._not_held(layout.blob, wanted, wanted)
        if absent and os.path.isdir(self._path(f"{self._namespace}/files")):
            absent = self._not_held(layout.old_blob, absent, wanted)
        return absent

    def open_list(self, name: ServiceName) -> OpenList:
        """The current list, open at its beginning."""
        path = self._path(layout.list_path(self._namespace, name))
        try:
            file = open(path, "rb")  # noqa: SIM115 - the receiver closes it
        except FileNotFoundError:
            raise self.list_missing(name) from None
        except OSError as error:
            raise trouble(path, error) from error
        return OpenList(file, os.fstat(file.fileno()).st_mtime_ns, path)

    def list_missing(self, name: ServiceName) -> ListMissing:
        """What to raise for a list that is not there; StoreTrouble where nothing is."""
        self._check_present()
        return ListMissing(f"{self._root} has no list {name}")

    def lists(self) -> list[ServiceName]:
        """All lists, sorted; foreign files among them are passed over."""
        return sorted(filter(None, map(layout.parse_list_file, self._beside_lists())), key=str)

    def read_note(self, name: str) -> bytes:
        """All of a note."""
        path = self._path(layout.note_path(self._namespace, name))
        try:
            with open(path, "rb") as file:
                data = file.read(layout.NOTE_LIMIT + 1)
        except FileNotFoundError:
            self._check_present()
            raise NoteMissing(f"{self._root} has no note {name}") from None
        except OSError as error:
            raise trouble(path, error) from error
        if len(data) > layout.NOTE_LIMIT:
            raise StoreTrouble(f"{path}: larger than the {layout.NOTE_LIMIT} bytes of a note")
        return data

    def notes(self) -> dict[str, int]:
        """The names of all notes, sorted, and when each was written."""
        found = {}
        for name in sorted(filter(layout.is_note, self._beside_lists())):
            path = self._path(layout.note_path(self._namespace, name))
            with blaming(path), contextlib.suppress(FileNotFoundError):  # it has just gone
                found[name] = os.stat(path).st_mtime_ns
        return found

    def shelf(self, first: int) -> list[Stored]:
        """The blobs that begin with this byte, in both layouts."""
        found: list[Stored] = []
        for relative in layout.shelves(self._namespace, first):
            for name, status in self._files(relative):
                digest = layout.parse_blob_file(name, first)
                if digest is not None:
                    found.append(Stored(digest, status.st_size, status.st_mtime_ns))
        if not found:
            self._check_present()
        return found

    def strays(self) -> list[Stray]:
        """What lies at the top and beside the lists, and belongs to neither."""
        found = [
            Stray(name, status.st_size, status.st_mtime_ns)
            for name, status in self._files(self._namespace)
        ]
        for name, status in self._files(layout.list_directory(self._namespace)):
            if layout.is_stray(name):
                found.append(Stray(f"md/{name}", status.st_size, status.st_mtime_ns))
        if not found:
            self._check_present()
        return found

    def close(self) -> None:
        """Let go of the buffers."""
        self._buffers.clear()

    def _beside_lists(self) -> list[str]:
        """The names in the directory of the lists."""
        path = self._path(layout.list_directory(self._namespace))
        try:
            return os.listdir(path)
        except FileNotFoundError:
            self._check_present()
            return []
        except OSError as error:
            raise trouble(path, error) from error

    def _path(self, relative: str) -> str:
        return f"{self._root}/{relative}"

    def _files(self, relative: str) -> Iterator[tuple[str, os.stat_result]]:
        """The regular files of a directory; none where it is not there.

        In the order of their inodes: a disk whose caches are cold reads them in one direction.
        """
        path = self._path(relative)
        with blaming(path), contextlib.suppress(FileNotFoundError), os.scandir(path) as entries:
            for entry in sorted(entries, key=os.DirEntry.inode):
                with contextlib.suppress(FileNotFoundError):  # it has just gone
                    status = entry.stat()
                    if stat.S_ISREG(status.st_mode):
                        yield entry.name, status

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
                raise trouble(path, error) from error
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
        except FileNotFoundError as error:
            if self._create:
                return
            raise StoreTrouble(f"{path}: {error.strerror}", hint=NO_ROOT) from error
        except OSError as error:
            raise trouble(path, error) from error
        raise StoreTrouble(f"{path}: not a directory")

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

    def _not_held(
        self,
        place: Callable[[str, Digest], str],
        asked: Iterable[Digest],
        sizes: Mapping[Digest, int],
    ) -> set[Digest]:
        return {
            digest
            for digest in asked
            if not holds(self._path(place(self._namespace, digest)), sizes[digest])
        }


def holds(path: str, size: int) -> bool:
    """Whether there is a file of this size: one cut off by a power loss does not count."""
    try:
        return os.stat(path).st_size == size
    except FileNotFoundError:
        return False
    except OSError as error:
        raise trouble(path, error) from error


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
        with blaming(path):
            count = os.readv(fd, [buffer])
        if not count:
            return
        yield buffer[:count]
