"""One at a time: a locked file says that a service is being built, or verified, on this host.

Serves builds and verifications, whose containers and logs are named for their service. The lock
ends with the process that holds it; the file stays, and names the last one that did.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from aysfs.build.private import make_private
from aysfs.errors import BuildFailed

PATIENCE = 3600.0  # seconds; a build may take long
_PAUSE = 0.2


@contextlib.contextmanager
def alone(
    path: Path,
    what: str,
    say: Callable[[str], object],
    *,
    pause: Callable[[float], object] = time.sleep,
    patience: float = PATIENCE,
) -> Iterator[None]:
    """The block has ``what`` for itself; BuildFailed when another process keeps it too long.

    ``pause`` waits a little, and may raise to give up.
    """
    try:
        make_private(path.parent)
        file = open(path, "a+", encoding="ascii")  # noqa: SIM115 - closed below
    except OSError as error:
        raise BuildFailed(f"{path}: {error.strerror or error}") from error
    with file:
        end = time.monotonic() + patience
        is_said = False
        while not _is_ours(file):
            if time.monotonic() > end:
                raise BuildFailed(f"{what} is still under way in process {_holder(file)}")
            if not is_said:
                say(f"{what} is under way in process {_holder(file)}: waiting for its end")
                is_said = True
            pause(_PAUSE)
        yield


def _is_ours(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return True


def _holder(file: IO[str]) -> str:
    file.seek(0)
    return file.read(20).strip() or "?"
