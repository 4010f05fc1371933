"""Whether files can be read without waiting for a network.

Serves the directory store, which reads small blobs of a local disk in the event loop. Owns
nothing. Never touches a path before the mount that holds it is known to be local: a dead
network mount keeps whoever asks it anything.
"""

import os
import re
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
LOCAL = frozenset(
    {b"ext2", b"ext3", b"ext4", b"xfs", b"btrfs", b"tmpfs", b"overlay", b"f2fs", b"zfs"}
)

_LINKS = 40  # the kernel's own limit
_ESCAPED = re.compile(rb"\\([0-7]{3})")

Mounts = list[tuple[bytes, bytes]]


def is_local(directory: str, mounts_file: Path = MOUNTS) -> bool:
    """True when this directory and all below it is surely on file systems of this host.

    False in every doubt: not there, no mount table, a link whose end is not plain. Links
    below the first level of the directory are not looked for.
    """
    try:
        mounts = _parse(mounts_file.read_bytes())
        path = _resolve(os.fsencode(os.path.abspath(directory)), mounts)
        if path is None or any(
            kind not in LOCAL for point, kind in mounts if point.startswith(path + b"/")
        ):
            return False
        with os.scandir(path) as entries:
            return not any(entry.is_symlink() for entry in entries)
    except (OSError, ValueError):
        return False


def _parse(table: bytes) -> Mounts:
    """Mount points and types, in the order they were mounted."""
    found: Mounts = []
    for line in table.splitlines():
        before, _, after = line.partition(b" - ")
        point = _ESCAPED.sub(lambda match: bytes([int(match[1], 8)]), before.split(b" ")[4])
        found.append((point, after.split(b" ")[0]))
    return found


def _resolve(path: bytes, mounts: Mounts) -> bytes | None:
    """The path without links, or None as soon as a step of it is not local."""
    for _ in range(_LINKS):
        parts = [part for part in path.split(b"/") if part]
        for count in range(len(parts) + 1):
            step = b"/" + b"/".join(parts[:count])
            if _kind(step, mounts) not in LOCAL:
                return None
            try:
                target = os.readlink(step)
            except OSError:
                continue  # no link
            if b".." in target.split(b"/"):
                return None
            path = b"/".join([os.path.dirname(step), target, *parts[count:]])
            if target.startswith(b"/"):
                path = b"/".join([target, *parts[count:]])
            break
        else:
            return b"/" + b"/".join(parts)
    return None


def _kind(path: bytes, mounts: Mounts) -> bytes:
    """The type of the mount that holds a path: the deepest, and of several there the last."""
    best, kind = -1, b""
    for point, of in mounts:
        covers = path == point or path.startswith(point.rstrip(b"/") + b"/")
        if covers and len(point) >= best:
            best, kind = len(point), of
    return kind
