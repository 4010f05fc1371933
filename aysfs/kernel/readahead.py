"""How much the kernel reads of a file ahead of who reads it one piece behind the other.

Serves the overlay engine. The setting is a file system's, and is gone with it
(Documentation/ABI/testing/sysfs-class-bdi).
"""

import logging
from pathlib import Path

log = logging.getLogger(__name__)

_DEVICES = Path("/sys/class/bdi")


def set_readahead(device: str, size: int) -> None:
    """Read up to so many bytes ahead, a multiple of 1024, on ``device``, as ``major:minor``.

    Where that cannot be set, in a container whose sysfs is read-only say, all stays as it is.
    """
    try:
        (_DEVICES / device / "read_ahead_kb").write_text(str(size // 1024))
    except OSError as error:
        log.info("what is read ahead stays as it is: %s", error)
