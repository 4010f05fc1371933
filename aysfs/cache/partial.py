"""Large blobs of which only some chunks are here: a sparse file each, and a map of what it holds.

Serves ``chunks``, which fills them. Owns ``partial/`` in the cache (docs/format.md, "Cache"):

    <h0>/<h1>/<md5>       the bytes that are here, each at its place; as long as the blob
    <h0>/<h1>/<md5>.map   a header, the index of the chunks, a byte for each chunk
    lock                  flock()ed while an entry is made, opened, completed or removed

A chunk is marked once its verified bytes are written, so whatever a process that was killed had
marked is there. After a restart of the host it may not be: what was marked before it is hashed
once more, chunk by chunk, before it is believed. The entry is everybody's: several processes may
fill it at once, each chunk with the same bytes.

All of this is quick, but for what says otherwise, and safe to call from any thread.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from struct import Struct

from aysfs import digest as digests
from aysfs.cache import stamp
from aysfs.cache.blobs import Cache
from aysfs.cache.root import translated
from aysfs.cache.usage import on_disk
from aysfs.chunks import Chunks
from aysfs.digest import SIZE, Digest

# magic, version, inode of the sparse file, bytes of the blob, of a chunk, digest of the blob and of
# the index, boot id of the host when all marks were known to be right
_HEADER = Struct("<8sIQQQ16s16s36s")
_MAGIC, _VERSION = b"aysfsmap", 1
_BOOT = Path("/proc/sys/kernel/random/boot_id")

ABSENT, HERE, DOUBTFUL = 0, 1, 2
_TO_DOUBT = bytes.maketrans(bytes([HERE]), bytes([DOUBTFUL]))
_PIECE = 1 << 20


class Partial:
    """One entry, open. Close it when done."""

    def __init__(self, cache: Cache, digest: Digest, size: int, chunks: Chunks, opened: "_Opened"):
        self.digest, self.size, self.chunks = digest, size, chunks
        self.count = chunks.count(size)
        self.descriptor = opened.data
        """Of the sparse file, to read."""
        self.index = opened.index
        self._cache = cache
        self._map = opened.map
        self._marks_at = _HEADER.size + len(self.index)
        self._known = bytearray(self.count)  # chunks that this process knows to be here
        self.is_closed = False

    def close(self) -> None:
        """Let go of the files."""
        self.is_closed = True
        os.close(self.descriptor)
        os.close(self._map)

    @property
    def is_removed(self) -> bool:
        """Whether nobody else can find it any more."""
        return not os.fstat(self.descriptor).st_nlink

    def digest_of(self, number: int) -> bytes:
        """What a chunk hashes to."""
        return self.index[number * SIZE : number * SIZE + SIZE]

    def has(self, number: int) -> bool:
        """Whether a chunk is here. One from before a restart of the host is hashed."""
        if not self._known[number]:
            mark = os.pread(self._map, 1, self._marks_at + number)
            self._known[number] = mark == b"\1" or (mark == b"\2" and self._verify(number))
        return bool(self._known[number])

    def put(self, descriptor: int, number: int, data: bytes | memoryview) -> None:
        """Keep the verified bytes of a chunk, by a descriptor of ``opened_to_write``.

        Their room was reserved, and becomes usage.
        """
        at, rest = number * self.chunks.size, memoryview(data)
        try:
            while rest:
                written = os.pwrite(descriptor, rest, at)
                at, rest = at + written, rest[written:]
            self._mark(number, HERE)
        except OSError as error:
            raise translated(error, self._cache.root) from error
        self._known[number] = True
        self._cache.usage.commit(len(data))

    @contextlib.contextmanager
    def opened_to_write(self) -> Iterator[int]:
        """A descriptor to write by. As long as there is one, nobody can execute the file."""
        try:
            descriptor = os.open(f"/proc/self/fd/{self.descriptor}", os.O_WRONLY | os.O_CLOEXEC)
        except OSError as error:
            raise translated(error, self._cache.root) from error
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    @property
    def is_complete(self) -> bool:
        """Whether nothing is missing, as far as it is marked."""
        return ABSENT not in os.pread(self._map, self.count, self._marks_at)

    def doubt(self) -> int:
        """Hash every chunk that is marked; how many were wrong and are missing now. Slow."""
        self._known = bytearray(self.count)
        marks = os.pread(self._map, self.count, self._marks_at)
        return sum(bool(mark) and not self._verify(at) for at, mark in enumerate(marks))

    def complete(self) -> bool:
        """Make the entry, whose bytes were verified as a whole, the blob.

        False when it was removed meanwhile, or another process was first.
        """
        path, own = self._cache.partial_path(self.digest), os.fstat(self.descriptor)
        with self._cache.partial_lock():
            try:
                if not os.path.samestat(os.stat(path), own):
                    return False
                os.fchmod(self.descriptor, 0o400)
                stamp.apply(self.descriptor, self.digest)
                self._cache.adopt(path, self.digest)
                os.unlink(f"{path}.map")
            except FileNotFoundError:
                return False
            except OSError as error:
                raise translated(error, self._cache.root) from error
        return True

    def discard(self) -> None:
        """Have the entry no more. Whoever has it open may go on reading."""
        own = os.fstat(self.descriptor)
        with self._cache.partial_lock():
            path = self._cache.partial_path(self.digest)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.stat(path), own):
                    self._cache.drop_partial(self.digest)

    def _verify(self, number: int) -> bool:
        at, length = number * self.chunks.size, self.chunks.length(number, self.size)
        data = os.pread(self.descriptor, length, at)
        right = digests.of(data) == self.digest_of(number)
        self._mark(number, HERE if right else ABSENT)
        if not right:
            self._cache.usage.freed(on_disk(length))  # it is counted anew when it comes
        return right

    def _mark(self, number: int, mark: int) -> None:
        os.pwrite(self._map, bytes([mark]), self._marks_at + number)


def whole_digest(descriptor: int, size: int, stop: Callable[[], bool]) -> Digest | None:
    """The digest of a file, which is closed; None when told to stop. Waits for the disk."""
    hasher = digests.hasher()
    try:
        for at in range(0, size, _PIECE):
            if stop():
                return None
            hasher.update(os.pread(descriptor, _PIECE, at))
        return Digest(hasher.digest())
    finally:
        os.close(descriptor)


class _Opened:
    """The files of an entry that fits; its owner closes them."""

    def __init__(self, data: int, map_: int, index: bytes) -> None:
        self.data, self.map, self.index = data, map_, index


def chunks_of_part(cache: Cache, digest: Digest) -> Chunks | None:
    """The chunks of an entry, by its map; None where there is none, or one that makes no sense."""
    try:
        with open(f"{cache.partial_path(digest)}.map", "rb", buffering=0) as file:
            head = file.read(_HEADER.size)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise translated(error, cache.root) from error
    if len(head) != _HEADER.size:
        return None
    magic, version, _, _, cut, named, index, _ = _HEADER.unpack(head)
    if (magic, version, named) != (_MAGIC, _VERSION, digest) or not cut:
        return None
    return Chunks(cut, Digest(index))


def open_partial(cache: Cache, digest: Digest, size: int, chunks: Chunks) -> Partial | None:
    """The entry of a blob where there is one that these chunks fit; another one is removed."""
    if not os.path.lexists(cache.partial_path(digest)):  # as always the first time: no lock for it
        return None
    try:
        with cache.partial_lock():
            opened = _open(cache, digest, size, chunks)
            if opened is None:
                _remove(cache, digest)
                return None
    except OSError as error:
        raise translated(error, cache.root) from error
    return Partial(cache, digest, size, chunks, opened)


def make_partial(cache: Cache, digest: Digest, size: int, chunks: Chunks, index: bytes) -> Partial:
    """The entry of a blob, made where there is none. ``index`` was verified."""
    path = cache.partial_path(digest)
    try:
        with cache.partial_lock():
            opened = _open(cache, digest, size, chunks)
            if opened is None:
                _remove(cache, digest)
                os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
                _make(path, digest, size, chunks, index)
                opened = _open(cache, digest, size, chunks)
    except OSError as error:
        raise translated(error, cache.root) from error
    assert opened is not None
    return Partial(cache, digest, size, chunks, opened)


# --- under the lock ------------------------------------------------------------------------


def _open(cache: Cache, digest: Digest, size: int, chunks: Chunks) -> _Opened | None:
    """The files, when they are whole and belong together."""
    path = cache.partial_path(digest)
    with contextlib.ExitStack() as undo:
        try:
            data = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            undo.callback(os.close, data)
            map_ = os.open(f"{path}.map", os.O_RDWR | os.O_CLOEXEC)
            undo.callback(os.close, map_)
        except FileNotFoundError:
            return None
        index_size, count = chunks.index_size(size), chunks.count(size)
        status = os.fstat(data)
        if status.st_size != size or os.fstat(map_).st_size != _HEADER.size + index_size + count:
            return None
        head, index = os.pread(map_, _HEADER.size, 0), os.pread(map_, index_size, _HEADER.size)
        boot = _HEADER.unpack(head)[-1]
        if head != _header(status.st_ino, digest, size, chunks, boot):
            return None
        if digests.of(index) != chunks.digest:
            return None
        if boot != (now := _boot()):
            marks_at = _HEADER.size + index_size
            marks = os.pread(map_, count, marks_at)
            os.pwrite(map_, marks.translate(_TO_DOUBT), marks_at)
            os.pwrite(map_, _header(status.st_ino, digest, size, chunks, now), 0)
        undo.pop_all()
    return _Opened(data, map_, index)


def _make(path: str, digest: Digest, size: int, chunks: Chunks, index: bytes) -> None:
    with open(path, "xb") as data:
        os.fchmod(data.fileno(), 0o600)
        data.truncate(size)
        inode = os.fstat(data.fileno()).st_ino
    head = _header(inode, digest, size, chunks, _boot())
    with open(f"{path}.map", "xb") as map_:
        os.fchmod(map_.fileno(), 0o600)
        map_.write(head + index + bytes(chunks.count(size)))


def _remove(cache: Cache, digest: Digest) -> None:
    cache.drop_partial(digest)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{cache.partial_path(digest)}.map")


def _header(inode: int, digest: Digest, size: int, chunks: Chunks, boot: bytes) -> bytes:
    return _HEADER.pack(_MAGIC, _VERSION, inode, size, chunks.size, digest, chunks.digest, boot)


def _boot() -> bytes:
    return _BOOT.read_text().strip().encode()
