"""The control socket: one line asked, one JSON line answered.

A line is the name of an operation and, after a space, its argument, if it takes one. A daemon
answers ``status``, ``reload`` and ``stop`` on a socket in its private folder.
"""

import json
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import trio

from aysfs.errors import AysfsError
from aysfs.mount.client import Answer

log = logging.getLogger(__name__)

Handler = Callable[[str], Awaitable[Answer]]
"""Answers an operation, given its argument."""

_PATIENCE = 10.0
_LONGEST_LINE = 1 << 20


async def serve_control(
    path: Path,
    handlers: Mapping[str, Handler],
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer requests on a socket until cancelled. One stalled client stops nobody else."""
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
            with trio.move_on_after(_PATIENCE * 6):
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
        operation, _, argument = request.decode(errors="replace").strip().partition(" ")
        handler = handlers.get(operation)
        answer: Answer
        if handler is None:
            answer = {"failed": f"unknown request {operation!r}"}
        else:
            try:
                answer = await handler(argument)
            except AysfsError as error:
                answer = {"failed": str(error), "code": int(error.code), "hint": error.hint}
            except Exception as error:  # the edge: a bug must not end the mount
                log.exception("bug in %s", operation)
                kind = type(error).__name__
                answer = {"failed": f"internal error in {operation}: {kind}; the log has more"}
        await stream.send_all(json.dumps(answer).encode() + b"\n")
    except trio.BrokenResourceError:
        log.debug("a control client left before its answer")
