"""A store in memory: for tests, and for whatever never needs to outlive the process.

Owns its dictionaries. Behaves like a disk that is fast, durable and never full.
"""

import io
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import BinaryIO

import trio

from aysfs.digest import Digest, of
from aysfs.errors import BlobMissing, Corrupt, ListMissing, NoteMissing
from aysfs.names import ServiceName
from aysfs.store import layout
from aysfs.store.protocol import BlobSource, OpenList, Sink, Stored, Stray

CHUNK = 1 << 16


class MemoryStore:
    """Blobs, lists and notes in dictionaries, which tests may look into and damage."""

    def __init__(
        self, label: str = "memory", *, clock_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self.blobs: dict[Digest, bytes] = {}
        self.published: dict[ServiceName, tuple[bytes, int]] = {}
        self.noted: dict[str, bytes] = {}
        self.blob_times: dict[Digest, int] = {}  # what is not in it is as old as can be
        self.note_times: dict[str, int] = {}
        self._label = label
        self._clock_ns = clock_ns

    @property
    def label(self) -> str:
        return self._label

    def add(self, data: bytes) -> Digest:
        """Put bytes there without ceremony."""
        digest = of(data)
        self.blobs[digest] = data
        self.blob_times[digest] = self._clock_ns()
        return digest

    async def get(self, digest: Digest, size: int, sink: Sink) -> None:
        await self.get_range(digest, size, 0, size, sink)

    async def get_range(
        self, digest: Digest, size: int, start: int, length: int, sink: Sink
    ) -> None:
        await trio.lowlevel.checkpoint()
        data = self.blobs.get(digest)
        if data is None:
            raise BlobMissing(f"{self._label} has no blob {digest.hex()}")
        if len(data) != size:
            raise Corrupt(f"{self._label}: {digest.hex()} has {len(data)} bytes, not {size}")
        end = start + length
        for position in range(start, end, CHUNK):
            sink.write(data[position : min(position + CHUNK, end)])
            await trio.lowlevel.checkpoint()

    def at_hand(self, digest: Digest, size: int) -> bytes | None:
        return None  # as a store on a network, whose place it takes in tests

    async def size_of(self, digest: Digest) -> int:
        await trio.lowlevel.checkpoint()
        if digest not in self.blobs:
            raise BlobMissing(f"{self._label} has no blob {digest.hex()}")
        return len(self.blobs[digest])

    async def missing(self, blobs: Mapping[Digest, int]) -> set[Digest]:
        await trio.lowlevel.checkpoint()
        held = self.blobs
        return {one for one, size in blobs.items() if one not in held or len(held[one]) != size}

    async def put(self, digest: Digest, size: int, source: BinaryIO) -> None:
        await trio.lowlevel.checkpoint()
        data = source.read()
        if len(data) != size or of(data) != digest:
            raise Corrupt(f"{self._label}: refused {digest.hex()}, the bytes are others")
        self.blobs[digest] = data
        self.blob_times[digest] = self._clock_ns()

    async def put_many(self, sources: Sequence[BlobSource]) -> None:
        for source in sources:
            with source.open() as file:
                await self.put(source.digest, source.size, file)

    async def open_list(self, name: ServiceName) -> OpenList:
        await trio.lowlevel.checkpoint()
        if name not in self.published:
            raise ListMissing(f"{self._label} has no list {name}")
        data, mtime_ns = self.published[name]
        return OpenList(io.BytesIO(data), mtime_ns, f"{self._label}/{name}")

    async def put_list(self, name: ServiceName, chunks: Iterable[bytes]) -> None:
        await trio.lowlevel.checkpoint()
        self.published[name] = (b"".join(chunks), self._clock_ns())

    async def delete_list(self, name: ServiceName) -> None:
        await trio.lowlevel.checkpoint()
        if self.published.pop(name, None) is None:
            raise ListMissing(f"{self._label} has no list {name}")

    async def lists(self) -> list[ServiceName]:
        await trio.lowlevel.checkpoint()
        return sorted(self.published, key=str)

    async def read_note(self, name: str) -> bytes:
        await trio.lowlevel.checkpoint()
        layout.check_note(name, b"")
        if name not in self.noted:
            raise NoteMissing(f"{self._label} has no note {name}")
        return self.noted[name]

    async def write_note(self, name: str, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        layout.check_note(name, data)
        self.noted[name] = data
        self.note_times[name] = self._clock_ns()

    async def delete_note(self, name: str) -> None:
        await trio.lowlevel.checkpoint()
        layout.check_note(name, b"")
        self.noted.pop(name, None)

    async def notes(self) -> dict[str, int]:
        await trio.lowlevel.checkpoint()
        return {name: self.note_times.get(name, 0) for name in sorted(self.noted)}

    async def shelf(self, first: int) -> list[Stored]:
        await trio.lowlevel.checkpoint()
        return [
            Stored(digest, len(data), self.blob_times.get(digest, 0))
            for digest, data in self.blobs.items()
            if digest[0] == first
        ]

    async def delete(self, digests: Sequence[Digest]) -> None:
        await trio.lowlevel.checkpoint()
        for digest in digests:
            self.blobs.pop(digest, None)

    async def strays(self) -> list[Stray]:
        await trio.lowlevel.checkpoint()
        return []

    async def delete_strays(self, paths: Sequence[str]) -> None:
        await trio.lowlevel.checkpoint()
        layout.check_temporaries(paths)

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
