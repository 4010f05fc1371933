"""What files hashed to the last time, so that pushing a tree again reads only what changed.

Serves ``push``; owns one file per user. It is a hint: when it is lost or damaged, files are
hashed again. It must never lie, so a file is forgotten when it could change unnoticed.
"""

import contextlib
import os
import struct
from pathlib import Path

from aysfs import digest as digests
from aysfs.digest import Digest
from aysfs.publish.walk import FileKey

LIMIT = 400_000  # records kept; 56 bytes each, and 0.3 s to load them all

# A file written again within the tick of the file system's clock keeps its times: what
# changed this recently when it was hashed is not remembered.
RACY_NS = 2_000_000_000

_MAGIC = b"aysfs hashes 1\n\0"
_RECORD = struct.Struct("<QQQqq16s")
_FILE = "hashes"
_INDEX = 1 << 63


class HashCache:
    """Digests by file key. ``directory`` is made when there is something to save."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / _FILE
        self._known = _load(self._path)
        self._changed = False

    def get(self, key: FileKey) -> Digest | None:
        """The digest of an unchanged file."""
        return self._known.get(key)

    def index_of(self, key: FileKey) -> Digest | None:
        """The digest of the index blob of an unchanged file with chunks."""
        return self._known.get(_of_index(key))

    def add(
        self, key: FileKey, digest: Digest, hashed_at_ns: int, index: Digest | None = None
    ) -> None:
        """Remember a file; ``hashed_at_ns`` is the time by the clock when hashing began."""
        if key.ctime_ns <= hashed_at_ns - RACY_NS:
            self._known[key] = digest
            if index is not None:
                self._known[_of_index(key)] = index
            self._changed = True

    def forget(self, key: FileKey) -> None:
        """Drop what turned out to be wrong."""
        if self._known.pop(key, None) is not None:
            self._changed = True

    def save(self) -> None:
        """Write the file, atomically; the oldest records go first when there are too many.

        Where it cannot be written there is no hint for the next push, and nothing is wrong.
        """
        if not self._changed:
            return
        with contextlib.suppress(OSError):
            self._write()

    def _write(self) -> None:
        records = list(self._known.items())[-LIMIT:]
        body = b"".join(_RECORD.pack(*key, digest) for key, digest in records)
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = self._path.with_name(f".{_FILE}.{os.urandom(6).hex()}.tmp")
        try:
            temporary.write_bytes(_MAGIC + digests.of(body) + body)
            os.replace(temporary, self._path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
        self._changed = False


def _of_index(key: FileKey) -> FileKey:
    """What a record of an index blob is kept under: no file has a size with the top bit."""
    return key._replace(size=key.size | _INDEX)


def _load(path: Path) -> dict[FileKey, Digest]:
    try:
        data = path.read_bytes()
    except OSError:
        return {}
    body = data[len(_MAGIC) + digests.SIZE :]
    if not data.startswith(_MAGIC + digests.of(body)) or len(body) % _RECORD.size:
        return {}
    # Plain tuples stand in for FileKey: equal, of the same hash, and half the time to make.
    return {record[:5]: record[5] for record in _RECORD.iter_unpack(body)}  # type: ignore[misc]
