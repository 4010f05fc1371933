"""Reading the files of a tree, and sending a store the blobs that it lacks, in one pass.

Serves ``push``. A file that is not remembered is read once: hashed in memory, asked for, and
written by the store from the same bytes. Owns the batches and what is known of digests; must
not publish anything.
"""

import functools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import BinaryIO, NamedTuple

import trio

from aysfs import digest as digests
from aysfs.chunks import ChunkHasher, index_size
from aysfs.digest import Digest, Hasher
from aysfs.errors import Corrupt
from aysfs.limits import LARGE
from aysfs.publish.hash_cache import HashCache
from aysfs.publish.walk import FileKey, Found, TreeChanged, key_of, unreadable
from aysfs.store.claims import Claim
from aysfs.store.protocol import BlobSource

Batch = list[Found]

# A batch is read, asked for and written before the next: large enough that three calls cost
# nothing beside it, small enough that progress moves. One is in memory at a time. Two at once
# are slower where the store is a disk: every call of the kernel lets the interpreter's lock
# go, and two threads that do little else hand it to and fro (51,042 blobs: 8.6 s of CPU
# against 5.2 s). A store that is far away sends the blobs of one batch side by side itself.
BATCH_FILES = 256
BATCH_BYTES = 8 << 20

# A larger file is not held: it is read to be hashed, and once more by the store if need be.
HELD = 1 << 20
PIECE = 1 << 20

# Replaced by a symlink or a fifo since the walk: fail, never follow and never wait.
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class Sent(NamedTuple):
    """How far the sending is. ``files`` and ``bytes`` are done of ``of_files`` and ``of_bytes``."""

    files: int
    of_files: int
    bytes: int
    of_bytes: int
    uploaded_blobs: int
    uploaded_bytes: int
    present_blobs: int  # that the store had already


Progress = Callable[[Sent], None]
"""Told after each batch, in the event loop."""


class _Read(NamedTuple):
    """A file that was read: what it held, a store's way to the same bytes, and to its index."""

    file: Found
    source: BlobSource
    chunks: BlobSource | None

    @property
    def sources(self) -> list[BlobSource]:
        """All that a store needs of it."""
        return [self.source] if self.chunks is None else [self.source, self.chunks]


class Sender:
    """Sends the regular files of one tree. Afterwards ``digests`` has one for each of them.

    And ``indexes`` that of its index blob for each large one.
    """

    def __init__(self, claim: Claim, hash_cache: HashCache | None, progress: Progress) -> None:
        self.digests: dict[FileKey, Digest] = {}
        self.indexes: dict[FileKey, Digest] = {}
        self.uploaded_blobs = 0
        self.uploaded_bytes = 0
        self._claim = claim
        self._hash_cache = hash_cache
        self._progress = progress
        self._asked: set[Digest] = set()  # the store has them, or a batch sees to it
        self._sent = Sent(0, 0, 0, 0, 0, 0, 0)

    async def send(self, files: Sequence[Found]) -> None:
        """Let the store have every blob of these files. Each inode is read once at most."""
        await self._recall(files)
        inodes = {one.key: one for one in files}.values()
        unread = [one for one in inodes if one.key not in self.digests]
        sizes = sum(one.entry.size for one in inodes)
        self._sent = Sent(0, len(inodes), 0, sizes, 0, 0, 0)
        self._tell([one for one in inodes if one.key in self.digests])
        await self._each_batch(unread)

    async def _recall(self, files: Sequence[Found]) -> None:
        """Know what the cache remembers, except where the store lacks it: that is read again.

        So a cache that is wrong about a file costs a list nothing that the store does not have.
        """
        if self._hash_cache is None:
            return
        remembered = self._hash_cache.get
        known = {one.key: digest for one in files if (digest := remembered(one.key)) is not None}
        if not known:
            return
        index_of = self._hash_cache.index_of
        indexes = {key: index for key in known if key[2] > LARGE and (index := index_of(key))}
        sizes = {digest: key[2] for key, digest in known.items()}
        sizes |= {index: index_size(key[2]) for key, index in indexes.items()}
        lacking = await self._claim.missing(sizes)
        self._asked = sizes.keys() - lacking
        if lacking:
            known = {key: digest for key, digest in known.items() if digest not in lacking}
        self.indexes = {key: index for key, index in indexes.items() if index not in lacking}
        self.digests = {
            key: digest for key, digest in known.items() if key[2] <= LARGE or key in self.indexes
        }

    async def _each_batch(self, files: Sequence[Found]) -> None:
        for batch in _batches(files):
            await self._send_batch(batch)
            self._tell(batch)

    def _tell(self, done: Sequence[Found]) -> None:
        """These files are done, be it that they were remembered."""
        self._sent = self._sent._replace(
            files=self._sent.files + len(done),
            bytes=self._sent.bytes + sum(one.entry.size for one in done),
            uploaded_blobs=self.uploaded_blobs,
            uploaded_bytes=self.uploaded_bytes,
            present_blobs=len(self._asked) - self.uploaded_blobs,
        )
        self._progress(self._sent)

    async def _send_batch(self, batch: Batch) -> None:
        started = time.time_ns()
        read = await trio.to_thread.run_sync(_read_files, batch, abandon_on_cancel=True)
        fresh = self._take(read, started)
        if not fresh:
            return
        lacking = await self._claim.missing({d: source.size for d, (source, _) in fresh.items()})
        upload = [one for digest, one in fresh.items() if digest in lacking]
        if upload:
            await self._upload(upload)

    def _take(self, read: Sequence[_Read], started: int) -> dict[Digest, tuple[BlobSource, Found]]:
        """Remember the digests; those that nobody has asked the store for yet."""
        fresh: dict[Digest, tuple[BlobSource, Found]] = {}
        for one in read:
            key, digest = one.file.key, one.source.digest
            index = one.chunks.digest if one.chunks is not None else None
            self.digests[key] = digest
            if index is not None:
                self.indexes[key] = index
            if self._hash_cache is not None:
                self._hash_cache.add(key, digest, started, index)
            for source in one.sources:
                if source.digest not in self._asked:
                    self._asked.add(source.digest)
                    fresh[source.digest] = source, one.file
        return fresh

    async def _upload(self, upload: Sequence[tuple[BlobSource, Found]]) -> None:
        files = [file for _, file in upload]
        try:
            await self._claim.store.put_many([source for source, _ in upload])
        except Corrupt:
            await trio.to_thread.run_sync(_check_unchanged, files)
            raise
        await trio.to_thread.run_sync(_check_unchanged, files)
        self.uploaded_blobs += len(upload)
        self.uploaded_bytes += sum(source.size for source, _ in upload)


def _batches(files: Iterable[Found]) -> Iterator[Batch]:
    batch: Batch = []
    size = 0
    for one in files:
        if batch and (len(batch) >= BATCH_FILES or size + one.entry.size > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(one)
        size += one.entry.size
    if batch:
        yield batch


# --- in worker threads -------------------------------------------------------------------


def _read_files(batch: Batch) -> list[_Read]:
    return [_read_file(one) for one in batch]


def _read_file(one: Found) -> _Read:
    """The file's bytes, hashed; only a way to them when there are many."""
    size, index = one.entry.size, None
    try:
        fd = os.open(one.file, _READ)
        try:
            if size <= HELD:
                data = os.read(fd, size)
                source = BlobSource.of(digests.of(data), data)
            else:
                opener = functools.partial(_open, one.file)
                hasher = ChunkHasher() if size > LARGE else digests.hasher()
                _hash(fd, hasher)
                source = BlobSource(Digest(hasher.digest()), size, opener)
                if isinstance(hasher, ChunkHasher):
                    data = hasher.index()
                    index = BlobSource.of(digests.of(data), data)
            changed = key_of(os.fstat(fd)) != one.key or source.size != size
        finally:
            os.close(fd)
    except OSError as error:
        raise unreadable(one.file, error) from error
    if changed:
        raise TreeChanged(one.file, "changed while the tree was read")
    return _Read(one, source, index)


def _hash(fd: int, hasher: Hasher | ChunkHasher) -> None:
    buffer = memoryview(bytearray(PIECE))
    while count := os.readv(fd, [buffer]):
        hasher.update(buffer[:count])


def _open(file: bytes) -> BinaryIO:
    try:
        return os.fdopen(os.open(file, _READ), "rb", buffering=0)
    except OSError as error:
        raise unreadable(file, error) from error


def _check_unchanged(files: Iterable[Found]) -> None:
    """TreeChanged when one of them is not what it was read as."""
    for one in files:
        try:
            same = key_of(os.lstat(one.file)) == one.key
        except OSError as error:
            raise unreadable(one.file, error) from error
        if not same:
            raise TreeChanged(one.file, "changed while it was pushed")
