"""What root may set of a FUSE file system that is mounted.

Serves the engines. The settings are the mount's, and are gone with it
(Documentation/ABI/testing/sysfs-class-bdi, Documentation/filesystems/fuse.rst).
"""

import logging
from pathlib import Path

from aysfs.kernel.table import find_kernel_mount

log = logging.getLogger(__name__)

_BACKGROUND = 64  # requests that nobody waits for, such as what is read ahead


def tune(point: str, read_ahead: int) -> None:
    """Let the kernel read so many bytes ahead, a multiple of 1024, by many requests at once.

    Of what answers at ``point`` already: the kernel's own defaults end with its first answer.
    """
    mount = find_kernel_mount(point)
    if mount is None:
        return
    minor = mount.device.partition(":")[2]
    for path, value in (
        (f"/sys/class/bdi/{mount.device}/read_ahead_kb", read_ahead // 1024),
        (f"/sys/fs/fuse/connections/{minor}/max_background", _BACKGROUND),
    ):
        try:
            Path(path).write_text(str(value))
        except OSError as error:  # an ordinary user may not; the defaults work
            log.debug("%s: %s", path, error.strerror)
