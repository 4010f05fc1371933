"""The index of a service's packs: which blob is where, for all packs at once.

Serves who reads blobs out of packs, and who looks after a store. One zstd frame of:

    0    "aysfsix1", version u32 (1), packs u32, flags u32, blobs u32
    24   for each pack: digest, size u64, count u32
    ...  the three columns of a pack's head, over the blobs of all packs in their order
    ...  with flag 2, what these refer to (``references``)

Flag 1: the first pack is the start pack; no other is known. All numbers are little-endian.
A million blobs take 36 MB, and 5 MB and their references: arrays, and no object for any of them.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from struct import Struct
from typing import NamedTuple

import zstandard

from aysfs.digest import SIZE, Digest
from aysfs.errors import PackDamaged
from aysfs.pack.expand import expand
from aysfs.pack.format import MAX_COUNT, Columns, head_size, read_head
from aysfs.pack.frame import compress
from aysfs.pack.references import MAX_REFERENCES, ReferenceColumns

VERSION = 1
MAX_BLOBS = 1 << 22
"""Blobs in all packs of one service. One with more keeps the rest outside of packs."""
MAX_PACKS = 1 << 16

_MAGIC = b"aysfsix1"
_HEADER = Struct("<8sIIII")
_PACK = Struct("<16sQI")
_WIDTH = SIZE + 8 + 8
_START = 1
_REFERENCES = 2
MAX_SIZE = _HEADER.size + MAX_PACKS * _PACK.size + MAX_BLOBS * (_WIDTH + 1) + MAX_REFERENCES * 4
"""Bytes of the largest index, expanded."""


@dataclass(frozen=True, slots=True)
class PackInfo:
    """A pack: its digest and size as a blob, its first blob's number, and how many it has."""

    digest: Digest
    size: int
    first: int
    count: int


class Pack(NamedTuple):
    """A pack to be put into an index: its digest and size as a blob, and what is in it."""

    digest: Digest
    size: int
    blobs: Columns


class PackIndex:
    """Packs and their blobs, which are numbered through in the order of the packs."""

    def __init__(
        self,
        packs: Sequence[PackInfo],
        blobs: Columns,
        *,
        has_start: bool,
        references: ReferenceColumns | None = None,
    ) -> None:
        """PackDamaged when the packs are not of these blobs."""
        self.packs = tuple(packs)
        self.has_start = has_start
        """Whether the first pack is the start pack."""
        self._blobs = blobs
        self._references = references
        self._firsts = array("I", (one.first for one in self.packs))
        # Where each frame would be if all were in one file.
        self._ends = array("Q", accumulate(blobs.stored, initial=0))
        self._check()

    @classmethod
    def join(
        cls,
        packs: Iterable[Pack],
        *,
        has_start: bool,
        references: Mapping[Digest, Sequence[Digest]] | None = None,
    ) -> "PackIndex":
        """The index of these packs, with what blobs in them refer to where that is known."""
        infos, blobs = [], Columns()
        for one in packs:
            infos.append(PackInfo(one.digest, one.size, len(blobs), len(one.blobs)))
            blobs.extend(one.blobs)
        columns = None if references is None else ReferenceColumns.of(blobs, references)
        return cls(infos, blobs, has_start=has_start, references=columns)

    @classmethod
    def of_pack(cls, info: PackInfo, head: bytes | memoryview) -> "PackIndex":
        """The index of a start pack alone, whose bytes begin with ``head``."""
        blobs = read_head(head)
        if len(blobs) != info.count:
            raise PackDamaged(f"a pack of {len(blobs)} blobs where {info.count} were promised")
        return cls([replace(info, first=0)], blobs, has_start=True)

    @classmethod
    def decode(cls, data: bytes | memoryview) -> "PackIndex":
        """From the bytes of an index blob. PackDamaged for anything that is none."""
        try:
            size = zstandard.frame_content_size(data)
        except zstandard.ZstdError as error:
            raise PackDamaged(f"the index of packs is damaged: {error}") from error
        if size < 0:
            raise PackDamaged("the index of packs does not say how large it is")
        return cls._read(memoryview(expand(data, size, limit=MAX_SIZE)))

    @classmethod
    def _read(cls, data: memoryview) -> "PackIndex":
        if len(data) < _HEADER.size:
            raise PackDamaged("the index of packs is cut off")
        magic, version, packs, flags, blobs = _HEADER.unpack_from(data)
        if magic != _MAGIC or version != VERSION or flags & ~(_START | _REFERENCES):
            raise PackDamaged("no index of packs of this version")
        if packs > MAX_PACKS or blobs > MAX_BLOBS:
            raise PackDamaged(f"an index of packs that names {blobs} blobs in {packs} packs")
        columns = _HEADER.size + packs * _PACK.size
        end = columns + blobs * _WIDTH
        if len(data) < end or (len(data) > end and not flags & _REFERENCES):
            raise PackDamaged("the index of packs has not the length that it names")
        infos, first = [], 0
        for digest, size, count in _PACK.iter_unpack(data[_HEADER.size : columns]):
            infos.append(PackInfo(Digest(digest), size, first, count))
            first += count
            if first > blobs:
                raise PackDamaged("the index of packs counts blobs that it does not name")
        return cls(
            infos,
            Columns.decode(data[columns:end], blobs),
            has_start=bool(flags & _START),
            references=ReferenceColumns.decode(data[end:], blobs) if flags & _REFERENCES else None,
        )

    def encode(self) -> bytes:
        """The bytes of the index blob."""
        flags = (_START if self.has_start else 0) | (_REFERENCES if self.has_references else 0)
        parts = [_HEADER.pack(_MAGIC, VERSION, len(self.packs), flags, len(self))]
        parts += [_PACK.pack(one.digest, one.size, one.count) for one in self.packs]
        parts.append(self._blobs.encode())
        if self._references is not None:
            parts.append(self._references.encode())
        return compress(b"".join(parts))

    def __len__(self) -> int:
        """Blobs in all packs."""
        return len(self._blobs)

    def sort(self) -> "PackIndex":
        """Have all ready for ``find``: for a million blobs half a second, which the first pays."""
        self._sorted  # noqa: B018 - it is kept
        return self

    def find(self, digest: Digest) -> int | None:
        """The number of a blob; None when it is in no pack."""
        order, starts = self._sorted
        low, high = starts[digest[0]], starts[digest[0] + 1]
        at = bisect_left(order, digest, low, high, key=self._blobs.digest)
        return order[at] if at < high and self.digest(order[at]) == digest else None

    def digest(self, at: int) -> Digest:
        """The digest of a blob."""
        return self._blobs.digest(at)

    def size(self, at: int) -> int:
        """Bytes of a blob."""
        return self._blobs.sizes[at]

    def stored(self, at: int) -> int:
        """Bytes of its frame."""
        return self._blobs.stored[at]

    def offset(self, at: int) -> int:
        """Where its frame begins in its pack."""
        info = self.packs[self.pack(at)]
        return head_size(info.count) + self._ends[at] - self._ends[info.first]

    @property
    def has_references(self) -> bool:
        """Whether somebody looked for references, be it that there are none."""
        return self._references is not None

    @property
    def leads_anywhere(self) -> bool:
        """Whether any blob refers to another."""
        return self._references is not None and self._references.count > 0

    def references(self, at: int) -> Sequence[int]:
        """The numbers of the blobs that a blob refers to, in the order to read them: hints."""
        return () if self._references is None else self._references[at]

    def pack(self, at: int) -> int:
        """Which pack a blob is in."""
        return bisect_right(self._firsts, at) - 1

    def length(self, first: int, end: int) -> int:
        """Bytes of the frames from one number up to another, which is not part of it."""
        return self._ends[end] - self._ends[first]

    def blobs_of(self, pack: PackInfo) -> Columns:
        """The blobs of one pack, as its head has them."""
        return self._blobs.part(pack.first, pack.count)

    @cached_property
    def _sorted(self) -> tuple["array[int]", "array[int]"]:
        """All numbers by digest, and where in them each first byte of a digest begins."""
        buckets = [array("I") for _ in range(256)]
        for at, first in enumerate(self._blobs.digests[::SIZE]):
            buckets[first].append(at)
        order = array("I")
        for bucket in buckets:
            order.extend(sorted(bucket, key=self._blobs.digest))
        return order, array("I", accumulate(map(len, buckets), initial=0))

    def _check(self) -> None:
        if len(self) > MAX_BLOBS or len(self.packs) > MAX_PACKS:
            raise PackDamaged(
                f"an index of {len(self)} blobs in {len(self.packs)} packs, and at most"
                f" {MAX_BLOBS} in {MAX_PACKS} are allowed"
            )
        if self.has_start and not self.packs:
            raise PackDamaged("an index whose start pack is not there")
        end = 0
        for one in self.packs:
            if one.first != end or not 0 < one.count <= MAX_COUNT:
                raise PackDamaged("an index whose packs do not follow each other")
            end += one.count
            if end > len(self):
                break
            frames = self._ends[end] - self._ends[one.first]
            if one.size != head_size(one.count) + frames:
                raise PackDamaged(f"the pack {one.digest.hex()} has not the size of its frames")
        if end != len(self) or (self._references is not None and len(self._references) != end):
            raise PackDamaged("an index that counts other blobs than it names")
