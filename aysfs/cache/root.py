"""The directory of a cache: whose it is, and what its disk says.

Serves what is kept in it, blobs and images alike.
"""

import errno
import os
from pathlib import Path

from aysfs.errors import CacheUnusable, NoSpace


def enter(root: Path) -> None:
    """Create the directories; refuse what is another user's or readable by others."""
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = os.stat(root)
        if status.st_uid != os.geteuid():
            raise CacheUnusable(
                f"the cache {root} belongs to user {status.st_uid}",
                hint="a cache serves one user: choose another with --cache",
            )
        if status.st_mode & 0o077:
            if any(root.iterdir()) and not (root / "objects").is_dir():
                raise CacheUnusable(
                    f"{root} is open to others and no cache", hint="choose a directory of its own"
                )
            os.chmod(root, 0o700)
        for name in ("objects", "tmp"):
            (root / name).mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise CacheUnusable(f"the cache {root} cannot be used: {error.strerror}") from error


def translated(error: OSError, root: Path) -> NoSpace | CacheUnusable:
    """What the system said of a cache's disk, as an error of ours."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(f"the disk of the cache {root} is full")
    return CacheUnusable(f"the cache {root} cannot be written: {error.strerror}")
