"""Where the frames of packs come from: files of a tree, blobs of a store, or a build's stream.

Serves ``packs``, and ``hints`` with the bytes themselves. Whatever the source, a frame is only made
of bytes whose digest was just taken. Each source is asked for a batch at a time, and holds no more
than that.
"""

import os
import tempfile
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import BinaryIO, NamedTuple, Protocol

import trio

from aysfs import digest as digests
from aysfs.digest import Digest
from aysfs.errors import Corrupt
from aysfs.limits import LARGE
from aysfs.pack import compress_all, expand
from aysfs.pack.cut import Blob
from aysfs.publish.walk import Found, TreeChanged, unreadable
from aysfs.store.crew import side_by_side
from aysfs.store.protocol import BlobSource, Held, Store

THREADS = 2
_READERS = 16
# As `send` opens them: fail on what was replaced since, never follow and never wait.
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class Frames(Protocol):
    """A source of frames."""

    async def frames(self, blobs: Sequence[Blob]) -> list[bytes]:
        """The frames of these blobs, in their order."""

    async def contents(self, blobs: Sequence[Blob]) -> list[bytes]:
        """The blobs themselves, likewise."""


class FramesOfFiles:
    """From the files of a tree that was pushed a moment ago."""

    def __init__(self, files: Mapping[Digest, Found]) -> None:
        self._files = files

    async def frames(self, blobs: Sequence[Blob]) -> list[bytes]:
        """TreeChanged when a file has other bytes by now."""
        return await trio.to_thread.run_sync(lambda: compress_all(self._contents(blobs), THREADS))

    async def contents(self, blobs: Sequence[Blob]) -> list[bytes]:
        """TreeChanged likewise."""
        return await trio.to_thread.run_sync(self._contents, blobs)

    def _contents(self, blobs: Sequence[Blob]) -> list[bytes]:
        return [self._content(self._files[digest].file, digest, size) for digest, size in blobs]

    def _content(self, path: bytes, digest: Digest, size: int) -> bytes:
        try:
            with open(os.open(path, _READ), "rb", buffering=0) as file:
                data = file.read(size + 1)
        except OSError as error:
            raise unreadable(path, error) from error
        if data is None or digests.of(data) != digest:  # none from a fifo that nobody writes to
            raise TreeChanged(path, "changed while it was pushed")
        return data


class FramesOfStore:
    """From a store that has the blobs. Until it is closed it has a temporary file.

    There it keeps the frames of contents that came over a network: their packs are made next.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept = FrameSpool()

    def close(self) -> None:
        """Let the file go."""
        self._kept.close()

    async def frames(self, blobs: Sequence[Blob]) -> list[bytes]:
        """BlobMissing or Corrupt when the store has not what it should have."""
        lacking = [blob for blob in blobs if blob[0] not in self._kept]
        contents = [one.data for one in await self._fetch(lacking)]
        made = iter(await trio.to_thread.run_sync(compress_all, contents, THREADS))
        kept = iter(await self._kept.frames([blob for blob in blobs if blob[0] in self._kept]))
        return [next(kept if digest in self._kept else made) for digest, _ in blobs]

    async def contents(self, blobs: Sequence[Blob]) -> list[bytes]:
        """BlobMissing or Corrupt likewise."""
        fetched = await self._fetch(blobs)
        sent = [BlobSource.of(one.digest, one.data) for one in fetched if not one.at_hand]
        await trio.to_thread.run_sync(self._kept.take, sent)
        return [one.data for one in fetched]

    async def _fetch(self, blobs: Sequence[Blob]) -> list["_Fetched"]:
        fetched: dict[int, _Fetched] = {}

        async def fetch(at: int) -> None:
            fetched[at] = await self._content(*blobs[at])

        await side_by_side(range(len(blobs)), fetch, _READERS)
        return [fetched[at] for at in range(len(blobs))]

    async def _content(self, digest: Digest, size: int) -> "_Fetched":
        data = self._store.at_hand(digest, size)
        at_hand = data is not None
        if data is None:
            held = Held()
            await self._store.get(digest, size, held)
            data = held.getvalue()
        if digests.of(data) != digest:
            raise Corrupt(f"{self._store.label}: the blob {digest.hex()} has other bytes")
        return _Fetched(digest, data, at_hand)


class _Fetched(NamedTuple):
    """A blob of a store, and whether it came without waiting."""

    digest: Digest
    data: bytes
    at_hand: bool


class _Place(NamedTuple):
    """Where a frame is in a file, and how long."""

    offset: int
    length: int


class FrameSpool:
    """Frames of what went by in a stream, in a temporary file of its own. For worker threads.

    So a build packs what is in its store already, and need not ask for it back.
    """

    def __init__(self) -> None:
        self._file = _unnamed_file()
        self._places: dict[Digest, _Place] = {}
        self._end = 0

    def __enter__(self) -> "FrameSpool":
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def __contains__(self, digest: Digest) -> bool:
        return digest in self._places

    def take(self, sources: Sequence[BlobSource]) -> None:
        """Keep the frames of a batch; blobs that no pack can hold are passed over."""
        small = [one for one in sources if one.size <= LARGE and one.digest not in self._places]
        contents = [_bytes_of(one) for one in small]
        for source, frame in zip(small, compress_all(contents, THREADS), strict=True):
            _write_all(self._file.fileno(), frame)
            self._places[source.digest] = _Place(self._end, len(frame))
            self._end += len(frame)

    async def frames(self, blobs: Sequence[Blob]) -> list[bytes]:
        """All of them have been taken."""
        return await trio.to_thread.run_sync(self._read, blobs)

    async def contents(self, blobs: Sequence[Blob]) -> list[bytes]:
        """All of them have been taken."""
        return await trio.to_thread.run_sync(self._expand, blobs)

    def _expand(self, blobs: Sequence[Blob]) -> list[bytes]:
        frames = self._read(blobs)
        return [expand(frame, size) for frame, (_, size) in zip(frames, blobs, strict=True)]

    def _read(self, blobs: Sequence[Blob]) -> list[bytes]:
        places = (self._places[digest] for digest, _ in blobs)
        return [os.pread(self._file.fileno(), one.length, one.offset) for one in places]


def _unnamed_file() -> BinaryIO:
    return tempfile.TemporaryFile(prefix="aysfs-frames-", buffering=0)


def _bytes_of(source: BlobSource) -> bytes:
    if source.held is not None:
        return source.held
    with source.open() as file:
        return file.read()


def _write_all(fd: int, data: bytes) -> None:
    written = os.write(fd, data)
    while written < len(data):
        written += os.write(fd, memoryview(data)[written:])
