"""One entry of a list, as every floor above sees it: decoded, validated, immutable."""

import enum
from typing import NamedTuple

from aysfs.chunks import Chunks, parse_chunks
from aysfs.digest import Digest

Ext = tuple[tuple[bytes, bytes], ...]


class Kind(enum.IntEnum):
    """The type column of a full line (lineage's numbering)."""

    SOCKET = 0
    SYMLINK = 1
    REGULAR = 2
    BLOCK = 3
    DIRECTORY = 4
    CHARACTER = 5
    FIFO = 6


class Entry(NamedTuple):
    """A file, directory, link or special file.

    ``path`` is absolute and decoded (raw bytes, no trailing slash, ``/`` for the root);
    ``kind`` a Kind value; ``mode`` the permission bits with setuid, setgid and sticky;
    ``digest`` is zero and ``size`` 0 unless regular; ``mtime_ns`` nanoseconds since 1970;
    ``ext`` the decoded key and value pairs, sorted by key, unknown keys included.
    """

    path: bytes
    kind: int
    mode: int
    uid: int
    gid: int
    size: int
    digest: Digest
    mtime_ns: int
    ext: Ext = ()

    def get(self, key: bytes) -> bytes | None:
        """The value of an ext key, None when absent."""
        for name, value in self.ext:
            if name == key:
                return value
        return None

    @property
    def target(self) -> bytes | None:
        """Where a symlink points, as written."""
        return self.get(b"target")

    @property
    def hardlink(self) -> bytes | None:
        """The first path of the file that this entry is another name of."""
        return self.get(b"hardlink")

    @property
    def chunks(self) -> Chunks | None:
        """What verifies the parts of a regular file, where the list says."""
        value = self.get(b"chunks") if self.ext else None
        return None if value is None else parse_chunks(value)

    @property
    def rdev(self) -> tuple[int, int]:
        """Major and minor of a device, (0, 0) for other kinds."""
        value = self.get(b"rdev")
        if value is None:
            return (0, 0)
        major, _, minor = value.partition(b",")
        return int(major), int(minor)

    @property
    def xattrs(self) -> dict[bytes, bytes]:
        """Extended attributes by full name, e.g. ``b"user.note"``."""
        return {key[6:]: value for key, value in self.ext if key.startswith(b"xattr.")}


class Header(NamedTuple):
    """The ``#`` lines of a list. ``version`` is 2, or 1 for a lineage list without header."""

    version: int
    base: bytes | None = None
    keys: tuple[tuple[bytes, bytes], ...] = ()
