"""What this server has not, fetched from other stores: a cache for a rack, in front of them.

Serves the handlers that read. A blob that is missed is asked upstream once however many ask for it,
verified, kept as if it had been pushed, and served; parts of a large one are passed on until it is
here, verified by whoever asked. Lists are mutable, so each is asked upstream
whenever it is wanted; the copy kept below ``.upstream/``, beside no list of our own, is for when
no upstream answers. Owns the flights, which belong to the server and not to the client who asked.
"""

import logging
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import trio

from aysfs import digest as digests
from aysfs.digest import Digest
from aysfs.errors import (
    AysfsError,
    BlobMissing,
    Corrupt,
    ListMissing,
    NoRanges,
    NoteMissing,
    StoreTrouble,
)
from aysfs.limits import LARGE
from aysfs.names import ServiceName
from aysfs.server.metrics import Metrics
from aysfs.store.blame import blaming
from aysfs.store.directory import DirectoryStore
from aysfs.store.open import open_stores
from aysfs.store.protocol import Held, Store

log = logging.getLogger(__name__)

KEPT = ".upstream"
FLIGHTS = 32  # blobs that are fetched at once
PASSED_ON = 8 << 20  # bytes of a part that is passed on: it is held in memory

_NAMESPACES = 64  # that upstreams are opened for: the names come from clients


class FetchedList(NamedTuple):
    """A list as an upstream has it."""

    data: bytes
    mtime_ns: int


class _Flight:
    """A blob on its way. ``sized`` is set once its size is known, or that it will not come."""

    def __init__(self) -> None:
        self.size = 0
        self.sized = trio.Event()
        self.landed = trio.Event()
        self.error: AysfsError | None = None


class Upstream:
    """Stores that are asked in their order. Made by ``open_upstream``."""

    def __init__(
        self, root: str, urls: Sequence[str], metrics: Metrics, nursery: trio.Nursery
    ) -> None:
        self._root = root
        self._urls = urls
        self._metrics = metrics
        self._nursery = nursery
        self._stores: dict[str, Store] = {}
        self._flights: dict[tuple[str, Digest], _Flight] = {}
        self._turn = trio.CapacityLimiter(FLIGHTS)

    async def fetch(self, namespace: str, digest: Digest, target: Store) -> None:
        """Have a blob in ``target``. BlobMissing, Corrupt or StoreTrouble when that cannot be."""
        flight = self._flight(namespace, digest, target)
        await flight.landed.wait()
        if flight.error is not None:
            raise flight.error

    async def part(
        self, namespace: str, digest: Digest, target: Store, start: int, end: int
    ) -> tuple[bytes, int] | None:
        """The bytes from ``start`` up to ``end`` of a large blob, and its size, while it comes.

        None where all of the blob should be waited for: it is small, or this is no part to pass on.
        """
        flight = self._flight(namespace, digest, target)
        await flight.sized.wait()
        size, length = flight.size, end - start
        if flight.landed.is_set() or size <= LARGE or not 0 < length <= PASSED_ON or end > size:
            return None
        held = Held()
        try:
            await self._store(namespace).get_range(digest, size, start, length, held)
        except (NoRanges, BlobMissing, Corrupt):  # the flight says what is the matter
            return None
        return held.getvalue(), size

    def _flight(self, namespace: str, digest: Digest, target: Store) -> _Flight:
        flight = self._flights.get((namespace, digest))
        if flight is None:
            flight = self._flights[namespace, digest] = _Flight()
            self._nursery.start_soon(self._fly, flight, namespace, digest, target)
        return flight

    async def open_list(self, namespace: str, name: ServiceName) -> FetchedList:
        """A list as it is upstream now, else as it was when an upstream answered last."""
        kept = DirectoryStore(Path(self._root, KEPT), namespace, create=True)
        try:
            opened = await self._store(namespace).open_list(name)
        except StoreTrouble as error:
            self._metrics.upstream.labels("failure").inc()
            log.warning("upstream: %s", error)
            try:
                return await _read(kept, name)
            except ListMissing:
                raise error from None
        except ListMissing:
            self._metrics.upstream.labels("miss").inc()
            raise
        with opened.file:
            data = await trio.to_thread.run_sync(opened.file.read)
        self._metrics.upstream.labels("hit").inc()
        try:
            if (await _read(kept, name)).data == data:
                return FetchedList(data, opened.mtime_ns)
        except ListMissing:
            pass
        await kept.put_list(name, [data])
        return FetchedList(data, opened.mtime_ns)

    async def read_note(self, namespace: str, name: str) -> bytes:
        """A note as it is upstream now. NoteMissing when it is not there."""
        try:
            return await self._store(namespace).read_note(name)
        except NoteMissing:
            self._metrics.upstream.labels("miss").inc()
            raise

    async def lists(self, namespace: str) -> list[ServiceName]:
        """All lists upstream; those kept when no upstream answers."""
        try:
            return await self._store(namespace).lists()
        except StoreTrouble as error:
            log.warning("upstream: %s", error)
            return await DirectoryStore(Path(self._root, KEPT), namespace, create=True).lists()

    async def aclose(self) -> None:
        """Let go of all connections."""
        for store in self._stores.values():
            await store.aclose()

    def _store(self, namespace: str) -> Store:
        if namespace not in self._stores:
            if len(self._stores) >= _NAMESPACES:
                raise StoreTrouble(f"upstreams are asked for {_NAMESPACES} namespaces at most")
            self._stores[namespace] = open_stores(self._urls, namespace=namespace)
        return self._stores[namespace]

    async def _fly(self, flight: _Flight, namespace: str, digest: Digest, target: Store) -> None:
        result = "failure"
        try:
            flight.size = await self._store(namespace).size_of(digest)
            flight.sized.set()
            async with self._turn:
                await self._bring(self._store(namespace), digest, flight.size, target)
            result = "hit"
        except BlobMissing as error:
            flight.error, result = error, "miss"
        except Corrupt as error:
            log.warning("upstream: %s", error)
            flight.error = StoreTrouble(f"upstream sends wrong bytes: {error}")
        except AysfsError as error:
            log.warning("upstream: %s", error)
            flight.error = error
        except Exception as error:
            log.error("upstream: internal error: %s", error, exc_info=error)
            flight.error = StoreTrouble(f"blob {digest.hex()}: internal error")
        finally:
            self._metrics.upstream.labels(result).inc()
            self._flights.pop((namespace, digest), None)
            flight.landed.set()
            flight.sized.set()

    async def _bring(self, store: Store, digest: Digest, size: int, target: Store) -> None:
        with tempfile.TemporaryFile(dir=self._root) as file:
            sink = _Verifying(file, digest, size)
            await store.get(digest, size, sink)
            if sink.count != size:
                raise Corrupt(f"{store.label}: blob {digest.hex()} has {sink.count} bytes")
            file.seek(0)
            await target.put(digest, size, file)


class _Verifying:
    """A sink that refuses the last of wrong bytes, so that the next store of a chain is asked."""

    def __init__(self, file: BinaryIO, digest: Digest, size: int) -> None:
        self.count = 0
        self._file = file
        self._digest = digest
        self._size = size
        self._hasher = digests.hasher()

    def write(self, data: bytes | memoryview, /) -> None:
        self.count += len(data)
        self._hasher.update(data)
        if self.count >= self._size and self._hasher.digest() != self._digest:
            raise Corrupt(f"blob {self._digest.hex()}: the bytes have another md5")
        with blaming("a blob from upstream"):
            self._file.write(data)

    def restart(self) -> None:
        self.count = 0
        self._hasher = digests.hasher()
        with blaming("a blob from upstream"):
            self._file.seek(0)
            self._file.truncate()


async def _read(store: Store, name: ServiceName) -> FetchedList:
    opened = await store.open_list(name)
    with opened.file:
        return FetchedList(await trio.to_thread.run_sync(opened.file.read), opened.mtime_ns)


@asynccontextmanager
async def open_upstream(
    root: str, urls: Sequence[str], metrics: Metrics
) -> AsyncIterator[Upstream | None]:
    """The stores behind a server, for as long as it runs; None where there are none."""
    if not urls:
        yield None
        return
    async with trio.open_nursery() as nursery:
        upstream = Upstream(root, urls, metrics, nursery)
        try:
            yield upstream
        finally:
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await upstream.aclose()
