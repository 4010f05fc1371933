"""What is written to the server: blobs, many at once or one by one, lists, notes, and deletions.

Serves the store API. Every byte goes through the directory store, which verifies a blob before it
has its name and makes all before a list durable. Owns the order of one request: nothing is answered
as kept before it is.
"""

import contextlib
import os
import shutil
import tempfile
from functools import partial
from io import BytesIO
from typing import BinaryIO

import trio
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from aysfs.errors import BadName
from aysfs.server.body import PIECE, json_object, pieces, spooled, whole
from aysfs.server.place import STATIC, check_static, parse_digest
from aysfs.server.service import Service
from aysfs.store import layout
from aysfs.store.blame import blaming
from aysfs.store.frames import FrameReader
from aysfs.store.protocol import BlobSource

_BATCH_BLOBS = 64
_BATCH_BYTES = 4 << 20
_NO_BOUND = 1 << 62


# --- blobs -------------------------------------------------------------------------------


async def post_blob(service: Service, request: Request) -> Response:
    """Keep a blob. Its hash, where the path has one, is what it must have."""
    store = service.place.store(request.path_params["namespace"])
    text = request.path_params.get("digest")
    wanted = None if text is None else parse_digest(text)
    bounds = service.bounds
    async with spooled(request, bounds.blob, bounds.idle, service.place.root) as body:
        digest = wanted or body.digest
        # Also where one is: whoever sends it may know that the one here is damaged.
        await store.put_many([BlobSource(digest, body.size, lambda: body.file)])
    service.metrics.blobs.labels("kept").inc()
    return JSONResponse({"Hash": digest.hex()}, 201)


async def post_frames(service: Service, request: Request) -> Response:
    """Keep many small blobs that come in one stream, each of them verified."""
    store = service.place.store(request.path_params["namespace"])
    reader = FrameReader()
    batch: list[BlobSource] = []
    size = kept = 0
    async for data in pieces(request, _NO_BOUND, service.bounds.idle):  # a frame has one
        for digest, content in reader.feed(data):
            if len(content) > service.bounds.blob:
                raise HTTPException(413, f"blobs of at most {service.bounds.blob} bytes are taken")
            # Not `BlobSource.of`: that the bytes have this digest is what the client says.
            batch.append(BlobSource(digest, len(content), partial(BytesIO, content)))
            size += len(content)
        if len(batch) >= _BATCH_BLOBS or size >= _BATCH_BYTES:
            await store.put_many(batch)
            kept += len(batch)
            batch, size = [], 0
    reader.end()
    await store.put_many(batch)
    kept += len(batch)
    service.metrics.blobs.labels("kept").inc(kept)
    return JSONResponse({"Kept": kept}, 201)


async def delete_blob(service: Service, request: Request) -> Response:
    """Hold a blob no more; 404 where it was not held."""
    namespace = request.path_params["namespace"]
    digest = parse_digest(request.path_params["digest"])
    store = service.place.store(namespace)
    await store.size_of(digest)  # or it is not there
    await store.delete([digest])
    service.metrics.blobs.labels("deleted").inc()
    return JSONResponse({"Deleted": digest.hex()})


async def post_delete(service: Service, request: Request) -> Response:
    """Hold these blobs no more, whether or not they were there."""
    store = service.place.store(request.path_params["namespace"])
    asked = (await json_object(request, service.bounds.idle)).get("Hashes")
    if not isinstance(asked, list):
        raise HTTPException(400, "`Hashes` must be a list")
    found = [parse_digest(one) for one in asked]
    await store.delete(found)
    service.metrics.blobs.labels("deleted").inc(len(found))
    return JSONResponse({"Deleted": len(found)})


async def post_delete_strays(service: Service, request: Request) -> Response:
    """Have these temporary files no more."""
    store = service.place.store(request.path_params["namespace"])
    paths = (await json_object(request, service.bounds.idle)).get("Paths")
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise HTTPException(400, "`Paths` must be a list of texts")
    await store.delete_strays(paths)
    return JSONResponse({"Deleted": len(paths)})


# --- lists, notes and named files ---------------------------------------------------------


async def put_beside_lists(service: Service, request: Request) -> Response:
    """Publish a list, after all that was kept before is durable; or keep a note."""
    store = service.place.store(request.path_params["namespace"])
    name = request.path_params["name"]
    service_name = layout.parse_list_file(name)
    if service_name is None:
        data = await whole(request, layout.NOTE_LIMIT, service.bounds.idle)
        await store.write_note(name, data)
    else:
        bounds = service.bounds
        async with spooled(request, bounds.list, bounds.idle, service.place.root) as body:
            await store.put_list(service_name, iter(partial(body.file.read, PIECE), b""))
    return Response(status_code=204)


async def delete_beside_lists(service: Service, request: Request) -> Response:
    """Have this list or note no more. 404 for a list that was not there."""
    store = service.place.store(request.path_params["namespace"])
    name = request.path_params["name"]
    service_name = layout.parse_list_file(name)
    if service_name is None:
        await store.delete_note(name)
    else:
        await store.delete_list(service_name)
    return Response(status_code=204)


async def put_static(service: Service, request: Request) -> Response:
    """Keep a named file, replacing the one of this name in one step."""
    name = check_static(request.path_params["name"])
    service.place.check()
    bounds = service.bounds
    async with spooled(request, bounds.list, bounds.idle, service.place.root) as body:
        await trio.to_thread.run_sync(_write_static, service.place.root, name, body.file)
    return Response(status_code=201)


def _write_static(root: str, name: str, body: BinaryIO) -> None:
    folder = f"{root}/{STATIC}"
    if os.path.realpath(folder) != folder:
        raise BadName(f"{STATIC}/ leads elsewhere")
    with blaming(STATIC):
        os.makedirs(folder, exist_ok=True)
        fd, path = tempfile.mkstemp(dir=folder, prefix=".", suffix=".tmp")
    try:
        with blaming(f"{STATIC}/{name}"):
            with open(fd, "wb") as file:
                shutil.copyfileobj(body, file, PIECE)
                file.flush()
                os.fchmod(fd, 0o444)
                os.fsync(fd)
            os.rename(path, f"{folder}/{name}")
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise
