"""Asking a daemon over its control socket.

Synchronous and bounded: ``status`` must work while a mount is stuck. Imports no trio: a
command that only asks should not wait for it.
"""

import json
import os
import socket
from pathlib import Path

from aysfs.errors import MountFailed

Answer = dict[str, object]

_LONGEST_LINE = 1 << 20
_PATIENCE = 10.0


def ask(control: Path, operation: str, patience: float = _PATIENCE) -> Answer:
    """Ask a daemon; MountFailed when it does not answer in time or refuses."""
    folder = os.open(control.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(patience)
            client.connect(f"/proc/self/fd/{folder}/{control.name}")
            client.sendall(operation.encode() + b"\n")
            with client.makefile("rb") as reader:
                line = reader.readline(_LONGEST_LINE)
    except OSError as error:
        raise MountFailed(f"the daemon does not answer ({error})") from error
    finally:
        os.close(folder)
    try:
        answer = json.loads(line)
    except ValueError as error:
        raise MountFailed("the daemon did not finish its answer") from error
    if not isinstance(answer, dict):
        raise MountFailed("the daemon answered nonsense")
    if "failed" in answer:
        raise MountFailed(str(answer["failed"]))
    return answer
