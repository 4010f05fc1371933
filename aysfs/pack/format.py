"""A pack: a head that names its blobs, then a zstd frame for each, and nothing else.

    0     "aysfspk1", version u32 (1), count u32
    16    count digests of 16 bytes; count sizes u64; count stored lengths u64
    ...   count frames

All numbers little-endian. A frame stands where the stored lengths before it add up to.
"""

import sys
from array import array
from collections.abc import Iterable, Iterator
from struct import Struct
from typing import NamedTuple

from aysfs.digest import SIZE, Digest
from aysfs.errors import PackDamaged
from aysfs.limits import LARGE
from aysfs.pack.frame import SHORTEST, longest

VERSION = 1
MAGIC = b"aysfspk1"
MAX_COUNT = 1 << 20
"""Blobs in one pack, so that its head has at most 32 MiB."""

_HEADER = Struct("<8sII")
_WIDTH = SIZE + 8 + 8  # of one blob in the three columns


class Entry(NamedTuple):
    """A blob of a pack: its digest, its size, and how long its frame is."""

    digest: Digest
    size: int
    stored: int


class Columns:
    """Blobs in the order of their frames; 24 bytes each, no object a blob."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self.digests = bytearray()
        self.sizes = array("I")
        self.stored = array("I")
        for one in entries:
            self.append(one)

    def append(self, one: Entry) -> None:
        """One blob more. PackDamaged when no pack can hold it."""
        _check(one.size, one.stored)
        self.digests += one.digest
        self.sizes.append(one.size)
        self.stored.append(one.stored)

    def extend(self, other: "Columns") -> None:
        """All blobs of another, behind these."""
        self.digests += bytes(other.digests)
        self.sizes += other.sizes
        self.stored += other.stored

    @classmethod
    def decode(cls, data: bytes | memoryview, count: int) -> "Columns":
        """From the three columns, which the data is long enough for; bytes behind them are left."""
        view = memoryview(data)
        found = cls()
        at = count * SIZE
        found.digests += view[:at]
        found.sizes = _numbers(view[at : at + 8 * count])
        found.stored = _numbers(view[at + 8 * count : at + 16 * count])
        for size, stored in zip(found.sizes, found.stored, strict=True):
            _check(size, stored)
        return found

    def part(self, first: int, count: int) -> "Columns":
        """So many of them, from one on."""
        found = Columns()
        found.digests += self.digests[first * SIZE : (first + count) * SIZE]
        found.sizes = self.sizes[first : first + count]
        found.stored = self.stored[first : first + count]
        return found

    def encode(self) -> bytes:
        """The three columns."""
        return b"".join((self.digests, _wide(self.sizes), _wide(self.stored)))

    def digest(self, at: int) -> Digest:
        """The digest of a blob, whose number is within the length."""
        return Digest(bytes(self.digests[at * SIZE : at * SIZE + SIZE]))

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, at: int) -> Entry:
        return Entry(self.digest(at), self.sizes[at], self.stored[at])

    def __iter__(self) -> Iterator[Entry]:
        return map(self.__getitem__, range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Columns) and self.encode() == other.encode()

    __hash__ = None  # type: ignore[assignment]  # it is mutable, and equal by content


def head_size(count: int) -> int:
    """Bytes before the first frame of a pack of so many blobs."""
    return _HEADER.size + count * _WIDTH


def write_pack(
    entries: Columns, frames: Iterable[bytes | memoryview]
) -> Iterator[bytes | memoryview]:
    """The bytes of a pack in pieces: its head and the frames, which are those of the entries."""
    if len(entries) > MAX_COUNT:
        raise PackDamaged(f"a pack of {len(entries)} blobs, and at most {MAX_COUNT} are allowed")
    yield _HEADER.pack(MAGIC, VERSION, len(entries)) + entries.encode()
    yield from frames


def read_head(data: bytes | memoryview) -> Columns:
    """The blobs that a pack names; ``data`` begins with its head. PackDamaged when it does not."""
    count = count_of(data)
    if len(data) < head_size(count):
        raise PackDamaged("the head of the pack is cut off")
    return Columns.decode(memoryview(data)[_HEADER.size :], count)


def count_of(data: bytes | memoryview) -> int:
    """How many blobs a pack has that begins with these 16 bytes."""
    if len(data) < _HEADER.size:
        raise PackDamaged("the head of the pack is cut off")
    magic, version, count = _HEADER.unpack_from(data)
    if magic != MAGIC or version != VERSION:
        raise PackDamaged("no pack of this version")
    if count > MAX_COUNT:
        raise PackDamaged(f"a pack that names {count} blobs, and at most {MAX_COUNT} are allowed")
    return int(count)


def _check(size: int, stored: int) -> None:
    if size > LARGE or not SHORTEST <= stored <= longest(size):
        raise PackDamaged(f"a blob of {size} bytes in a frame of {stored}")


def _numbers(column: memoryview) -> "array[int]":
    """A column of u64 that all fit into 32 bits."""
    wide = array("Q")
    wide.frombytes(column)
    if sys.byteorder == "big":
        wide.byteswap()
    try:
        return array("I", wide)
    except OverflowError as error:
        raise PackDamaged("a blob of 4 GiB or more in a pack") from error


def _wide(numbers: "array[int]") -> bytes:
    wide = array("Q", numbers)
    if sys.byteorder == "big":
        wide.byteswap()
    return wide.tobytes()
