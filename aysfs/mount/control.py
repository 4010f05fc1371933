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
from functools import partial
from pathlib import Path

import trio

from aysfs.errors import AysfsError
from aysfs.mount.client import Answer

log = logging.getLogger(__name__)

Handler = Callable[[str], Awaitable[Answer]]
"""Answers an operation, given its argument."""

_LONGEST_LINE = 1 << 20
_LAST_ANSWERS = 5.0  # seconds
_WAITING = 128  # clients that may connect while the daemon does something else


async def serve_control(
    path: Path,
    handlers: Mapping[str, Handler],
    *,
    patience: float = 60.0,
    until: trio.Event | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer requests on a socket. One stalled client stops nobody else.

    An answer may take ``patience`` seconds; a client that leaves takes its request with it. Runs
    until cancelled, or ``until`` is set and the requests that came before it are answered.
    """
    until = until if until is not None else trio.Event()
    listener = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with listener:
        path.unlink(missing_ok=True)
        # A socket's path is limited to 107 bytes; the folder's descriptor has a short name.
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            await listener.bind(f"/proc/self/fd/{folder}/{path.name}")
        finally:
            os.close(folder)
        listener.listen(_WAITING)

        async def answer(stream: trio.SocketStream) -> None:
            with trio.move_on_after(patience):
                await _answer(stream, handlers)

        async with trio.open_nursery() as conversations, trio.open_nursery() as listening:
            listeners = [trio.SocketListener(listener)]
            listening.start_soon(
                partial(trio.serve_listeners, answer, listeners, handler_nursery=conversations)
            )
            task_status.started()
            await until.wait()
            listening.cancel_scope.cancel()
            conversations.cancel_scope.deadline = trio.current_time() + _LAST_ANSWERS


async def _answer(stream: trio.SocketStream, handlers: Mapping[str, Handler]) -> None:
    request = b""
    try:
        while not request.endswith(b"\n") and len(request) < _LONGEST_LINE:
            chunk = await stream.receive_some()
            if not chunk:
                return
            request += chunk
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_when_it_leaves, stream, nursery.cancel_scope)
            answer = json.dumps(await _answer_to(request, handlers)).encode() + b"\n"
            # What was done is told, also when it was the end of the daemon.
            with trio.move_on_after(_LAST_ANSWERS, shield=True), suppress(trio.BrokenResourceError):
                await stream.send_all(answer)
            nursery.cancel_scope.cancel()
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
