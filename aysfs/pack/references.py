"""What each blob of an index refers to: the numbers of the blobs that whoever reads it reads next.

Serves the index of packs, which has these columns behind its own (docs/format.md, "Packs"):

    0    for each blob: how many it refers to, u8
    ...  the numbers of these, u32 little-endian, of all blobs in their order

A reference is a hint. They are what somebody found in the bytes of blobs, in the order in which
they are likely to be read; one may lead in a circle, or to nothing that is ever read. Arrays: five
bytes a blob and four a reference.
"""

import sys
from array import array
from collections.abc import Mapping, Sequence
from itertools import accumulate

from aysfs.digest import Digest
from aysfs.errors import PackDamaged
from aysfs.pack.format import Columns

MOST = 255
"""Blobs that one refers to."""
MAX_REFERENCES = 1 << 24
"""References of all blobs of an index, 64 MiB of them. A writer leaves out those of the last."""


class ReferenceColumns:
    """The references of the blobs of an index, which are numbers below their count."""

    def __init__(self, counts: bytes, targets: "array[int]") -> None:
        """PackDamaged for numbers that no blob has, or too many."""
        if len(targets) > MAX_REFERENCES:
            raise PackDamaged(
                f"an index of {len(targets)} references, and at most {MAX_REFERENCES} are allowed"
            )
        if targets and max(targets) >= len(counts):
            raise PackDamaged("an index whose references lead to blobs that it does not name")
        self._counts = counts
        self._targets = targets
        self._ends = array("I", accumulate(counts, initial=0))
        if self._ends[-1] != len(targets):
            raise PackDamaged("an index that counts other references than it has")

    @classmethod
    def decode(cls, data: memoryview, blobs: int) -> "ReferenceColumns":
        """From just these bytes, for so many blobs. PackDamaged for any others."""
        counts = bytes(data[:blobs])
        if len(counts) != blobs or len(data) != blobs + 4 * sum(counts):
            raise PackDamaged("the index of packs has not the length that it names")
        return cls(counts, _little(array("I", bytes(data[blobs:]))))

    @classmethod
    def of(
        cls, blobs: Columns, references: Mapping[Digest, Sequence[Digest]]
    ) -> "ReferenceColumns":
        """Those of these blobs to these blobs, the first ``MOST`` of each; others are left out."""
        known = references.keys() | {one for some in references.values() for one in some}
        numbers: dict[Digest, int] = {}
        for at in range(len(blobs)):
            digest = blobs.digest(at)
            if digest in known:
                numbers.setdefault(digest, at)
        counts, targets = bytearray(len(blobs)), array("I")
        for digest, at in numbers.items():
            found = [numbers[one] for one in references.get(digest, ()) if one in numbers][:MOST]
            if len(targets) + len(found) > MAX_REFERENCES:
                break
            counts[at] = len(found)
            targets.extend(found)
        return cls(bytes(counts), targets)

    def encode(self) -> bytes:
        """The two columns."""
        return self._counts + _little(self._targets[:]).tobytes()

    @property
    def count(self) -> int:
        """References of all blobs together."""
        return len(self._targets)

    def __len__(self) -> int:
        """Blobs, whether or not they refer to anything."""
        return len(self._counts)

    def __getitem__(self, at: int) -> Sequence[int]:
        """The numbers of what a blob refers to, in order. Its own number is within the length."""
        return self._targets[self._ends[at] : self._ends[at + 1]]


def _little(numbers: "array[int]") -> "array[int]":
    """The array, in its own bytes or turned round: it is changed."""
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers
