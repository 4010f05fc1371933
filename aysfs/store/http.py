"""A store on a web server: any that serves the files of a store as they lie, over HTTP or HTTPS.

Serves whoever reads through the Store protocol; docs/http-store.md has a configuration of nginx
for it. Owns which layout is looked in first. All bytes come through the event loop; those of a
large blob are hashed and written in a thread (``http_pour``). Such a server takes no writes;
``http_served`` is for the one that does, ``aysfs store serve``.
"""

import contextlib
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import BinaryIO, TypeVar
from urllib.parse import quote

import trio

from aysfs.digest import Digest
from aysfs.errors import (
    BadConfig,
    BlobMissing,
    ListMissing,
    NoteMissing,
    StoreTrouble,
)
from aysfs.names import ServiceName
from aysfs.store import layout
from aysfs.store.crew import side_by_side
from aysfs.store.http_address import HttpAddress
from aysfs.store.http_client import HttpClient
from aysfs.store.http_fetch import fetch, fetch_part
from aysfs.store.http_listing import names_in
from aysfs.store.http_request import (
    Bounds,
    Head,
    NotThereError,
    OtherSize,
    Refused,
)
from aysfs.store.http_streamed import Compressible, Streamed
from aysfs.store.protocol import BlobSource, OpenList, Sink, Stored, Stray

CONNECTIONS = 16
THREADS = 4
LISTING_LIMIT = 64 << 20

_FORBIDDEN = 403  # what nginx says of a directory that it has no listing of
_NO_LISTING = "turn on its listing (nginx: `autoindex on;`), or name the service that you want"

T = TypeVar("T")
Place = Callable[[str, Digest], str]


class HttpStore:
    """Blobs, lists and notes below ``address/namespace``."""

    def __init__(
        self,
        address: HttpAddress,
        namespace: str = layout.DEFAULT_NAMESPACE,
        *,
        bounds: Bounds | None = None,
        connections: int = CONNECTIONS,
    ) -> None:
        layout.check_namespace(namespace)
        self._prefix = f"{address.url}/{quote(namespace)}"
        self._label = str(address)
        self._namespace = namespace
        self._bounds = bounds or Bounds()
        self._client = HttpClient(address, self._bounds, connections)
        self._limiter = trio.CapacityLimiter(THREADS)
        # The place where the last blob was found is asked first: a store in the old layout
        # costs one request a blob, as any other.
        self._places: tuple[Place, ...] = (layout.blob, layout.old_blob)

    @property
    def label(self) -> str:
        return self._label

    async def get(self, digest: Digest, size: int, sink: Sink) -> None:
        await self._find(
            digest,
            lambda url, where: fetch(
                self._client, self._limiter, url, where, self._bounds, size, sink
            ),
        )

    async def get_range(
        self, digest: Digest, size: int, start: int, length: int, sink: Sink
    ) -> None:
        await self._find(
            digest,
            lambda url, where: fetch_part(
                self._client, self._limiter, url, where, self._bounds, size, start, length, sink
            ),
        )

    async def _find(self, digest: Digest, read: Callable[[str, str], Awaitable[None]]) -> None:
        """Read a blob where it lies, by its URL and by how messages name it."""
        other: OtherSize | None = None
        for place in self._places:
            try:
                await read(*self._at(place(self._namespace, digest)))
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
        absent: set[Digest] = set()

        async def ask(digest: Digest) -> None:
            if not await self._holds(digest, blobs[digest]):
                absent.add(digest)

        await side_by_side(blobs, ask, CONNECTIONS)
        return absent

    async def open_list(self, name: ServiceName) -> OpenList:
        relative = layout.list_path(self._namespace, name)
        file = tempfile.TemporaryFile()  # noqa: SIM115 - the receiver closes it

        def rewind() -> None:
            file.seek(0)
            file.truncate()

        request = Compressible(*self._at(relative), self._bounds, file, rewind)
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
        relative = layout.list_directory(self._namespace)
        found = await self._look_at(relative, filter(layout.is_note, await self._beside_lists()))
        return {name: found[name].mtime_ns for name in sorted(found)}

    async def shelf(self, first: int) -> list[Stored]:
        found = []
        for relative in layout.shelves(self._namespace, first):
            digests = {
                name: layout.parse_blob_file(name, first) for name in await self._in(relative)
            }
            heads = await self._look_at(relative, [name for name in digests if digests[name]])
            for name, head in heads.items():
                if (digest := digests[name]) is not None:
                    found.append(Stored(digest, head.size or 0, head.mtime_ns))
        return found

    async def strays(self) -> list[Stray]:
        beside = filter(layout.is_stray, await self._beside_lists())
        top = await self._look_at(self._namespace, await self._in(self._namespace))
        found = [Stray(name, head.size or 0, head.mtime_ns) for name, head in top.items()]
        heads = await self._look_at(layout.list_directory(self._namespace), beside)
        return found + [
            Stray(f"md/{name}", head.size or 0, head.mtime_ns) for name, head in heads.items()
        ]

    async def aclose(self) -> None:
        await self._client.aclose()

    # --- what such a server does not take ------------------------------------------------------

    async def put(self, digest: Digest, size: int, source: BinaryIO) -> None:
        raise self._takes_no_writes()

    async def put_many(self, sources: Sequence[BlobSource]) -> None:
        raise self._takes_no_writes()

    async def put_list(self, name: ServiceName, chunks: Iterable[bytes]) -> None:
        raise self._takes_no_writes()

    async def write_note(self, name: str, data: bytes) -> None:
        layout.check_note(name, data)
        raise self._takes_no_writes()

    async def delete_note(self, name: str) -> None:
        raise self._takes_no_writes()

    async def delete_list(self, name: ServiceName) -> None:
        raise self._takes_no_writes()

    async def delete(self, digests: Sequence[Digest]) -> None:
        raise self._takes_no_writes()

    async def delete_strays(self, paths: Sequence[str]) -> None:
        layout.check_temporaries(paths)
        if paths:
            raise self._takes_no_writes()

    def _takes_no_writes(self) -> BadConfig:
        return BadConfig(
            f"{self._label} is a web server, which takes no writes",
            hint="write to the folder that it serves: a path, or ssh://login@host/path;"
            " or have `aysfs store serve` serve it",
        )

    # --- asking ------------------------------------------------------------------------------

    def _at(self, relative: str) -> tuple[str, str]:
        """The URL of a file of the store, and how messages name it."""
        # No name of a blob, list or note has a character that needs quoting.
        rest = relative[len(self._namespace) :]
        return self._prefix + rest, f"{self._label}/{relative}"

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
        """The names in the directory of the lists."""
        return await self._in(layout.list_directory(self._namespace))

    async def _in(self, relative: str) -> list[str]:
        """The names of the files in a directory, as the server lists it."""
        url, where = self._at(f"{relative}/")
        try:
            return names_in(await self._small_file(f"{relative}/", LISTING_LIMIT), url)
        except NotThereError:
            # "Nothing there" is only an answer about a namespace that is there.
            if await self._is_directory(f"{self._namespace}/"):
                return []
            raise StoreTrouble(
                f"{where}: the server lists nothing here", hint=_NO_LISTING
            ) from None
        except Refused as error:
            if error.status == _FORBIDDEN:
                error.hint = _NO_LISTING
            raise

    async def _look_at(self, folder: str, names: Iterable[str]) -> dict[str, Head]:
        """Size and time of files, but for those that have just gone."""
        found: dict[str, Head] = {}

        async def ask(name: str) -> None:
            quoted = quote(name, errors="surrogateescape")
            head = Head(*self._at(f"{folder}/{quoted}"), self._bounds)
            with contextlib.suppress(NotThereError):
                await self._client.perform(head)
                found[name] = head

        await side_by_side(names, ask, CONNECTIONS)
        return found

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
