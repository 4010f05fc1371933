"""The digest index: which digests a tree image names, how large, and one path of each.

Serves the fault layer, which must know whether a digest is one of a mounted list, and name
the file when it cannot be had. A sorted array in a file, mapped: no dict of a million keys.

    header   magic, version, size of a record, records, uuid of the image, sha256 of the records
    record   digest, size of the blob, nid of a directory, ordinal of the entry in it

It is the writer's only while it is being written; a reader trusts no byte of it.
"""

import hashlib
from bisect import bisect_left
from collections.abc import Iterator
from struct import Struct
from typing import BinaryIO, NamedTuple

from aysfs.digest import SIZE, Digest
from aysfs.errors import ImageDamaged, ImageRefused

INDEX_VERSION = 1
_MAGIC = b"aysindex"
_HEADER = Struct("<8sIIQ16s32s24x")
RECORD = Struct("<16sQII")


class Record(NamedTuple):
    """A digest, the size of its blob in bytes, and an entry that names it."""

    digest: Digest
    size: int
    directory: int
    """nid of the directory that holds the entry."""
    ordinal: int
    """Which entry of the directory, in stored order, ``.`` and ``..`` counted."""


class IndexBuilder:
    """Takes packed records in tree order; of one digest the first is kept."""

    def __init__(self) -> None:
        # By the first byte, so that sorting makes objects of a 256th of the records at a time.
        self.buckets = [bytearray() for _ in range(256)]

    def write(self, file: BinaryIO, uuid: bytes) -> None:
        """Header and records. ImageRefused when one digest was given two sizes."""
        file.write(bytes(_HEADER.size))
        hasher = hashlib.sha256()
        count = 0
        for bucket in self.buckets:
            part = b"".join(_distinct(bucket))
            count += len(part) // RECORD.size
            hasher.update(part)
            file.write(part)
            bucket.clear()
        file.seek(0)
        file.write(_HEADER.pack(_MAGIC, INDEX_VERSION, RECORD.size, count, uuid, hasher.digest()))


def _distinct(bucket: bytearray) -> Iterator[bytes]:
    records = [bytes(bucket[at : at + RECORD.size]) for at in range(0, len(bucket), RECORD.size)]
    records.sort(key=_digest_of)  # stable: the first of a digest stays first
    before = bytes(RECORD.size)
    first = True
    for record in records:
        if first or record[:SIZE] != before[:SIZE]:
            yield record
            before, first = record, False
        elif record[SIZE : SIZE + 8] != before[SIZE : SIZE + 8]:
            raise ImageRefused(f"the list gives {record[:SIZE].hex()} two different sizes")


def _digest_of(record: bytes) -> bytes:
    return record[:SIZE]


class DigestIndex:
    """An index in memory or mapped. ImageDamaged when it is none of this version."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = memoryview(data).cast("B")
        try:
            self._check()
        except ImageDamaged:
            self.close()
            raise

    def _check(self) -> None:
        if len(self._data) < _HEADER.size:
            raise ImageDamaged("the digest index is cut off")
        magic, version, record, count, uuid, sha256 = _HEADER.unpack_from(self._data)
        if magic != _MAGIC or version != INDEX_VERSION or record != RECORD.size:
            raise ImageDamaged("no digest index of this version")
        if len(self._data) != _HEADER.size + count * RECORD.size:
            raise ImageDamaged("the digest index has not the length that it names")
        self._count: int = count
        self.uuid: bytes = uuid
        """The uuid of the image that it was written with."""
        self.sha256: bytes = sha256

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Record]:
        return map(Record._make, RECORD.iter_unpack(self._data[_HEADER.size :]))

    def find(self, digest: Digest) -> Record | None:
        """What the index says of a digest; None when no entry names it."""
        at = bisect_left(range(self._count), digest, key=self._digest)
        if at == self._count or self._digest(at) != digest:
            return None
        return Record._make(RECORD.unpack_from(self._data, _HEADER.size + at * RECORD.size))

    def verify(self) -> None:
        """Read all of it. ImageDamaged when the records are not those that were written."""
        if hashlib.sha256(self._data[_HEADER.size :]).digest() != self.sha256:
            raise ImageDamaged("the digest index was altered")

    def close(self) -> None:
        """Let go of the buffer, so that a mapping can be closed."""
        self._data.release()

    def _digest(self, at: int) -> Digest:
        start = _HEADER.size + at * RECORD.size
        return Digest(bytes(self._data[start : start + SIZE]))
