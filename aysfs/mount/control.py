"""The control socket: one line asked, one JSON line answered.

A line is the name of an operation and, after a space, its argument, if it takes one. A daemon
answers ``status``, ``reload`` and ``stop`` on a socket in its private folder.
"""

import json
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path

import trio

from aysfs.errors import AysfsError
from aysfs.mount.client import Answer

log = logging.getLogger(__name__)

Handler = Callable[[str], Awaitable[Answer]]
"""Answers an operation, given its argument."""

_LONGEST_LINE = 1 << 20


async def serve_control(
    path: Path,
    handlers: Mapping[str, Handler],
    *,
    patience: float = 60.0,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer requests on a socket until cancelled. One stalled client stops nobody else.

    An answer may take ``patience`` seconds; a client that leaves takes its request with it.
    """
    listener = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with listener:
        path.unlink(missing_ok=True)
        # A socket's path is limited to 107 bytes; the folder's descriptor has a short name.
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            await listener.bind(f"/proc/self/fd/{folder}/{path.name}")
        finally:
            os.close(folder)
        listener.listen(16)

        async def answer(stream: trio.SocketStream) -> None:
            with trio.move_on_after(patience):
                await _answer(stream, handlers)

        task_status.started()
        await trio.serve_listeners(answer, [trio.SocketListener(listener)])


async def _answer(stream: trio.SocketStream, handlers: Mapping[str, Handler]) -> None:
    request = b""
    try:
        while not request.endswith(b"\n") and len(request) < _LONGEST_LINE:
            chunk = await stream.receive_some()
            if not chunk:
                return
            request += chunk
        answer: Answer | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_when_it_leaves, stream, nursery.cancel_scope)
            answer = await _answer_to(request, handlers)
            nursery.cancel_scope.cancel()
        if answer is not None:
            await stream.send_all(json.dumps(answer).encode() + b"\n")
    except trio.BrokenResourceError:
        log.debug("a control client left before its answer")


async def _cancel_when_it_leaves(stream: trio.SocketStream, scope: trio.CancelScope) -> None:
    with suppress(trio.BrokenResourceError):
        while await stream.receive_some():
            pass
    log.debug("a control client left before its answer")
    scope.cancel()


async def _answer_to(request: bytes, handlers: Mapping[str, Handler]) -> Answer:
    operation, _, argument = request.decode(errors="replace").strip().partition(" ")
    handler = handlers.get(operation)
    if handler is None:
        return {"failed": f"unknown request {operation!r}"}
    try:
        return await handler(argument)
    except AysfsError as error:
        return {"failed": str(error), "code": int(error.code), "hint": error.hint}
    except Exception as error:  # the edge: a bug must not end the mount
        log.exception("bug in %s", operation)
        kind = type(error).__name__
        return {"failed": f"internal error in {operation}: {kind}; the log has more"}
