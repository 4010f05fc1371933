"""A store on a web server: any that serves the files of a store as they lie, over HTTP or HTTPS.

Serves whoever reads through the Store protocol; docs/http-store.md has a configuration of nginx
for it. Owns which layout is looked in first. All bytes come through the event loop; those of a
large blob are hashed and written in a thread (``http_pour``). Such a server takes no writes, but
for one: ``aysfs store serve``, whose API ``http_write`` speaks.
"""

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import BinaryIO
from urllib.parse import quote

import trio

from aysfs.digest import Digest
from aysfs.errors import (
    AysfsError,
    BadConfig,
    BlobMissing,
    ListMissing,
    NoteMissing,
    StoreTrouble,
)
from aysfs.names import ServiceName
from aysfs.store import layout
from aysfs.store.http_address import HttpAddress
from aysfs.store.http_client import CONNECTIONS, HttpClient
from aysfs.store.http_listing import names_in
from aysfs.store.http_pour import pour
from aysfs.store.http_request import Bounds, Head, Held, NotThereError, OtherSize, Refused, Streamed
from aysfs.store.http_write import StoreApi
from aysfs.store.protocol import BlobSource, OpenList, Sink, Stored, Stray

HELD = 64 << 10  # a blob of at most this size is held in memory until it is whole
POURED = 1 << 20  # a larger one's bytes go to a thread: their md5 would hold the event loop
THREADS = 4
LISTING_LIMIT = 64 << 20

_FORBIDDEN = 403  # what nginx says of a directory that it has no listing of
_NO_LISTING = "turn on its listing (nginx: `autoindex on;`), or name the service that you want"

Place = Callable[[str, Digest], str]


class HttpStore:
    """Blobs, lists and notes below ``address/namespace``."""

    def __init__(
        self,
        address: HttpAddress,
        namespace: str = layout.DEFAULT_NAMESPACE,
        *,
        bounds: Bounds | None = None,
    ) -> None:
        layout.check_namespace(namespace)
        self._prefix = f"{address.url}/{quote(namespace)}"
        self._label = str(address)
        self._namespace = namespace
        self._bounds = bounds or Bounds()
        self._client = HttpClient(address, self._bounds)
        self._api = StoreApi(address, quote(namespace), self._bounds)
        self._limiter = trio.CapacityLimiter(THREADS)
        # The place where the last blob was found is asked first: a store in the old layout
        # costs one request a blob, as any other.
        self._places: tuple[Place, ...] = (layout.blob, layout.old_blob)

    @property
    def label(self) -> str:
        return self._label

    async def get(self, digest: Digest, size: int, sink: Sink) -> None:
        other: OtherSize | None = None
        for place in self._places:
            try:
                await self._fetch(place(self._namespace, digest), size, sink)
            except NotThereError:
                continue
            except OtherSize as error:
                other = other or error
            else:
                self._found(place)
                return
        raise other or BlobMissing(f"{self._label} has no blob {digest.hex()}")

    def at_hand(self, digest: Digest, size: int) -> bytes | None:
        return None  # a network is never at hand

    async def size_of(self, digest: Digest) -> int:
        for place in self._places:
            head = Head(*self._at(place(self._namespace, digest)), self._bounds)
            try:
                await self._client.perform(head)
            except NotThereError:
                continue
            if head.size is None:
                raise StoreTrouble(f"{head.where}: the server does not say its size")
            self._found(place)
            return head.size
        raise BlobMissing(f"{self._label} has no blob {digest.hex()}")

    async def missing(self, blobs: Mapping[Digest, int]) -> set[Digest]:
        if not blobs:
            return set()
        if await self._api.is_ours():
            return await self._api.missing(blobs)
        absent: set[Digest] = set()
        failed: list[AysfsError] = []
        todo = iter(blobs.items())

        async def work() -> None:
            for digest, size in todo:  # shared: taking the next is one step without an await
                try:
                    if not await self._holds(digest, size):
                        absent.add(digest)
                except AysfsError as error:
                    failed.append(error)
                    nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for _ in range(min(CONNECTIONS, len(blobs))):
                nursery.start_soon(work)
        if failed:
            raise failed[0]
        return absent

    async def open_list(self, name: ServiceName) -> OpenList:
        relative = layout.list_path(self._namespace, name)
        file = tempfile.TemporaryFile()  # noqa: SIM115 - the receiver closes it

        def rewind() -> None:
            file.seek(0)
            file.truncate()

        request = Streamed(*self._at(relative), self._bounds, None, file, rewind)
        try:
            await self._client.perform(request)
            file.seek(0)
        except BaseException as error:
            file.close()
            if isinstance(error, NotThereError):
                raise ListMissing(f"{self._label} has no list {name}") from None
            raise
        return OpenList(file, request.mtime_ns, request.where)

    async def lists(self) -> list[ServiceName]:
        return sorted(
            filter(None, map(layout.parse_list_file, await self._beside_lists())), key=str
        )

    async def read_note(self, name: str) -> bytes:
        try:
            return await self._small_file(
                layout.note_path(self._namespace, name), layout.NOTE_LIMIT
            )
        except NotThereError:
            raise NoteMissing(f"{self._label} has no note {name}") from None

    async def notes(self) -> dict[str, int]:
        if await self._api.is_ours():
            return await self._api.notes()
        found: dict[str, int] = {}
        for name in sorted(filter(layout.is_note, await self._beside_lists())):
            head = Head(*self._at(layout.note_path(self._namespace, name)), self._bounds)
            try:
                await self._client.perform(head)
            except NotThereError:
                continue  # deleted since
            found[name] = head.mtime_ns
        return found

    async def aclose(self) -> None:
        await self._api.aclose()
        await self._client.aclose()

    # --- what only our own server takes, and says ---------------------------------------------

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
        await (await self._writable()).delete_strays(paths)

    async def shelf(self, first: int) -> list[Stored]:
        return await (await self._telling()).shelf(first)

    async def strays(self) -> list[Stray]:
        return await (await self._telling()).strays()

    async def _telling(self) -> StoreApi:
        if await self._api.is_ours():
            return self._api
        raise BadConfig(
            f"{self._label} is a web server, which does not say what it holds",
            hint="ask the folder that it serves: a path, or ssh://login@host/path",
        )

    async def _writable(self) -> StoreApi:
        if await self._api.is_ours():
            return self._api
        raise BadConfig(
            f"{self._label} is a web server, which takes no writes",
            hint="write to the folder that it serves: a path, or ssh://login@host/path;"
            " or have `aysfs store serve` serve it",
        )

    # --- asking ------------------------------------------------------------------------------

    def _at(self, relative: str) -> tuple[str, str]:
        """The URL of a file of the store, and how messages name it."""
        # Nothing below the namespace has a character that needs quoting.
        rest = relative[len(self._namespace) :]
        return self._prefix + rest, f"{self._label}/{relative}"

    async def _fetch(self, relative: str, size: int, sink: Sink) -> None:
        """The bytes of a file of this size; OtherSize before the first when it has another."""
        url, where = self._at(relative)
        if size <= HELD:
            held = Held(url, where, self._bounds, size)
            await self._client.perform(held)
            sink.write(held.data)
        elif size <= POURED:
            await self._client.perform(Streamed(url, where, self._bounds, size, sink, sink.restart))
        else:
            await pour(self._client, self._limiter, url, where, self._bounds, size, sink)

    async def _holds(self, digest: Digest, size: int) -> bool:
        for place in self._places:
            head = Head(*self._at(place(self._namespace, digest)), self._bounds)
            try:
                await self._client.perform(head)
            except NotThereError:
                continue
            if head.size in (None, size):
                self._found(place)
                return True
        return False

    def _found(self, place: Place) -> None:
        if place is not self._places[0]:
            self._places = self._places[::-1]

    async def _small_file(self, relative: str, limit: int) -> bytes:
        url, where = self._at(relative)
        held = _Bounded(where, limit)
        request = Streamed(url, where, self._bounds, None, held, held.data.clear)
        await self._client.perform(request)
        return bytes(held.data)

    async def _beside_lists(self) -> list[str]:
        """The names in the directory of the lists, as the server lists it."""
        relative = layout.list_directory(self._namespace) + "/"
        url, where = self._at(relative)
        try:
            return names_in(await self._small_file(relative, LISTING_LIMIT), url)
        except NotThereError:
            # "No lists" is only an answer about a namespace that is there.
            if await self._is_directory(f"{self._namespace}/"):
                return []
            raise StoreTrouble(
                f"{where}: the server lists nothing here", hint=_NO_LISTING
            ) from None
        except Refused as error:
            if error.status == _FORBIDDEN:
                error.hint = _NO_LISTING
            raise

    async def _is_directory(self, relative: str) -> bool:
        try:
            await self._client.perform(Head(*self._at(relative), self._bounds))
        except NotThereError:
            return False
        except Refused as error:
            if error.status != _FORBIDDEN:
                raise
        return True


class _Bounded:
    """Takes the bytes of a small file, and no more."""

    def __init__(self, where: str, limit: int) -> None:
        self.data = bytearray()
        self._where = where
        self._limit = limit

    def write(self, data: bytes | memoryview, /) -> None:
        self.data += data
        if len(self.data) > self._limit:
            raise StoreTrouble(f"{self._where}: larger than {self._limit} bytes")
