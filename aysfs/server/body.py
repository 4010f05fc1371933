"""The body of a request: bounded in size and in patience, and readable from a thread.

Serves the handlers that take uploads. Owns the wait for a client that sends nothing. Nothing is
kept here.
"""

import io
import json
from collections.abc import AsyncIterator

import trio
from starlette.exceptions import HTTPException
from starlette.requests import Request

from aysfs.errors import AysfsError

IDLE = 30.0  # seconds that a client may send nothing of a body it has begun
PIECE = 1 << 20  # bytes that cross from the event loop to a thread at once
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


class FromThread(io.RawIOBase):
    """A body as a file, for a thread that reads it while the event loop receives it.

    ``close_now``, from the event loop, ends a read under way: a thread that its request gave up
    waits for nothing.
    """

    def __init__(self, source: AsyncIterator[bytes]) -> None:
        super().__init__()
        self._source = source
        self._rest = memoryview(b"")
        self._gone = False
        self._scope: trio.CancelScope | None = None

    def read(self, size: int = -1, /) -> bytes:
        """At most so many bytes, fewer where no more are at hand; none at the end."""
        if not self._rest:
            self._rest = memoryview(trio.from_thread.run(self._next))
        taken = self._rest if size < 0 else self._rest[:size]
        self._rest = self._rest[len(taken) :]
        return bytes(taken)

    def readable(self) -> bool:
        return True

    def close_now(self) -> None:
        self._gone = True
        if self._scope is not None:
            self._scope.cancel()

    async def _next(self) -> bytes:
        found: list[bytes] = []
        with trio.CancelScope() as self._scope:
            size = 0
            while not self._gone and size < PIECE:
                data = await anext(self._source, None)
                if data is None:
                    break
                found.append(data)
                size += len(data)
        if self._gone:
            raise Disconnected("the request has ended")
        return b"".join(found)
