"""Whether this host can have overlay mounts, found out cheaply and told in words."""

import os
import re
from pathlib import Path

from aysfs.errors import MountFailed
from aysfs.kernel.mounts import probe

_OLDEST = (6, 8)  # datadir+ of overlayfs; data-only layers looked up at first access came in 6.5
_FUSE = Path("/dev/fuse")


def obstacle() -> str | None:
    """Why there can be no overlay mount here, None when nothing speaks against it.

    Loads the kernel's modules where they are not built in.
    """
    if os.geteuid() != 0:
        return "the overlay engine needs root"
    release = os.uname().release
    version = re.match(r"(\d+)\.(\d+)", release)
    if version is None or (int(version[1]), int(version[2])) < _OLDEST:
        return f"the overlay engine needs Linux {_OLDEST[0]}.{_OLDEST[1]}, and this is {release}"
    for kind in ("erofs", "overlay"):
        try:
            probe(kind)
        except MountFailed as error:
            return f"the overlay engine cannot be used: {error}"
    if not _FUSE.exists():
        return f"the overlay engine needs {_FUSE}"
    return None
