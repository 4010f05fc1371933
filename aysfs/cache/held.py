"""Blobs that are unlinked and still take their room: those an overlay's idle inodes hold.

The kernel keeps, with every inode of an overlay that it remembers, the file of the cache that
holds its bytes. A remount of the overlay drops the inodes that nobody uses (measured: 100 MiB
came back only then), and costs a tenth of a millisecond. Whoever evicts may not be the process
that serves the overlays, so they are found in the mount table.
"""

import logging
from pathlib import Path

from aysfs.errors import MountFailed
from aysfs.kernel.mounts import reconfigure
from aysfs.kernel.table import kernel_mounts

log = logging.getLogger(__name__)


def let_go(root: Path) -> None:
    """Make the overlays of a cache drop every inode that nobody uses. Waits for the kernel."""
    layer = f"datadir+={root}/objects"
    tops = {one.point: one for one in kernel_mounts()}  # what is mounted over cannot be reached
    done = set()
    for one in tops.values():
        if one.kind != "overlay" or one.device in done or layer not in one.option_list():
            continue
        done.add(one.device)
        try:
            reconfigure(one.point)
        except MountFailed as error:  # unmounted just now, or we may not
            log.debug("%s: %s", one.point, error)
