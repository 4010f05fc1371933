"""The body of a request: bounded in size and in patience.

Serves the handlers that take uploads. Owns the wait for a client that sends nothing, and where a
body is until it is whole. Nothing is kept here.
"""

import json
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import BinaryIO, NamedTuple, cast

import trio
from starlette.exceptions import HTTPException
from starlette.requests import Request

from aysfs import digest as digests
from aysfs.digest import Digest
from aysfs.errors import AysfsError
from aysfs.store.blame import blaming

IDLE = 30.0  # seconds that a client may send nothing of a body it has begun
PIECE = 1 << 20  # bytes that are held in memory, and written at once
JSON_LIMIT = 16 << 20


class Disconnected(AysfsError):
    """The client has gone before its request was whole."""


async def pieces(request: Request, limit: int, idle: float) -> AsyncIterator[bytes]:
    """The bytes of a body as they come; 413 beyond ``limit``, 408 for silence."""
    told = request.headers.get("content-length", "")
    if told.isdecimal() and int(told) > limit:
        raise HTTPException(413, f"at most {limit} bytes are taken here")
    done = 0
    more = True
    while more:
        message = None
        with trio.move_on_after(idle):
            message = await request.receive()
        if message is None:
            raise HTTPException(408, f"nothing came for {idle:g} s")
        if message["type"] == "http.disconnect":
            raise Disconnected("the client has gone")
        data = message.get("body", b"")
        more = message.get("more_body", False)
        done += len(data)
        if done > limit:
            raise HTTPException(413, f"at most {limit} bytes are taken here")
        if data:
            yield data


async def whole(request: Request, limit: int, idle: float) -> bytes:
    """A small body."""
    return b"".join([data async for data in pieces(request, limit, idle)])


async def json_object(request: Request, idle: float) -> dict[str, object]:
    """A body that is an object in JSON."""
    try:
        found = json.loads(await whole(request, JSON_LIMIT, idle))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise HTTPException(400, "an object in JSON is wanted")
    return found


class Spooled(NamedTuple):
    """A whole body: a file at its beginning, in memory or without a name on the store's disk."""

    file: BinaryIO
    size: int
    digest: Digest


@asynccontextmanager
async def spooled(request: Request, limit: int, idle: float, folder: str) -> AsyncIterator[Spooled]:
    """A body once it is whole, so that no thread of the store ever waits for a client."""
    # Not opened in a thread: up to this size it is memory.
    with tempfile.SpooledTemporaryFile(PIECE, dir=folder) as spool:
        file = cast(BinaryIO, spool)
        hasher = digests.hasher()
        held: list[bytes] = []
        size = in_memory = 0

        def write() -> None:
            for data in held:
                hasher.update(data)
                with blaming("the body of an upload"):
                    file.write(data)

        async for data in pieces(request, limit, idle):
            held.append(data)
            size += len(data)
            in_memory += len(data)
            if in_memory >= PIECE:
                await trio.to_thread.run_sync(write)
                held, in_memory = [], 0
        await trio.to_thread.run_sync(write)
        with blaming("the body of an upload"):
            file.seek(0)
        yield Spooled(file, size, Digest(hasher.digest()))
