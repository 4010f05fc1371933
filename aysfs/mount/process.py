"""The process of a daemon, from inside: what ``aysfs.mount.spawn`` expects of it."""

import errno
import gc
import json
import logging
import os
import resource
import sys
from collections.abc import Callable
from contextlib import suppress

from aysfs.errors import AysfsError, ExitCode
from aysfs.limits import SWITCH

log = logging.getLogger("aysfs")


def be_daemon(log_level: str, run: Callable[[Callable[[], None]], None]) -> int:
    """Run to the end, logging to standard error; the exit code is that of the error, if any.

    ``run`` is given what to call when it is ready. That, or why it never will be, is told on the
    descriptor that the command line names. Collections of garbage may be off until then.
    """
    _allow_all_descriptors()
    sys.setswitchinterval(SWITCH)
    logging.basicConfig(
        level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("pyfuse3").addFilter(_is_told)
    answer = int(sys.argv[1])

    def tell(line: dict[str, object]) -> None:
        nonlocal answer
        if answer >= 0:
            with suppress(BrokenPipeError):  # who asked was killed; the mounts need us still
                os.write(answer, json.dumps(line).encode() + b"\n")
            os.close(answer)
            answer = -1

    def ready() -> None:
        tell({"ready": True})
        gc.freeze()  # what was imported lives as long as we do: no collection needs to walk it
        gc.enable()

    try:
        run(ready)
    except AysfsError as error:
        log.error("%s", error)
        tell({"failed": str(error), "code": int(error.code), "hint": error.hint})
        return int(error.code)
    return int(ExitCode.OK)


def _is_told(record: logging.LogRecord) -> bool:
    """Not that a read was answered which nobody waits for any more.

    So it is, with ENOENT, for what the kernel read ahead of a file by the time of an unmount.
    """
    line = record.getMessage()
    return not (line.startswith("fuse_read()") and line.endswith(os.strerror(errno.ENOENT)))


def _allow_all_descriptors() -> None:
    """Take all that this process may have: every open file of a mount may be one of a daemon's."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
