"""What is read from the server: files as they lie, and what a store says of what it holds.

Serves whoever reads a plain web server, and the store API. Files go out as a plain web server would
send them: ranges, validators, sizes. Nothing is judged here: the receiver verifies.
"""

import os
import re
from collections.abc import AsyncIterator, Callable
from email.utils import formatdate
from typing import TypeVar

import trio
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from aysfs.digest import Digest
from aysfs.server.body import json_object
from aysfs.server.guard import account_of
from aysfs.server.place import STATIC, Opened, check_static, parse_digest
from aysfs.server.service import Service
from aysfs.server.upstream import Upstream
from aysfs.store import layout
from aysfs.store.frames import FRAME_LIMIT
from aysfs.store.protocol import Store

T = TypeVar("T")

AT_HAND = 64 << 10  # read in the event loop, where the disk is a local one

GZIP_LEVEL = 1  # a list of 28,000 entries: 4 times smaller

_PART = re.compile(r"bytes=(\d{1,19})-(\d{1,19})", re.ASCII)
_BYTES = "application/octet-stream"
_FOREVER = "max-age=31536000, immutable"


class _OpenFile(FileResponse):
    """A file that is open, so that one which is replaced meanwhile goes out whole."""

    chunk_size = 1 << 20

    def __init__(self, opened: Opened, headers: dict[str, str]) -> None:
        super().__init__(
            f"/proc/self/fd/{opened.fd}", 200, headers, _BYTES, stat_result=opened.status
        )
        self._fd = opened.fd

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            os.close(self._fd)


class _Gzipped(Response):
    """Another response, compressed as it goes out: another representation, so no strong ETag."""

    def __init__(self, inner: Response) -> None:
        super().__init__()
        self._inner = inner
        if etag := inner.headers.get("etag"):
            inner.headers["etag"] = f"W/{etag}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await GZipMiddleware(self._inner, compresslevel=GZIP_LEVEL)(scope, receive, send)


def _may_compress(request: Request) -> bool:
    """Whether what is asked for may come compressed: all of it, and by one who says so."""
    return "gzip" in request.headers.get("accept-encoding", "") and "range" not in request.headers


async def in_thread(service: Service, work: Callable[[], T]) -> T:
    """Do it where it may wait for a disk: here, where the disk is a local one."""
    return work() if service.place.is_local else await trio.to_thread.run_sync(work)


async def send_file(
    service: Service, request: Request, relative: str, headers: dict[str, str]
) -> Response | None:
    """A file of the store; None where it is not there."""
    opened = await in_thread(service, lambda: service.place.open(relative))
    if opened is None:
        return None
    response = _OpenFile(opened, {**headers, "x-content-type-options": "nosniff"})
    size = opened.status.st_size
    if request.headers.get("if-none-match") == response.headers["etag"]:
        os.close(opened.fd)
        kept = {name: response.headers[name] for name in ("etag", "cache-control")}
        return Response(status_code=304, headers=kept)
    if size > AT_HAND or "range" in request.headers or request.method == "HEAD":
        return response
    try:
        data = await in_thread(service, lambda: os.pread(opened.fd, size + 1, 0))
    finally:
        os.close(opened.fd)
    if len(data) != size:
        raise HTTPException(503, "the file changed while it was read")
    return Response(data, headers=dict(response.headers))


# --- files as they lie -------------------------------------------------------------------


async def get_blob(service: Service, request: Request) -> Response:
    """A blob, by the API or where its layout has it, wherever it lies."""
    namespace = request.path_params["namespace"]
    digest = parse_digest(request.path_params["digest"])
    shelf = request.path_params.get("first"), request.path_params.get("second")
    name = digest.hex()
    if shelf not in ((None, None), (name[0], name[1])):
        raise HTTPException(404, "no such blob")
    store = service.place.store(namespace)
    found = await _send_blob(service, request, namespace, digest)
    if found is None and service.upstream is not None:
        found = await _part_from_upstream(service.upstream, request, namespace, digest, store)
        if found is not None:
            return found
        await service.upstream.fetch(namespace, digest, store)
        found = await _send_blob(service, request, namespace, digest)
    if found is None:
        raise HTTPException(404, f"no blob {name}")
    return found


async def _part_from_upstream(
    upstream: Upstream, request: Request, namespace: str, digest: Digest, store: Store
) -> Response | None:
    """A part of a large blob that is on its way here; None where the whole is waited for."""
    asked = _PART.fullmatch(request.headers.get("range", ""))
    if asked is None or request.method == "HEAD":
        return None
    start, last = int(asked[1]), int(asked[2])
    found = await upstream.part(namespace, digest, store, start, last + 1)
    if found is None:
        return None
    data, size = found
    headers = {"etag": f'"{digest.hex()}"', "content-range": f"bytes {start}-{last}/{size}"}
    return Response(data, 206, headers, _BYTES)


async def _send_blob(
    service: Service, request: Request, namespace: str, digest: Digest
) -> Response | None:
    shared = "public" if service.accounts.are_open else "private"
    headers = {"etag": f'"{digest.hex()}"', "cache-control": f"{shared}, {_FOREVER}"}
    for place in (layout.blob, layout.old_blob):
        found = await send_file(service, request, place(namespace, digest), headers)
        if found is not None:
            return found
    return None


async def get_beside_lists(service: Service, request: Request) -> Response:
    """A list or a note."""
    namespace, name = request.path_params["namespace"], request.path_params["name"]
    service.place.store(namespace)
    if layout.is_stray(name):
        raise HTTPException(404, "no such list or note")
    path = f"{layout.list_directory(namespace)}/{name}"
    found = await send_file(service, request, path, {"cache-control": "no-cache"})
    if found is None and service.upstream is not None and not layout.is_claim(name):
        found = await _from_upstream(service.upstream, namespace, name)
    if found is None:
        raise HTTPException(404, f"no list or note {name}")
    is_list = layout.parse_list_file(name) is not None
    return _Gzipped(found) if is_list and _may_compress(request) else found


async def _from_upstream(upstream: Upstream, namespace: str, name: str) -> Response:
    """A list or a note of another store."""
    headers = {"cache-control": "no-cache"}
    service_name = layout.parse_list_file(name)
    if service_name is None:
        data = await upstream.read_note(namespace, name)
    else:
        data, mtime_ns = await upstream.open_list(namespace, service_name)
        headers["last-modified"] = formatdate(mtime_ns / 1e9, usegmt=True)
    return Response(data, media_type=_BYTES, headers=headers)


async def get_listing(service: Service, request: Request) -> Response:
    """The names of all lists and notes, as nginx writes them in JSON."""
    namespace = request.path_params["namespace"]
    store = service.place.store(namespace)
    found = set(await store.lists())
    if service.upstream is not None:
        found.update(await service.upstream.lists(namespace))
    names = sorted([*map(layout.list_file, found), *await store.notes()])
    return JSONResponse([{"name": name, "type": "file"} for name in names], headers=_FRESH)


async def get_static(service: Service, request: Request) -> Response:
    """A named file."""
    name = check_static(request.path_params["name"])
    found = await send_file(service, request, f"{STATIC}/{name}", {"cache-control": "no-cache"})
    if found is None:
        raise HTTPException(404, f"no file {name}")
    return found


# --- what a store says of itself ---------------------------------------------------------

_FRESH = {"cache-control": "no-store"}


async def get_about(service: Service, request: Request) -> Response:
    """By this a client knows whom it talks to, and what it may."""
    service.place.store(request.path_params["namespace"])
    rights = [str(right.name).lower() for right in account_of(request).rights]
    told = {"aysfs-store": 1, "frame_limit": FRAME_LIMIT, "rights": rights}
    return JSONResponse(told, headers=_FRESH)


async def post_exists(service: Service, request: Request) -> Response:
    """Which of these blobs are there; with ``Sizes``, only those of their size count."""
    store = service.place.store(request.path_params["namespace"])
    asked = await json_object(request, service.bounds.idle)
    hashes, sizes = asked.get("Hashes"), asked.get("Sizes")
    if not isinstance(hashes, list):
        raise HTTPException(400, "`Hashes` must be a list")
    digests = [parse_digest(one) for one in hashes]
    if sizes is None:
        there = await trio.to_thread.run_sync(
            _lying, service, request.path_params["namespace"], digests
        )
    elif not isinstance(sizes, list) or len(sizes) != len(hashes):
        raise HTTPException(400, "`Sizes` must have a number for each of `Hashes`")
    elif not all(type(size) is int and size >= 0 for size in sizes):
        raise HTTPException(400, "`Sizes` must be numbers of bytes")
    else:
        lacking = await store.missing(dict(zip(digests, sizes, strict=True)))
        there = [digest not in lacking for digest in digests]
    return JSONResponse(dict(zip(hashes, there, strict=True)), headers=_FRESH)


def _lying(service: Service, namespace: str, digests: list[Digest]) -> list[bool]:
    root = service.place.root
    places = (layout.blob, layout.old_blob)
    return [
        any(os.path.isfile(f"{root}/{place(namespace, digest)}") for place in places)
        for digest in digests
    ]


async def get_all(service: Service, request: Request) -> Response:
    """Every blob, sorted: a line ``hash|size|epoch`` each."""
    store = service.place.store(request.path_params["namespace"])

    async def lines() -> AsyncIterator[bytes]:
        for first in range(256):
            found = {one.digest: one for one in await store.shelf(first)}
            yield "".join(
                f"{digest.hex()}|{found[digest].size}|{found[digest].mtime_ns // 10**9}\n"
                for digest in sorted(found)
            ).encode()

    return StreamingResponse(lines(), media_type="text/plain", headers=_FRESH)


async def get_shelf(service: Service, request: Request) -> Response:
    """The blobs that begin with one byte: lines ``hash|size|nanoseconds``."""
    store = service.place.store(request.path_params["namespace"])
    text = request.path_params["first"]
    if len(text) != 2 or not set(text) <= set("0123456789abcdef"):
        raise HTTPException(404, "a shelf is two hexadecimal digits")
    lines = [f"{d.hex()}|{size}|{mtime}\n" for d, size, mtime in await store.shelf(int(text, 16))]
    return Response("".join(lines), media_type="text/plain", headers=_FRESH)


async def get_notes(service: Service, request: Request) -> Response:
    """The names of all notes, claims too, and when each was written."""
    store = service.place.store(request.path_params["namespace"])
    return JSONResponse(await store.notes(), headers=_FRESH)


async def get_strays(service: Service, request: Request) -> Response:
    """The files that are neither blob nor list nor note: path, size, nanoseconds."""
    store = service.place.store(request.path_params["namespace"])
    return JSONResponse([list(one) for one in await store.strays()], headers=_FRESH)
