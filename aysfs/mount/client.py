"""Asking a daemon over its control socket.

Synchronous and bounded: ``status`` must work while a mount is stuck. Imports no trio: a
command that only asks should not wait for it.
"""

import json
import os
import socket
from pathlib import Path

from aysfs.errors import ExitCode, MountFailed

Answer = dict[str, object]

_LONGEST_LINE = 1 << 20
_PATIENCE = 10.0


class DaemonFailed(MountFailed):
    """What the daemon said, with its own exit code."""

    def __init__(self, message: str, code: int, hint: str | None) -> None:
        super().__init__(message, hint=hint)
        self.code = ExitCode(code)


class NoAnswer(MountFailed):
    """A daemon that cannot be reached, or was lost before it answered."""


class Lost(NoAnswer):
    """There is no daemon, or it is just beginning, or went away, or too many ask: try again."""


def ask(
    control: Path, operation: str, argument: str = "", *, patience: float = _PATIENCE
) -> Answer:
    """Ask a daemon; NoAnswer when it does not answer in time, DaemonFailed when it refuses."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(patience)
            _connect(client, control)
            client.sendall(f"{operation} {argument}".strip().encode() + b"\n")
            with client.makefile("rb") as reader:
                line = reader.readline(_LONGEST_LINE)
    # It left before it took the request or was killed; or its queue is full (EAGAIN).
    except (ConnectionError, BlockingIOError) as error:
        raise Lost(f"the daemon does not answer ({error})") from error
    except OSError as error:
        raise NoAnswer(f"the daemon does not answer ({error})") from error
    if not line.endswith(b"\n"):
        raise Lost("the daemon did not finish its answer")
    try:
        answer = json.loads(line)
    except ValueError as error:
        raise MountFailed("the daemon answered nonsense") from error
    if not isinstance(answer, dict):
        raise MountFailed("the daemon answered nonsense")
    if "failed" in answer:
        code = answer.get("code", ExitCode.MOUNT)
        raise DaemonFailed(str(answer["failed"]), code, answer.get("hint"))
    return answer


def _connect(client: socket.socket, control: Path) -> None:
    """By way of the folder's descriptor: a socket's path is limited to 107 bytes."""
    try:
        folder = os.open(control.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            client.connect(f"/proc/self/fd/{folder}/{control.name}")
        finally:
            os.close(folder)
    except FileNotFoundError as error:
        raise Lost(f"the daemon does not answer ({error})") from error
