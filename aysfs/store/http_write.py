"""The store API, as a client: writing to ``aysfs store serve``, and asking it what it holds.

Serves the HTTP store, whose reads go another way (``http_client``). Owns what is known of the
server: whether it is one of ours, and the connections of writes. httpx is enough here, requests
are few and large. Its pool loses a connection when a request that waits in it is cancelled, so no
more requests enter than it has connections.
"""

import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, BinaryIO, NamedTuple

import httpx
import pycurl
import trio

from aysfs import __version__
from aysfs.digest import Digest
from aysfs.errors import AysfsError, Corrupt, StoreTrouble, first_of
from aysfs.store import layout
from aysfs.store.frames import FRAME_LIMIT, frame_head
from aysfs.store.http_address import HttpAddress
from aysfs.store.http_client import authorities
from aysfs.store.http_request import Bounds, Refused
from aysfs.store.protocol import BlobSource, Stored, Stray

CONNECTIONS = 8
PIECE = 1 << 20
SMALL = 1 << 20  # a blob of at most this size travels with others
ASKED = 10_000  # blobs in one question
SETTLING = 600.0  # seconds that a server may take to make everything before a list durable

_BROKEN = (httpx.ConnectError, httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)
_LATER = frozenset((429, 500, 502, 503, 504))
_NOT_OURS = frozenset((301, 302, 303, 307, 308, 400, 403, 404, 405, 410, 501))
_NOT_THERE = 404

Body = Callable[[], httpx.AsyncByteStream]
"""Made anew for every try."""


class _Question(NamedTuple):
    """A request, as often as it takes."""

    method: str
    path: str  # below the address
    body: Body | None = None
    length: int | None = None
    json: object = None
    allowed: tuple[int, ...] = ()  # refusals that are answers
    patience: float | None = None  # seconds to wait for the answer
    tries: int | None = None


class StoreApi:
    """One namespace of one server. Nothing is asked before something is wanted."""

    def __init__(self, address: HttpAddress, namespace: str, bounds: Bounds) -> None:
        self._address = address
        self._namespace = namespace
        self._bounds = bounds
        self._client: httpx.AsyncClient | None = None
        self._turn = trio.Semaphore(CONNECTIONS, max_value=CONNECTIONS)
        self._ours: bool | None = None

    async def is_ours(self) -> bool:
        """Whether the server has this API; asked once. StoreTrouble is no answer."""
        if self._ours is None:
            question = _Question(
                "GET", self._of("about"), allowed=tuple(_NOT_OURS), patience=self._bounds.idle
            )
            answer = await self._ask(question)
            self._ours = answer.status_code == 200 and _is_about(answer)
        return self._ours

    async def aclose(self) -> None:
        if self._client is not None:
            with trio.CancelScope(shield=True):
                await self._client.aclose()

    # --- blobs -------------------------------------------------------------------------------

    async def missing(self, blobs: Mapping[Digest, int]) -> set[Digest]:
        absent: set[Digest] = set()
        for part in _parts(list(blobs)):
            names = [digest.hex() for digest in part]
            asked = {"Hashes": names, "Sizes": [blobs[digest] for digest in part]}
            found = await self._json(_Question("POST", self._of("exists"), json=asked), dict)
            absent.update(digest for digest in part if not found.get(digest.hex()))
        return absent

    async def put(self, digest: Digest, size: int, source: BinaryIO) -> None:
        body = partial(_FileBody, source, size, f"{self._address}: blob {digest.hex()}")
        tries = None if source.seekable() else 1
        path = self._of(digest.hex())
        await self._ask(_Question("POST", path, body=body, length=size, tries=tries))

    async def put_many(self, sources: Sequence[BlobSource]) -> None:
        """The small ones together in a few streams, the large ones each in its own."""
        jobs: list[Callable[[], Any]] = []
        batch: list[BlobSource] = []
        room = FRAME_LIMIT
        for source in sources:
            if source.size > SMALL:
                jobs.append(partial(self._put_source, source))
                continue
            if source.size > room:
                jobs.append(partial(self._put_frames, batch))
                batch, room = [], FRAME_LIMIT
            batch.append(source)
            room -= source.size
        if batch:
            jobs.append(partial(self._put_frames, batch))
        await _side_by_side(jobs)

    async def _put_source(self, source: BlobSource) -> None:
        with await trio.to_thread.run_sync(source.open) as file:
            await self.put(source.digest, source.size, file)

    async def _put_frames(self, batch: Sequence[BlobSource]) -> None:
        if all(source.held is not None for source in batch):
            data = _frames(batch)
        else:
            data = await trio.to_thread.run_sync(_frames, batch)
        await self._ask(_with(_Question("POST", self._of("blobs")), data))

    async def delete(self, digests: Sequence[Digest]) -> None:
        with trio.CancelScope(shield=True):  # what is deleted later might be counted on by then
            for part in _parts(digests):
                names = [digest.hex() for digest in part]
                await self._ask(_Question("POST", self._of("delete"), json={"Hashes": names}))

    # --- lists and notes ----------------------------------------------------------------------

    async def put_file(self, path: str, file: BinaryIO, size: int) -> None:
        """Publish a list, whose file is read from its beginning."""
        body = partial(_FileBody, file, size, path)
        question = _Question("PUT", path, body=body, length=size, patience=SETTLING)
        await self._ask(question)

    async def put_bytes(self, path: str, data: bytes) -> None:
        """Keep a note."""
        await self._ask(_with(_Question("PUT", path), data))

    async def delete_file(self, path: str) -> bool:
        """Have this list or note no more. Was there one?"""
        answer = await self._ask(_Question("DELETE", path, allowed=(_NOT_THERE,), tries=1))
        return answer.status_code != _NOT_THERE

    # --- what the store holds -----------------------------------------------------------------

    async def notes(self) -> dict[str, int]:
        found = await self._json(_Question("GET", self._of("notes")), dict)
        return {name: int(found[name]) for name in sorted(filter(layout.is_note, found))}

    async def shelf(self, first: int) -> list[Stored]:
        question = _Question("GET", self._of(f"shelf/{first:02x}"), patience=SETTLING)
        answer = await self._ask(question)
        try:
            rows = [line.split("|") for line in answer.text.splitlines()]
            return [
                Stored(Digest(bytes.fromhex(name)), int(size), int(mtime))
                for name, size, mtime in rows
            ]
        except ValueError as error:
            raise self._nonsense(question) from error

    async def strays(self) -> list[Stray]:
        found = await self._json(_Question("GET", self._of("strays")), list)
        return [Stray(str(path), int(size), int(mtime)) for path, size, mtime in found]

    async def delete_strays(self, paths: Sequence[str]) -> None:
        question = _Question("POST", self._of("strays/delete"), json={"Paths": list(paths)})
        await self._ask(question)

    # --- asking ------------------------------------------------------------------------------

    def _of(self, what: str) -> str:
        return f"store/{self._namespace}/{what}"

    async def _json(self, question: _Question, kind: type) -> Any:
        answer = await self._ask(question)
        try:
            found = answer.json()
        except ValueError:
            found = None
        if not isinstance(found, kind):
            raise self._nonsense(question)
        return found

    def _nonsense(self, question: _Question) -> StoreTrouble:
        return StoreTrouble(f"{self._address}/{question.path}: an answer that makes no sense")

    async def _ask(self, question: _Question) -> httpx.Response:
        """The answer, once it is one; what it came to is raised."""
        bounds = self._bounds
        tries = question.tries or bounds.tries
        patience = bounds.patience
        for turn in range(1, tries + 1):
            asked = 0.0
            try:
                async with self._turn:
                    answer = await self._send(question)
            except _BROKEN as error:
                refused = isinstance(error, httpx.ConnectError)
                what = "no connection" if refused else "the connection broke off"
                trouble = self._trouble(question, f"{what}: {_cause(error)}")
            except httpx.ConnectTimeout:
                within = f"no connection within {bounds.connect:g} s"
                raise self._trouble(question, within) from None
            except httpx.TimeoutException:
                raise self._trouble(question, "no answer in time") from None
            except httpx.HTTPError as error:
                raise self._trouble(question, str(error) or type(error).__name__) from error
            else:
                if answer.is_success or answer.status_code in question.allowed:
                    return answer
                if answer.status_code not in _LATER:
                    raise self._refused(question, answer)
                after = answer.headers.get("retry-after", "")
                asked = float(after) if after.isdecimal() else 0.0
                trouble = self._trouble(question, _words(answer))
            pause = max(bounds.backoff * 2.0 ** (turn - 1), asked)
            patience -= pause
            if turn == tries or patience < 0:
                raise trouble
            await trio.sleep(pause)
        raise AssertionError

    async def _send(self, question: _Question) -> httpx.Response:
        if self._client is None:
            self._client = self._make_client()
        wait = question.patience or 4 * self._bounds.idle
        request = self._client.build_request(
            question.method,
            f"{self._address.url}/{question.path}",
            json=question.json,
            headers={} if question.length is None else {"Content-Length": str(question.length)},
            timeout=httpx.Timeout(self._bounds.idle, connect=self._bounds.connect, read=wait),
        )
        if question.body is not None:
            # Given as content, httpx would wrap it into a generator, which a cancellation leaves
            # to the garbage collector.
            request.stream = question.body()
        return await self._client.send(request)

    def _make_client(self) -> httpx.AsyncClient:
        address = self._address
        login = None if address.login is None else (address.login, address.password or "")
        return httpx.AsyncClient(
            auth=login,
            verify=_trust() if address.is_secure else True,
            headers={"User-Agent": f"aysfs/{__version__}"},
            limits=httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS),
        )

    def _trouble(self, question: _Question, what: str) -> StoreTrouble:
        return StoreTrouble(f"{self._address}/{question.path}: {what}")

    def _refused(self, question: _Question, answer: httpx.Response) -> AysfsError:
        where, status = f"{self._address}/{question.path}", answer.status_code
        words = f"{where}: {_words(answer)}"
        if status == 422:
            return Corrupt(words)
        if status == 507:
            return StoreTrouble(words, hint="the disk of the server is full")
        if status in (401, 403):
            refused = Refused(where, status)
            if status == 403:
                refused.hint = f"{_words(answer)}: the server's file of accounts gives rights"
            return refused
        return StoreTrouble(words)


def _with(question: _Question, data: bytes) -> _Question:
    """The question with these bytes as its body."""
    return question._replace(body=partial(httpx.ByteStream, data), length=len(data))


def _is_about(answer: httpx.Response) -> bool:
    try:
        found = answer.json()
    except ValueError:
        return False
    return isinstance(found, dict) and found.get("aysfs-store") == 1


def _words(answer: httpx.Response) -> str:
    """What the server says of a refusal, in one line."""
    try:
        said = str(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {answer.status_code}"
    return f"{' '.join(said.split())[:500]} (HTTP {answer.status_code})"


def _cause(error: BaseException) -> str:
    """The words of the first error that has some: TLS's are below three that have none."""
    below: BaseException | None = error
    while below is not None:
        if words := str(below):
            return words
        below = below.__cause__ or below.__context__
    return type(error).__name__


def _trust() -> ssl.SSLContext:
    """The authorities that reads trust."""
    found = dict(authorities())
    return ssl.create_default_context(
        cafile=found.get(pycurl.CAINFO), capath=found.get(pycurl.CAPATH)
    )


class _FileBody(httpx.AsyncByteStream):
    """The bytes of a file, read in a thread; Corrupt when they are more or fewer.

    An iterator and no generator: one that is given up has nothing to be finalized.
    """

    def __init__(self, file: BinaryIO, size: int, what: str) -> None:
        self._file = file
        self._size = size
        self._what = what
        self._done = 0
        self._next: bytes | None = None  # read, and not known not to be the last

    def __aiter__(self) -> "_FileBody":
        return self

    async def __anext__(self) -> bytes:
        if self._next is None:
            self._next = await trio.to_thread.run_sync(self._first, abandon_on_cancel=True)
        found = self._next
        if not found:
            raise StopAsyncIteration
        self._next = await trio.to_thread.run_sync(self._read, abandon_on_cancel=True)
        return found

    def _first(self) -> bytes:
        if self._file.seekable():
            self._file.seek(0)
        return self._read()

    def _read(self) -> bytes:
        data = self._file.read(min(PIECE, self._size - self._done + 1))
        self._done += len(data)
        if self._done > self._size:
            raise Corrupt(f"{self._what}: more than the {self._size} bytes that were announced")
        if not data and self._done != self._size:
            size = self._size
            raise Corrupt(f"{self._what}: {self._done} bytes where {size} were announced")
        return data


def _frames(batch: Sequence[BlobSource]) -> bytes:
    found: list[bytes] = []
    for digest, size, opened, held in batch:
        data = held
        if data is None:
            with opened() as file:
                data = file.read(size + 1)
        if len(data) != size:
            raise Corrupt(f"blob {digest.hex()}: {len(data)} bytes where {size} were announced")
        found += (frame_head(digest, size), data)
    return b"".join(found)


def _parts(digests: Sequence[Digest]) -> Iterable[Sequence[Digest]]:
    return (digests[start : start + ASKED] for start in range(0, len(digests), ASKED))


async def _side_by_side(jobs: Sequence[Callable[[], Any]]) -> None:
    """Do all of it, as many at once as there are connections; the first failure ends the rest."""
    if len(jobs) == 1:
        await jobs[0]()
        return
    todo = iter(jobs)

    async def work() -> None:
        for job in todo:
            await job()

    try:
        async with trio.open_nursery() as nursery:
            for _ in range(min(CONNECTIONS, len(jobs))):
                nursery.start_soon(work)
    except BaseExceptionGroup as group:
        raise first_of(group) from None
