"""The writing half of the SSH store: files that are there whole, or not at all.

Serves ``SshStore``; runs in the thread of whoever calls. Owns temporary files (the same as the
directory store's) and the moment when one gets its name: hashed on the way, its size asked
again, synced where the server can. Many small files travel together, each step of all of them
in one go: three round trips for a group instead of as many for each.
"""

import collections
import contextlib
import itertools
import os
import struct
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import BinaryIO, NamedTuple

from aysfs import digest as digests
from aysfs.digest import Digest
from aysfs.errors import Corrupt, StoreTrouble
from aysfs.names import ServiceName
from aysfs.store import layout, ssh_wire
from aysfs.store.protocol import BlobSource
from aysfs.store.ssh_link import Link
from aysfs.store.ssh_read import Reader
from aysfs.store.ssh_wire import Answer, Attributes, NotThereError, RefusedError, Wire

CHUNK = 1 << 20
GROUP = 64  # files that are written side by side
MODE = 0o444
DIRECTORY_MODE = 0o755

_STATVFS = struct.Struct(">11Q")


class _File(NamedTuple):
    """What is to be written: where, and its verified bytes."""

    relative: str
    data: Iterator[bytes]


class _Open(NamedTuple):
    """A temporary file on the server."""

    file: _File
    temporary: str
    handle: bytes


class Writer:
    """Makes blobs, lists and notes below ``root/namespace``; the root only with ``create``."""

    def __init__(
        self, link: Link, reader: Reader, root: str, namespace: str, label: str, *, create: bool
    ) -> None:
        self._link = link
        self._reader = reader
        self._root = root
        self._namespace = namespace
        self._label = label
        self._create = create
        self._random = os.urandom(6).hex()
        self._numbers = itertools.count()

    def put(self, digest: Digest, size: int, file: BinaryIO) -> None:
        """Keep a blob, unless it is there: then nothing is read."""
        relative = layout.blob(self._namespace, digest)
        with self._link.wire() as wire:
            if not self._reader.holds(wire, relative, size):
                where = f"{self._label}/{relative}"
                self._write(wire, [_File(relative, _verified(file, digest, size, where))])

    def put_group(self, sources: Sequence[BlobSource]) -> None:
        """Keep these blobs, also where they are."""
        with self._link.wire() as wire:
            self._write(wire, [self._of_source(source) for source in sources])

    def put_list(self, name: ServiceName, chunks: Iterable[bytes]) -> None:
        """Publish a list: each blob was synced before it got its name."""
        relative = layout.list_path(self._namespace, name)
        with self._link.wire() as wire:
            self._write(wire, [_File(relative, iter(chunks))])
            self._sync_directory(wire, layout.list_directory(self._namespace))

    def write_note(self, name: str, data: bytes) -> None:
        """Keep a note, durably where that matters."""
        relative = layout.note_path(self._namespace, name)
        with self._link.wire() as wire:
            self._write(wire, [_File(relative, iter([data]))])
            if layout.outlives_a_crash(name):
                self._sync_directory(wire, layout.list_directory(self._namespace))

    def delete_note(self, name: str) -> None:
        """Have no such note."""
        relative = layout.note_path(self._namespace, name)
        with self._link.wire() as wire:
            answer = wire.ask(*ssh_wire.remove(self._path(relative)))
            if isinstance(answer, NotThereError):
                self._reader.check_root(wire)
            else:
                self._check(wire, relative, answer)

    def delete_list(self, name: ServiceName) -> None:
        """Have no such list, durably: what only it named may be deleted next."""
        relative = layout.list_path(self._namespace, name)
        with self._link.wire() as wire:
            answer = wire.ask(*ssh_wire.remove(self._path(relative)))
            if isinstance(answer, NotThereError):
                raise self._reader.list_missing(wire, name)
            self._check(wire, relative, answer)
            self._sync_directory(wire, layout.list_directory(self._namespace))

    def delete(self, digests: Iterable[Digest]) -> None:
        """Have no such blobs, in either layout."""
        with self._link.wire() as wire:
            places = [layout.blob]
            if self._reader.is_directory(wire, f"{self._namespace}/files"):
                places.append(layout.old_blob)
            self._remove_all(wire, (p(self._namespace, d) for d in digests for p in places))

    def delete_strays(self, paths: Iterable[str]) -> None:
        """Have no such temporary files."""
        with self._link.wire() as wire:
            self._remove_all(wire, (f"{self._namespace}/{path}" for path in paths))

    def _remove_all(self, wire: Wire, paths: Iterable[str]) -> None:
        self._reader.check_root(wire)
        relatives = list(paths)
        requests = (ssh_wire.remove(self._path(relative)) for relative in relatives)
        with contextlib.closing(wire.pipelined(requests)) as answers:
            for relative, answer in zip(relatives, answers, strict=True):
                if not isinstance(answer, NotThereError):
                    self._check(wire, relative, answer)

    # --- one group of files ------------------------------------------------------------------

    def _write(self, wire: Wire, files: Sequence[_File]) -> None:
        opened: list[_Open] = []
        try:
            self._open_all(wire, files, opened)
            self._fill_all(wire, opened)
            self._rename_all(wire, opened)
        except BaseException:
            self._clear_away(wire, opened)
            raise

    def _open_all(self, wire: Wire, files: Sequence[_File], opened: list[_Open]) -> None:
        """A temporary file for each, in the namespace's directory: that is there already."""
        names = [self._temporary(file.relative) for file in files]
        requests = [ssh_wire.create(self._path(name), MODE) for name in names]
        answers = list(wire.pipelined(requests))
        if any(isinstance(answer, NotThereError) for answer in answers):
            self._make_directories(wire, self._namespace)
            late = (
                wire.ask(*request) if isinstance(answer, NotThereError) else answer
                for request, answer in zip(requests, answers, strict=True)
            )
            answers = list(late)
        for file, name, answer in zip(files, names, answers, strict=True):
            if isinstance(answer, bytes):
                opened.append(_Open(file, name, answer))
        for name, answer in zip(names, answers, strict=True):
            self._check(wire, name, answer)

    def _temporary(self, relative: str) -> str:
        last = relative.rpartition("/")[2]
        name = layout.temporary(last, self._random, next(self._numbers))
        return f"{self._namespace}/{name}"

    def _fill_all(self, wire: Wire, opened: Sequence[_Open]) -> None:
        """Write, set the mode, sync, and ask for the size: each file's is what was sent."""
        under_way: collections.deque[_Open] = collections.deque()
        sizes = dict.fromkeys((one.handle for one in opened), 0)

        def requests() -> Generator[ssh_wire.Request, None, None]:
            for one in opened:
                for piece in _pieces(one.file.data):
                    under_way.append(one)
                    yield ssh_wire.write(one.handle, sizes[one.handle], piece)
                    sizes[one.handle] += len(piece)
            for step in (_set_mode, ssh_wire.fsync, ssh_wire.fstat, ssh_wire.close):
                for one in opened:
                    under_way.append(one)
                    yield step(one.handle)

        with (
            contextlib.closing(requests()) as asked,
            contextlib.closing(wire.pipelined(asked)) as answers,
        ):
            for answer in answers:
                one = under_way.popleft()
                if isinstance(answer, RefusedError) and answer.code == ssh_wire.UNSUPPORTED:
                    continue  # a server that cannot sync
                self._check(wire, one.file.relative, answer)
                if isinstance(answer, Attributes) and answer.size != sizes[one.handle]:
                    raise StoreTrouble(
                        f"{self._label}/{one.file.relative}: {answer.size} bytes arrived of"
                        f" {sizes[one.handle]}"
                    )

    def _rename_all(self, wire: Wire, opened: Sequence[_Open]) -> None:
        requests = [
            ssh_wire.rename(self._path(one.temporary), self._path(one.file.relative))
            for one in opened
        ]
        for one, request, answer in zip(
            opened, requests, list(wire.pipelined(requests)), strict=True
        ):
            if isinstance(answer, NotThereError):
                self._make_directories(wire, one.file.relative.rpartition("/")[0])
                answer = wire.ask(*request)
            self._check(wire, one.file.relative, answer)

    def _clear_away(self, wire: Wire, opened: Sequence[_Open]) -> None:
        """Remove what got no name. Where the connection is gone it is left to upkeep."""
        if wire.failed:
            return
        with contextlib.suppress(StoreTrouble):
            for one in opened:
                wire.tell(*ssh_wire.close(one.handle))
                wire.tell(*ssh_wire.remove(self._path(one.temporary)))
            wire.ask(*ssh_wire.stat(self._root or "/"))  # all of it is answered by now

    # --- the server --------------------------------------------------------------------------

    def _path(self, relative: str) -> str:
        return f"{self._root}/{relative}"

    def _check(self, wire: Wire, relative: str, answer: Answer) -> None:
        """StoreTrouble for a refusal. A full disk is only "Failure" there: it is asked about."""
        if not isinstance(answer, Exception):
            return
        if isinstance(answer, RefusedError) and answer.code == ssh_wire.FAILURE:
            free = wire.ask(*ssh_wire.statvfs(self._root or "/"))
            if isinstance(free, bytes) and _is_full(free):
                raise StoreTrouble(f"{self._label}: no space left on the server's disk")
        raise self._reader.trouble(relative, answer)

    def _make_directories(self, wire: Wire, relative: str) -> None:
        if not self._create:
            self._reader.check_root(wire)
        else:
            for end in _ends_of_parts(self._root):
                self._make_directory(wire, self._root[:end])
        for end in _ends_of_parts(relative):
            self._make_directory(wire, self._path(relative[:end]))

    def _make_directory(self, wire: Wire, path: str) -> None:
        """Make one; that there is one already is told by what is done in it."""
        if wire.ask(*ssh_wire.make_directory(path, DIRECTORY_MODE)) is None:
            wire.ask(*ssh_wire.chmod(path, DIRECTORY_MODE))  # whatever the umask took away

    def _sync_directory(self, wire: Wire, relative: str) -> None:
        """Make a rename durable, where the server lets a directory be opened and synced."""
        handle = wire.ask(*ssh_wire.open_to_read(self._path(relative)))
        if isinstance(handle, bytes):
            wire.ask(*ssh_wire.fsync(handle))
            wire.tell(*ssh_wire.close(handle))

    def _of_source(self, source: BlobSource) -> _File:
        relative = layout.blob(self._namespace, source.digest)
        if source.held is not None:
            return _File(relative, iter([source.held]))
        return _File(relative, _opened(source, f"{self._label}/{relative}"))


def _set_mode(handle: bytes) -> ssh_wire.Request:
    return ssh_wire.fchmod(handle, MODE)  # whatever the umask took away


def _opened(source: BlobSource, where: str) -> Iterator[bytes]:
    with source.open() as file:
        yield from _verified(file, source.digest, source.size, where)


def _verified(file: BinaryIO, digest: Digest, size: int, where: str) -> Iterator[bytes]:
    """The bytes of a file; Corrupt at the end when they are not those of the digest and size."""
    hasher = digests.hasher()
    done = 0
    while data := file.read(min(CHUNK, size - done + 1)):
        done += len(data)
        if done > size:
            raise Corrupt(f"{where}: refused, more than the {size} bytes that were announced")
        hasher.update(data)
        yield data
    if done != size:
        raise Corrupt(f"{where}: refused, {done} bytes where {size} were announced")
    if hasher.digest() != digest:
        raise Corrupt(f"{where}: refused, the bytes have md5 {hasher.digest().hex()}")


def _pieces(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes, in what one message holds."""
    for chunk in chunks:
        for start in range(0, len(chunk), ssh_wire.PIECE):
            yield chunk[start : start + ssh_wire.PIECE]


def _is_full(answer: bytes) -> bool:
    """Whether the answer to statvfs says that an ordinary user has no blocks or no inodes."""
    if len(answer) != _STATVFS.size:
        return False
    _, unit, _, _, blocks, inodes, _, free_inodes, *_ = _STATVFS.unpack(answer)
    return bool(blocks * unit < ssh_wire.PIECE or (inodes and not free_inodes))


def _ends_of_parts(path: str) -> Iterator[int]:
    """Where each directory on the way to a path ends in it, the path itself last."""
    for index, letter in enumerate(path):
        if letter == "/" and index:
            yield index
    yield len(path)
