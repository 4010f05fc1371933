"""Blobs on their way from a stream: hashed as they come, and handed on in batches.

Serves ``stream``. Owns what is in memory and in temporary files meanwhile, and the two threads:
one batch is read and hashed while the one before is written, and never is there a third. Knows
neither stores nor paths.
"""

import functools
import os
import tempfile
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import BinaryIO, TypeVar

from aysfs import digest as digests
from aysfs.chunks import ChunkHasher
from aysfs.digest import Digest
from aysfs.store.protocol import BlobSource

T = TypeVar("T")

Put = Callable[[list[BlobSource]], object]
"""Takes a batch, and returns when nothing of it is needed any more."""

BATCH_FILES = 256
BATCH_BYTES = 16 << 20

# A larger file is spooled to a temporary file, and ends its batch.
HELD = 8 << 20


class Batch:
    """Blobs, and the temporary file below the last of them when it is a large one."""

    def __init__(self) -> None:
        self.sources: list[BlobSource] = []
        self.held = 0
        self.spool: BinaryIO | None = None

    def close(self) -> None:
        """Let go of the bytes."""
        self.sources.clear()
        if self.spool is not None:
            self.spool.close()

    @property
    def is_full(self) -> bool:
        """Whether the next blob might be too much."""
        return (
            self.spool is not None
            or len(self.sources) >= BATCH_FILES
            or self.held >= BATCH_BYTES - HELD
        )


class Batches:
    """Takes blobs; ``hand_on`` gets a batch whenever one is full. No digest is handed on twice."""

    def __init__(self) -> None:
        self._known: set[Digest] = set()

    def filled(self, produce: Callable[["Filling"], T], put: Put) -> T:
        """Run ``produce`` in a thread of its own, and put here what it fills batches with.

        An error of either ends both; the one of ``put`` is told when there are two.
        """
        lane = _Lane()

        def run() -> T:
            filling = Filling(self._known, lane.hand_on)
            try:
                result = produce(filling)
                filling.flush()
                return result
            finally:
                filling.close()
                lane.end()

        with ThreadPoolExecutor(1, "aysfs-stream") as pool:
            future = pool.submit(run)
            lane.put_all(put)
        return future.result()


class Filling:
    """The batch that is being filled."""

    def __init__(self, known: set[Digest], hand_on: Callable[[Batch], None]) -> None:
        self._known = known
        self._hand_on = hand_on
        self._batch = Batch()

    def add(self, data: bytes) -> Digest:
        """A blob in memory; its digest."""
        digest = digests.of(data)
        if self._is_new(digest):
            self._batch.held += len(data)
            self._take(BlobSource.of(digest, data))
        return digest

    def spool(self, pieces: Iterable[bytes], *, chunks: bool = False) -> tuple[Digest, bytes]:
        """A blob that is too large to be held; its digest, and its index with ``chunks``."""
        hasher = ChunkHasher() if chunks else digests.hasher()
        size = 0
        with tempfile.TemporaryFile(prefix="aysfs-", buffering=0) as file:
            for piece in pieces:
                hasher.update(piece)
                _write(file.fileno(), piece)
                size += len(piece)
            digest = Digest(hasher.digest())
            if self._is_new(digest):
                # A descriptor of its own: the file lives until the batch is closed.
                self._batch.spool = kept = os.fdopen(os.dup(file.fileno()), "rb", buffering=0)
                self._take(BlobSource(digest, size, functools.partial(_reopen, kept.fileno())))
        return digest, hasher.index() if isinstance(hasher, ChunkHasher) else b""

    def flush(self) -> None:
        """Hand on what there is."""
        if self._batch.sources:
            batch, self._batch = self._batch, Batch()
            self._hand_on(batch)

    def close(self) -> None:
        """Let go of what was not handed on."""
        self._batch.close()

    def _is_new(self, digest: Digest) -> bool:
        if digest in self._known:
            return False
        self._known.add(digest)
        return True

    def _take(self, source: BlobSource) -> None:
        self._batch.sources.append(source)
        if self._batch.is_full:
            self.flush()


class _StoppedError(Exception):
    """The other side has gone: ends the thread that reads, and nobody sees it."""


class _Lane:
    """One batch at a time goes from the thread that fills to the one that puts."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Batch | None] = SimpleQueue()
        self._room = threading.Semaphore(1)
        self._stopped = False

    def hand_on(self, batch: Batch) -> None:
        """Wait until the batch before is put. From the thread that fills."""
        self._room.acquire()
        if self._stopped:
            batch.close()
            raise _StoppedError
        self._queue.put(batch)

    def end(self) -> None:
        """No more batches."""
        self._queue.put(None)

    def put_all(self, put: Put) -> None:
        """Put each batch until the end."""
        try:
            while (batch := self._queue.get()) is not None:
                try:
                    put(batch.sources)
                finally:
                    batch.close()
                self._room.release()
        finally:
            self._stopped = True
            self._room.release()


def _write(fd: int, data: bytes) -> None:
    written = os.write(fd, data)
    while written < len(data):
        written += os.write(fd, memoryview(data)[written:])


def _reopen(fd: int) -> BinaryIO:
    """The file below a descriptor, which has no name any more, from its beginning."""
    return open(f"/proc/self/fd/{fd}", "rb", buffering=0)
