"""The chunks of a large blob: digests of its parts, so that one is verified without the rest.

Serves whoever publishes, reads or looks after large blobs. An entry names them by
``chunks=<size of a chunk>,<md5 of an index blob>``; the index blob is the md5 of each chunk, 16
bytes each, in their order (docs/format.md, "Chunks"). Values and arithmetic; no I/O.
"""

import re
from typing import NamedTuple

from aysfs import digest as digests
from aysfs.digest import SIZE, Digest
from aysfs.limits import CHUNK, LARGE

SMALLEST, LARGEST = 64 << 10, 16 << 20
"""Bytes of a chunk that a reader uses; what another list may say costs it speed, and no more."""
MOST = 4 << 20
"""Chunks of a blob that a reader uses: their index is held in memory."""

_VALUE = re.compile(rb"([1-9][0-9]{0,18}),([0-9a-f]{32})").fullmatch


class Chunks(NamedTuple):
    """How a blob is cut, and the index blob that has the digests."""

    size: int
    digest: Digest  # of the index blob

    @property
    def value(self) -> bytes:
        """As ext has it."""
        return b"%d,%s" % (self.size, self.digest.hex().encode())

    def count(self, blob: int) -> int:
        """How many chunks a blob of so many bytes has."""
        return -(-blob // self.size)

    def index_size(self, blob: int) -> int:
        """Bytes of the index of a blob of so many bytes."""
        return SIZE * self.count(blob)

    def length(self, number: int, blob: int) -> int:
        """Bytes of a chunk: only the last one may be shorter."""
        return min(self.size, blob - number * self.size)

    def are_used(self, blob: int) -> bool:
        """Whether a reader reads a blob of so many bytes by them, and not whole."""
        return blob > LARGE and SMALLEST <= self.size <= LARGEST and self.count(blob) <= MOST


def parse_chunks(value: bytes) -> Chunks | None:
    """The chunks that ext names; None for what names none."""
    found = _VALUE(value)
    return Chunks(int(found[1]), Digest(bytes.fromhex(found[2].decode()))) if found else None


def index_size(blob: int) -> int:
    """Bytes of the index that a writer makes for a blob of so many bytes."""
    return SIZE * -(-blob // CHUNK)


def with_chunks(
    ext: tuple[tuple[bytes, bytes], ...], index: Digest | None
) -> tuple[tuple[bytes, bytes], ...]:
    """The ext of an entry whose blob a writer has cut, where it has."""
    if index is None:
        return ext
    return tuple(sorted((*ext, (b"chunks", Chunks(CHUNK, index).value))))


class ChunkHasher:
    """The digest of a blob and those of its chunks, in one pass over its bytes."""

    def __init__(self, size: int = CHUNK) -> None:
        self._size = size
        self._whole = digests.hasher()
        self._chunk = digests.hasher()
        self._left = size  # of the chunk
        self._index = bytearray()

    def update(self, data: bytes | memoryview) -> None:
        """Take the next bytes."""
        self._whole.update(data)
        rest = memoryview(data)
        while len(rest) >= self._left:
            self._chunk.update(rest[: self._left])
            rest = rest[self._left :]
            self._index += self._chunk.digest()
            self._chunk, self._left = digests.hasher(), self._size
        self._chunk.update(rest)
        self._left -= len(rest)

    def digest(self) -> Digest:
        """That of all bytes."""
        return Digest(self._whole.digest())

    def index(self) -> bytes:
        """The index blob of all bytes."""
        last = self._chunk.digest() if self._left < self._size else b""
        return bytes(self._index) + last
