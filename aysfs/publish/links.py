"""Rules of a list's entries that a walked tree and a tar of it share: the same bytes come of both.

Serves ``walk`` and ``stream``. Owns nothing; opens nothing.
"""

import os
from collections.abc import Hashable

from aysfs.errors import AysfsError
from aysfs.flist.entry import Entry, Ext, Kind


def is_kept(xattr: bytes) -> bool:
    """Whether a list carries an extended attribute of this name."""
    return xattr.startswith(b"user.") or xattr == b"security.capability"


def rdev(path: bytes, major: int, minor: int) -> Ext:
    """The ext of a device; AysfsError for the one that no list may hold."""
    if major == minor == 0:
        raise AysfsError(
            f"{os.fsdecode(path)}: a device 0:0 cannot be in a list",
            hint="it is the whiteout of an overlay: push the merged tree, not its upper layer",
        )
    return ((b"rdev", b"%d,%d" % (major, minor)),)


class FirstNames:
    """The first name of each file with several. Asked in the order of the list."""

    def __init__(self) -> None:
        self._first: dict[Hashable, bytes] = {}

    def linked(self, entry: Entry, file: Hashable) -> Entry:
        """A name of this file, with ``hardlink`` unless it is the first of a regular one."""
        if entry.kind != Kind.REGULAR:
            return entry
        path = self._first.setdefault(file, entry.path)
        if path == entry.path:
            return entry
        return entry._replace(ext=tuple(sorted((*entry.ext, (b"hardlink", path)))))
