"""Which parts of which packs to ask a store for: what is planned, and nothing of how.

Serves the fetch service and whatever fetches ahead. Owns the indexes of the packs that are in use,
which of the packs are not believed any more, and how far a miss reaches to its neighbours. Nothing
here waits, asks a store or looks at a disk: whether a blob is wanted is for the caller to say.
"""

from collections.abc import Collection
from itertools import chain
from typing import NamedTuple

from aysfs.digest import Digest
from aysfs.fetch.segment import MOST_FRAMES, Segment, Wanted, part, whole
from aysfs.fetch.trail import Trail, leads, near
from aysfs.pack.index import PackIndex, PackInfo

# Stored bytes that a first miss in a pack takes along, and any further one. Importing numpy,
# pandas, django and sqlalchemy from tail packs over 50 ms and 100 Mbit/s takes 6.7 s with these
# bounds, the mount aside; 8.0 s with a quarter of the first, 7.1 s with four times the second, and
# 11.4 s when only what follows a miss is taken (a model of the line, and a recorded start).
FIRST_REACH = 512 << 10
LONGEST_REACH = 1 << 20
# The first one where it is known what blobs refer to, and 16 MiB of that come anyway: 4.9 s, the
# mount aside. Half of it takes 0.15 s longer, and four times as much 0.13 s.
LED_REACH = 128 << 10

_LOOKS = 512  # blobs that are looked at in a row: each may be a stat(2)


class Packs:
    """The packs of the services that are in use."""

    def __init__(self) -> None:
        self._indexes: list[PackIndex] = []
        self._distrusted: set[Digest] = set()
        self.whole_only = False
        """Whether the store gives no parts of a pack: a miss is no reason to fetch all of one."""
        self._reach: dict[Digest, int] = {}  # of the next miss in a pack

    def add(self, index: PackIndex) -> None:
        """Plan with these packs as well, until they are removed.

        Before others that have the same blobs: a start pack's own head says less than the index.
        """
        self._indexes.insert(0, index)

    def remove(self, index: PackIndex) -> None:
        """Plan with them no more."""
        self._indexes.remove(index)
        for pack in index.packs:
            self._reach.pop(pack.digest, None)

    def distrust(self, pack: Digest) -> bool:
        """Plan with a pack no more: it is not what its index says. Whether that is news."""
        is_news = pack not in self._distrusted
        self._distrusted.add(pack)
        return is_news

    def alone(self, digest: Digest, size: int, indexes: Collection[PackIndex]) -> Segment | None:
        """The blob out of a pack of one of these indexes; None when it is in none."""
        found = self._find(digest, size) if indexes else None
        return part(*found, found[2] + 1) if found and found[0] in indexes else None

    def around(self, digest: Digest, size: int, wanted: Wanted) -> "Around | None":
        """The blob and what will be read with it, out of packs; None when it is in none.

        That is what it leads to, as far as the index knows, and what lies next to it: a start pack
        has what one start reads, in its order, a tail pack what lies in the same directories. A
        further miss in a pack reaches further.
        """
        found = self._find(digest, size)
        if found is None:
            return None
        index, pack, here = found
        reach = self._further(pack, LED_REACH if index.leads_anywhere else FIRST_REACH)
        end = min(pack.first + pack.count, here + MOST_FRAMES)
        last = _extent(index, end, here, reach // 2, wanted)
        segment = part(index, pack, here, last + 1)
        left = reach - segment.length
        others = chain(leads(index, here, wanted), near(index, here, left, wanted))
        return Around(segment, Trail(index, others, wanted, self.gives_parts))

    def _find(self, digest: Digest, size: int) -> tuple[PackIndex, PackInfo, int] | None:
        """A pack that has the blob and may be asked for parts, and the blob's position."""
        if self.whole_only:
            return None
        for index in self._indexes:
            here = index.find(digest)
            if here is not None and index.size(here) == size:
                pack = index.packs[index.pack(here)]
                if self.is_trusted(pack):
                    return index, pack, here
        return None

    def _further(self, pack: PackInfo, first: int) -> int:
        """How far a miss in a pack reaches; the next one reaches further."""
        reach = self._reach.get(pack.digest, first)
        self._reach[pack.digest] = min(2 * reach, LONGEST_REACH)
        return reach

    def course(self, index: PackIndex, *, start_pack_only: bool, wanted: Wanted) -> "Course":
        """A way through all packs of an index, or its start pack, from front to back."""
        end = index.packs[0].count if start_pack_only else len(index)
        return Course(self, index, 0, end, wanted)

    def gives_parts(self, pack: PackInfo) -> bool:
        """Whether parts of a pack may be planned with."""
        return not self.whole_only and self.is_trusted(pack)

    def is_trusted(self, pack: PackInfo) -> bool:
        """Whether a pack may be planned with."""
        return pack.digest not in self._distrusted


class Course:
    """Goes through blobs of an index once, and gives what is still wanted of them."""

    def __init__(
        self, packs: Packs, index: PackIndex, first: int, end: int, wanted: Wanted
    ) -> None:
        self._packs = packs
        self.index = index
        self._at = first
        self._end = end
        self._wanted = wanted
        self.total = index.length(first, end)
        """Stored bytes of the whole way."""
        self.passed = 0
        self._lost = 0  # in packs that are not trusted

    def take_lost(self) -> int:
        """Stored bytes that were passed since the last time because their packs are not trusted."""
        lost, self._lost = self._lost, 0
        return lost

    def next(self, most: int) -> Segment | None:
        """Up to so many stored bytes, or one blob; a whole pack where the store gives no parts.

        None when nothing was wanted so far: at the end, or others should run in between.
        """
        index = self.index
        for _ in range(_LOOKS):
            if self.is_over:
                break
            here = self._at
            pack = index.packs[index.pack(here)]
            if not self._packs.is_trusted(pack):
                before = self.passed
                self._pass(pack.first + pack.count)
                self._lost += self.passed - before
            elif not self._wanted(index.digest(here), index.size(here)):
                self._pass(here + 1)
            elif self._packs.whole_only:
                self._pass(pack.first + pack.count)
                return whole(index, pack, self._wanted)
            else:
                reach = most - index.stored(here)
                end = min(self._end, pack.first + pack.count, here + MOST_FRAMES)
                self._pass(_extent(index, end, here, reach, self._wanted) + 1)
                return part(index, pack, here, self._at)
        return None

    @property
    def is_over(self) -> bool:
        """Whether there is nothing more to come."""
        return self._at >= self._end

    def go_back(self, segment: Segment) -> None:
        """Come to the pack of a segment once more: what arrived of it is not wanted any more."""
        if self._at > segment.pack.first:
            self.passed -= self.index.length(segment.pack.first, self._at)
            self._at = segment.pack.first

    def _pass(self, to: int) -> None:
        to = min(to, self._end)
        self.passed += self.index.length(self._at, to)
        self._at = to


class Around(NamedTuple):
    """What a miss asks for: a segment that begins with it, and a way through what is left of its
    neighbourhood, for when that is on its way.
    """

    segment: Segment
    rest: Trail


def _extent(index: PackIndex, end: int, here: int, reach: int, wanted: Wanted) -> int:
    """The last of the blobs after ``here`` that are wanted without a gap and within reach."""
    last = here
    while last + 1 < end:
        reach -= index.stored(last + 1)
        if reach < 0 or not wanted(index.digest(last + 1), index.size(last + 1)):
            break
        last += 1
    return last
