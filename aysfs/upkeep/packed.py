"""Millions of digests in little memory: bytes side by side, no object for each.

Serves what reads whole stores. Owns its buckets, one for each first byte of a digest, as the
shelves of a store are: whoever goes through a store opens one bucket at a time.
"""

import struct

from aysfs.digest import SIZE, Digest

WITH_SIZE = SIZE + 8

_SLACK = 1 << 16  # bytes of a bucket that may be there twice before it is looked through

Record = bytes
"""A digest, and what else there is to it."""


def pack(digest: Digest, size: int) -> Record:
    """A blob as a record of WITH_SIZE bytes."""
    return digest + size.to_bytes(8, "big")


def digest_of(record: Record) -> Digest:
    """The blob that a record speaks of."""
    return Digest(record[:SIZE])


def size_of(record: Record) -> int:
    """The size in a record that has one."""
    return int.from_bytes(record[SIZE:], "big")


class Packed:
    """A set of records of one width, each beginning with a digest."""

    def __init__(self, width: int = SIZE) -> None:
        self._each = struct.Struct(f"{width}s")
        self._buckets = [bytearray() for _ in range(256)]
        self._due = [_SLACK] * 256  # the length at which duplicates are dropped

    def add(self, record: Record) -> None:
        """Take one."""
        bucket = self._buckets[record[0]]
        bucket += record
        if len(bucket) >= self._due[record[0]]:
            self._tidy(record[0])

    def update(self, records: bytes) -> None:
        """Take many, which lie in a row."""
        for (record,) in self._each.iter_unpack(records):
            self.add(record)

    def bucket(self, first: int) -> set[Record]:
        """The records that begin with this byte."""
        return {record for (record,) in self._each.iter_unpack(self._buckets[first])}

    def _tidy(self, first: int) -> None:
        kept = self._buckets[first] = bytearray(b"".join(self.bucket(first)))
        self._due[first] = max(_SLACK, 2 * len(kept))
