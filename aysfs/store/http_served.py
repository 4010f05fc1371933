"""A store on a web server that may be our own, ``aysfs store serve``: such a one takes writes.

Serves whoever writes to a store or looks after it; who only reads has ``http`` alone, since
the client of the API is 0.1 s and 7 MiB of imports. Owns the question which kind of server it is.
"""

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from typing import BinaryIO
from urllib.parse import quote

import trio

from aysfs.digest import Digest
from aysfs.errors import ListMissing
from aysfs.names import ServiceName
from aysfs.store import layout
from aysfs.store.http import CONNECTIONS, HttpStore
from aysfs.store.http_address import HttpAddress
from aysfs.store.http_request import Bounds
from aysfs.store.http_write import StoreApi
from aysfs.store.protocol import BlobSource, Stored, Stray


class ServedStore(HttpStore):
    """As an HttpStore; writes, and asks for much at once, where the server has the API."""

    def __init__(
        self,
        address: HttpAddress,
        namespace: str = layout.DEFAULT_NAMESPACE,
        *,
        bounds: Bounds | None = None,
        connections: int = CONNECTIONS,
    ) -> None:
        super().__init__(address, namespace, bounds=bounds, connections=connections)
        self._api = StoreApi(address, quote(namespace), self._bounds)

    async def missing(self, blobs: Mapping[Digest, int]) -> set[Digest]:
        if not blobs:
            return set()
        if await self._api.is_ours():
            return await self._api.missing(blobs)
        return await super().missing(blobs)

    async def notes(self) -> dict[str, int]:
        if await self._api.is_ours():
            return await self._api.notes()
        return await super().notes()

    async def shelf(self, first: int) -> list[Stored]:
        if await self._api.is_ours():
            return await self._api.shelf(first)
        return await super().shelf(first)

    async def strays(self) -> list[Stray]:
        if await self._api.is_ours():
            return await self._api.strays()
        return await super().strays()

    async def aclose(self) -> None:
        await self._api.aclose()
        await super().aclose()

    async def put(self, digest: Digest, size: int, source: BinaryIO) -> None:
        await (await self._writable()).put(digest, size, source)

    async def put_many(self, sources: Sequence[BlobSource]) -> None:
        await (await self._writable()).put_many(sources)

    async def put_list(self, name: ServiceName, chunks: Iterable[bytes]) -> None:
        api = await self._writable()
        with tempfile.TemporaryFile() as file:
            await trio.to_thread.run_sync(file.writelines, chunks)
            await api.put_file(layout.list_path(self._namespace, name), file, file.tell())

    async def write_note(self, name: str, data: bytes) -> None:
        layout.check_note(name, data)
        await (await self._writable()).put_bytes(layout.note_path(self._namespace, name), data)

    async def delete_note(self, name: str) -> None:
        path = layout.note_path(self._namespace, name)
        await (await self._writable()).delete_file(path)

    async def delete_list(self, name: ServiceName) -> None:
        path = layout.list_path(self._namespace, name)
        if not await (await self._writable()).delete_file(path):
            raise ListMissing(f"{self._label} has no list {name}")

    async def delete(self, digests: Sequence[Digest]) -> None:
        await (await self._writable()).delete(digests)

    async def delete_strays(self, paths: Sequence[str]) -> None:
        layout.check_temporaries(paths)
        if paths:
            await (await self._writable()).delete_strays(paths)

    async def _writable(self) -> StoreApi:
        if await self._api.is_ours():
            return self._api
        raise self._takes_no_writes()
