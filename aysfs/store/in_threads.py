"""The store protocol over a reader and a writer that block.

Serves the stores that are waited for in threads: a directory, and one over SSH. Owns the threads,
and what becomes of them when a caller is cancelled: the work is given up, not waited for.
"""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import BinaryIO, Protocol, TypeVar

import trio

from aysfs.digest import Digest
from aysfs.names import ServiceName
from aysfs.store import layout
from aysfs.store.gate import Gate
from aysfs.store.protocol import (
    PART_IN_LOOP,
    BlobSource,
    Held,
    OpenList,
    Sink,
    Stored,
    Stray,
    Writes,
)

T = TypeVar("T")


class Reader(Protocol):
    """Reads, as the Store protocol says, and blocks."""

    def read(self, digest: Digest, size: int, sink: Sink) -> None: ...
    def read_range(
        self, digest: Digest, size: int, start: int, length: int, sink: Writes
    ) -> None: ...
    def size_of(self, digest: Digest) -> int: ...
    def missing(self, wanted: Mapping[Digest, int]) -> set[Digest]: ...
    def open_list(self, name: ServiceName) -> OpenList: ...
    def lists(self) -> list[ServiceName]: ...
    def read_note(self, name: str) -> bytes: ...
    def notes(self) -> dict[str, int]: ...
    def shelf(self, first: int) -> list[Stored]: ...
    def strays(self) -> list[Stray]: ...


class Writer(Protocol):
    """Writes, as the Store protocol says, and blocks."""

    def put(self, digest: Digest, size: int, file: BinaryIO) -> None: ...
    def put_group(self, sources: Sequence[BlobSource]) -> None: ...
    def put_list(self, name: ServiceName, chunks: Iterable[bytes]) -> None: ...
    def delete_list(self, name: ServiceName) -> None: ...
    def write_note(self, name: str, data: bytes) -> None: ...
    def delete_note(self, name: str) -> None: ...
    def delete(self, digests: Iterable[Digest]) -> None: ...
    def delete_strays(self, paths: Iterable[str]) -> None: ...


class StoreInThreads:
    """All of a store but its ``aclose``.

    ``threads`` are at work at most. Between groups of ``group`` blobs a put of many looks whether
    its caller has gone.
    """

    def __init__(
        self, label: str, reader: Reader, writer: Writer, *, threads: int, group: int
    ) -> None:
        self._label = label
        self._reader = reader
        self._writer = writer
        self._group = group
        self._limiter = trio.CapacityLimiter(threads)

    @property
    def label(self) -> str:
        return self._label

    async def get(self, digest: Digest, size: int, sink: Sink) -> None:
        gate = Gate(sink)
        try:
            await self._in_thread(lambda: self._reader.read(digest, size, gate))
        finally:
            gate.close()

    async def get_range(
        self, digest: Digest, size: int, start: int, length: int, sink: Sink
    ) -> None:
        if length <= PART_IN_LOOP:
            held = Held()
            await self._in_thread(
                lambda: self._reader.read_range(digest, size, start, length, held)
            )
            sink.write(held.getbuffer())
            return
        gate = Gate(sink)
        try:
            await self._in_thread(
                lambda: self._reader.read_range(digest, size, start, length, gate)
            )
        finally:
            gate.close()

    def at_hand(self, digest: Digest, size: int) -> bytes | None:
        return None

    async def size_of(self, digest: Digest) -> int:
        return await self._in_thread(lambda: self._reader.size_of(digest))

    async def missing(self, blobs: Mapping[Digest, int]) -> set[Digest]:
        return await self._in_thread(lambda: self._reader.missing(blobs))

    async def put(self, digest: Digest, size: int, source: BinaryIO) -> None:
        await self._in_thread(lambda: self._writer.put(digest, size, source))

    async def put_many(self, sources: Sequence[BlobSource]) -> None:
        stop = threading.Event()

        def work() -> None:
            for start in range(0, len(sources), self._group):
                if stop.is_set():
                    return
                self._writer.put_group(sources[start : start + self._group])

        try:
            await self._in_thread(work)
        finally:
            stop.set()

    async def open_list(self, name: ServiceName) -> OpenList:
        return await self._in_thread(lambda: self._reader.open_list(name))

    async def put_list(self, name: ServiceName, chunks: Iterable[bytes]) -> None:
        await self._in_thread(lambda: self._writer.put_list(name, chunks))

    async def delete_list(self, name: ServiceName) -> None:
        await self._in_thread(lambda: self._writer.delete_list(name))

    async def lists(self) -> list[ServiceName]:
        return await self._in_thread(self._reader.lists)

    async def read_note(self, name: str) -> bytes:
        return await self._in_thread(lambda: self._reader.read_note(name))

    async def write_note(self, name: str, data: bytes) -> None:
        layout.check_note(name, data)
        await self._in_thread(lambda: self._writer.write_note(name, data))

    async def delete_note(self, name: str) -> None:
        await self._in_thread(lambda: self._writer.delete_note(name))

    async def notes(self) -> dict[str, int]:
        return await self._in_thread(self._reader.notes)

    async def shelf(self, first: int) -> list[Stored]:
        return await self._in_thread(lambda: self._reader.shelf(first))

    async def delete(self, digests: Sequence[Digest]) -> None:
        # Never abandoned: what is deleted after its caller has gone might be counted on by then.
        await trio.to_thread.run_sync(self._writer.delete, digests, limiter=self._limiter)

    async def strays(self) -> list[Stray]:
        return await self._in_thread(self._reader.strays)

    async def delete_strays(self, paths: Sequence[str]) -> None:
        layout.check_temporaries(paths)
        await self._in_thread(lambda: self._writer.delete_strays(paths))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._limiter)
