"""Which parts of which packs to ask a store for: what is planned, and nothing of how.

Serves the fetch service and whatever fetches ahead. Owns the indexes of the packs that are in use,
which of the packs are not believed any more, and how far a miss reaches to its neighbours. Nothing
here waits, asks a store or looks at a disk: whether a blob is wanted is for the caller to say.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from aysfs.digest import Digest
from aysfs.pack.index import PackIndex, PackInfo

Wanted = Callable[[Digest, int], bool]
"""Whether a blob of this digest and size is neither here nor on its way."""

# Stored bytes that a first miss in a pack takes along, and any further one. Importing numpy,
# pandas, django and sqlalchemy from tail packs over 50 ms and 100 Mbit/s takes 6.7 s with these
# bounds, the mount aside; 8.0 s with a quarter of the first, 7.1 s with four times the second, and
# 11.4 s when only what follows a miss is taken (a model of the line, and a recorded start).
FIRST_REACH = 512 << 10
LONGEST_REACH = 1 << 20

_LOOKS = 512  # blobs that are looked at in a row: each may be a stat(2)
# Frames in a segment, and in one that is a whole pack, where further ones are left to come singly:
# of tiny blobs each takes more memory here than it has bytes.
_MOST_FRAMES, _MOST_OF_ALL = 2048, 1 << 16


class Frame(NamedTuple):
    """A blob in a segment: ``start`` is where its frame begins there, ``stored`` its length."""

    digest: Digest
    size: int
    start: int
    stored: int


class Segment(NamedTuple):
    """Bytes of a pack that are asked for at once; the frames in it are those that are wanted."""

    pack: PackInfo
    start: int
    length: int
    frames: tuple[Frame, ...]


class Packs:
    """The packs of the services that are in use."""

    def __init__(self) -> None:
        self._indexes: list[PackIndex] = []
        self._distrusted: set[Digest] = set()
        self.whole_only = False
        """Whether the store gives no parts of a pack: a miss is no reason to fetch all of one."""
        self._reach: dict[Digest, int] = {}  # of the next miss in a pack

    def add(self, index: PackIndex) -> None:
        """Plan with these packs as well, until they are removed."""
        self._indexes.append(index)

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

    def around(self, digest: Digest, size: int, wanted: Wanted) -> "Around | None":
        """The blob and what lies next to it in a pack; None when it is in none.

        A start pack has what one start reads, in its order; a tail pack what lies in the same
        directories. A further miss in a pack reaches further.
        """
        if self.whole_only:
            return None
        for index in self._indexes:
            here = index.find(digest)
            if here is None or index.size(here) != size:
                continue
            pack = index.packs[index.pack(here)]
            if pack.digest in self._distrusted:
                continue
            reach = self._reach.get(pack.digest, FIRST_REACH)
            self._reach[pack.digest] = min(2 * reach, LONGEST_REACH)
            first, end = _window(index, pack, here, reach, wanted)
            last = _extent(index, end, here, reach, wanted)
            return Around(
                _segment(index, pack, here, last + 1), Course(self, index, first, end, wanted)
            )
        return None

    def course(self, index: PackIndex, *, start_pack_only: bool, wanted: Wanted) -> "Course":
        """A way through all packs of an index, or its start pack, from front to back."""
        end = index.packs[0].count if start_pack_only else len(index)
        return Course(self, index, 0, end, wanted)

    def is_trusted(self, pack: PackInfo) -> bool:
        """Whether a pack may be planned with."""
        return pack.digest not in self._distrusted


class Course:
    """Goes through blobs of an index once, and gives what is still wanted of them."""

    def __init__(
        self, packs: Packs, index: PackIndex, first: int, end: int, wanted: Wanted
    ) -> None:
        self._packs = packs
        self._index = index
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
        index = self._index
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
                return _whole(index, pack, self._wanted)
            else:
                reach = most - index.stored(here)
                end = min(self._end, pack.first + pack.count, here + _MOST_FRAMES)
                self._pass(_extent(index, end, here, reach, self._wanted) + 1)
                return _segment(index, pack, here, self._at)
        return None

    @property
    def is_over(self) -> bool:
        """Whether there is nothing more to come."""
        return self._at >= self._end

    def go_back(self, segment: Segment) -> None:
        """Come to the pack of a segment once more: what arrived of it is not wanted any more."""
        if self._at > segment.pack.first:
            self.passed -= self._index.length(segment.pack.first, self._at)
            self._at = segment.pack.first

    def _pass(self, to: int) -> None:
        to = min(to, self._end)
        self.passed += self._index.length(self._at, to)
        self._at = to


class Around(NamedTuple):
    """What a miss asks for: a segment that begins with it, and a way through what is left of its
    neighbourhood, for when that is on its way.
    """

    segment: Segment
    rest: Course


def _window(
    index: PackIndex, pack: PackInfo, here: int, reach: int, wanted: Wanted
) -> tuple[int, int]:
    """The nearest of a pack, on both sides in turns, until what is wanted of them is ``reach``."""
    first, end = here, here + 1
    left = reach
    for _ in range(_LOOKS):
        if left <= 0 or (first, end) == (pack.first, pack.first + pack.count):
            break
        if end < pack.first + pack.count:
            left -= _cost(index, end, wanted)
            end += 1
        if first > pack.first and left > 0:
            first -= 1
            left -= _cost(index, first, wanted)
    return first, end


def _cost(index: PackIndex, at: int, wanted: Wanted) -> int:
    return index.stored(at) if wanted(index.digest(at), index.size(at)) else 0


def _extent(index: PackIndex, end: int, here: int, reach: int, wanted: Wanted) -> int:
    """The last of the blobs after ``here`` that are wanted without a gap and within reach."""
    last = here
    while last + 1 < end:
        reach -= index.stored(last + 1)
        if reach < 0 or not wanted(index.digest(last + 1), index.size(last + 1)):
            break
        last += 1
    return last


def _segment(index: PackIndex, pack: PackInfo, first: int, end: int) -> Segment:
    """The frames from position ``first`` up to ``end``, which is not part of it."""
    start = index.offset(first)
    return Segment(
        pack,
        start,
        index.offset(end - 1) + index.stored(end - 1) - start,
        tuple(_frames(index, first, end, start)),
    )


def _whole(index: PackIndex, pack: PackInfo, wanted: Wanted) -> Segment:
    """All of a pack, for those of its blobs that are wanted."""
    frames = _frames(index, pack.first, pack.first + min(pack.count, _MOST_OF_ALL), 0)
    return Segment(pack, 0, pack.size, tuple(one for one in frames if wanted(one.digest, one.size)))


def _frames(index: PackIndex, first: int, end: int, start: int) -> Iterator[Frame]:
    for one in range(first, end):
        yield Frame(
            index.digest(one), index.size(one), index.offset(one) - start, index.stored(one)
        )
