"""A directory as a store: a local disk, or whatever the kernel mounts.

Serves whoever reads or publishes through the Store protocol, and owns the threads that a disk
is waited for in. Both layouts are read (``directory_read``), the plain one is written
(``directory_write``). It must never wait in the event loop for a disk that may be a network's.
"""

import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, TypeVar

import trio

from aysfs.digest import Digest
from aysfs.errors import AysfsError
from aysfs.names import ServiceName
from aysfs.store import layout
from aysfs.store.directory_read import Reader
from aysfs.store.directory_write import Writer
from aysfs.store.gate import Gate
from aysfs.store.local import is_local
from aysfs.store.protocol import BlobSource, OpenList, Sink, Stored, Stray

T = TypeVar("T")

THREADS = 16  # as many blobs as a fetch service asks for at once: none waits for its turn here

# A blob of at most this size is read in the event loop where the disk is a local one: the way
# to a thread and back costs more than the reading. 4000 blobs of 4 KiB on ext4, page cache
# warm, into a sink that drops them: 10 to 12 us of CPU a blob, with the thread 160 to 210.
AT_HAND = 64 << 10


class DirectoryStore:
    """Blobs and lists below ``root/namespace``.

    Writing makes the namespace where it is missing, and the root only with ``create``: a
    missing root is more often a disk that is not mounted than a store that is new.
    """

    def __init__(
        self, root: Path, namespace: str = layout.DEFAULT_NAMESPACE, *, create: bool = False
    ) -> None:
        self._root = os.path.abspath(root)
        layout.check_namespace(namespace)
        self._reader = Reader(self._root, namespace, create=create)
        self._writer = Writer(self._root, namespace, create=create)
        self._limiter = trio.CapacityLimiter(THREADS)
        # A namespace that is not there yet may be one on a network that is not mounted yet.
        self._local = is_local(f"{self._root}/{namespace}")

    @property
    def label(self) -> str:
        return self._root

    async def get(self, digest: Digest, size: int, sink: Sink) -> None:
        gate = Gate(sink)
        try:
            await self._in_thread(lambda: self._reader.read(digest, size, gate))
        finally:
            gate.close()

    def at_hand(self, digest: Digest, size: int) -> bytes | None:
        if size > AT_HAND or not self._local:
            return None
        try:
            return self._reader.read_small(digest, size)
        except AysfsError:
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
            for source in sources:
                if stop.is_set():
                    return
                self._writer.put_source(source)

        try:
            await self._in_thread(work)
        finally:
            stop.set()

    async def open_list(self, name: ServiceName) -> OpenList:
        return await self._in_thread(lambda: self._reader.open_list(name))

    async def put_list(self, name: ServiceName, chunks: Iterable[bytes]) -> None:
        await self._in_thread(lambda: self._writer.put_list(name, chunks))

    async def delete_list(self, name: ServiceName) -> None:
        def delete() -> None:
            if not self._writer.delete_list(name):
                raise self._reader.list_missing(name)

        await self._in_thread(delete)

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

    async def aclose(self) -> None:
        self._reader.close()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._limiter)
