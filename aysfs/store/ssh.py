"""A directory on a host that is reached over SSH, as a store: OpenSSH's own SFTP, nothing else.

Serves whoever reads or publishes through the Store protocol, and owns the threads that the
network is waited for in. The layout is the directory store's, so the same folder serves both.
Reading is ``ssh_read``, writing ``ssh_write``, the connection ``ssh_link``.
"""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import BinaryIO, TypeVar

import trio

from aysfs.digest import Digest
from aysfs.names import ServiceName
from aysfs.store import layout
from aysfs.store.gate import Gate
from aysfs.store.protocol import BlobSource, OpenList, Sink, Stored, Stray
from aysfs.store.ssh_address import SshAddress, SshCredentials
from aysfs.store.ssh_link import CONNECT, IDLE, Link
from aysfs.store.ssh_read import Reader
from aysfs.store.ssh_write import GROUP, Writer

T = TypeVar("T")

THREADS = 8  # each has a channel of its own, and sshd allows ten on a connection


class SshStore:
    """Blobs, lists and notes below ``path/namespace`` on a host.

    ``create`` lets a writer make the root. ``connect`` and ``idle`` are seconds: for a step of
    the login, and without a byte afterwards.
    """

    def __init__(
        self,
        address: SshAddress,
        namespace: str = layout.DEFAULT_NAMESPACE,
        *,
        create: bool = False,
        credentials: SshCredentials | None = None,
        connect: float = CONNECT,
        idle: float = IDLE,
    ) -> None:
        layout.check_namespace(namespace)
        self._label = str(address).rstrip("/")
        self._link = Link(address, credentials or SshCredentials(), connect=connect, idle=idle)
        root = address.path.rstrip("/")
        self._reader = Reader(self._link, root, namespace, self._label, create=create)
        self._writer = Writer(self._link, self._reader, root, namespace, self._label, create=create)
        self._limiter = trio.CapacityLimiter(THREADS)

    @property
    def label(self) -> str:
        return self._label

    async def get(self, digest: Digest, size: int, sink: Sink) -> None:
        gate = Gate(sink)
        try:
            await self._in_thread(lambda: self._reader.read(digest, size, gate))
        finally:
            gate.close()

    def at_hand(self, digest: Digest, size: int) -> bytes | None:
        return None  # a network is never at hand

    async def size_of(self, digest: Digest) -> int:
        return await self._in_thread(lambda: self._reader.size_of(digest))

    async def missing(self, blobs: Mapping[Digest, int]) -> set[Digest]:
        return await self._in_thread(lambda: self._reader.missing(blobs))

    async def put(self, digest: Digest, size: int, source: BinaryIO) -> None:
        await self._in_thread(lambda: self._writer.put(digest, size, source))

    async def put_many(self, sources: Sequence[BlobSource]) -> None:
        stop = threading.Event()

        def work() -> None:
            for start in range(0, len(sources), GROUP):
                if stop.is_set():
                    return
                self._writer.put_group(sources[start : start + GROUP])

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

    async def aclose(self) -> None:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._link.close)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._limiter)
