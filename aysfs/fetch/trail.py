"""Where a miss leads: the blobs that will be read because this one is, by what they refer to.

Serves the planner. An index says which blobs each blob refers to, as a module does that imports
others (docs/format.md, "References"): that is a hint, and nobody has to be right.
"""

from collections.abc import Callable, Iterator
from itertools import islice, zip_longest

from aysfs.fetch.segment import MOST_FRAMES, Segment, Wanted, of_those
from aysfs.pack.index import PackIndex, PackInfo

GivesParts = Callable[[PackInfo], bool]
"""Whether parts of a pack may be planned with."""

# Importing numpy, pandas, django and sqlalchemy over 50 ms and 100 Mbit/s, 685 blobs in 38 MB of
# frames, leaves 18 misses with 16 MiB and with 32 MiB, 25 with 8 MiB (a model of the line, and a
# recorded start). All walks of that start together look at 3,000 blobs.
_MOST_STORED = 16 << 20  # bytes of frames that one walk leads to
_MOST_SEEN = 2048  # blobs that one walk looks at: each may be a stat(2)

# Blobs that are looked at in a row: first few, as the request for the miss itself takes some turns
# of the event loop until it is on the line, then more, up to half a millisecond.
_FEWEST_LOOKS, _MOST_LOOKS = 4, 64
_GAP = 16 << 10  # bytes of frames that are not wanted and cost less than one more request

Found = Iterator[int | None]
"""Positions of blobs that are wanted, as they are found; None for one that is not."""


def leads(index: PackIndex, here: int, wanted: Wanted) -> Found:
    """What a blob leads to, depth first: the order in which a program would read it."""
    seen, left, again = {here}, _MOST_STORED, 0
    path = [iter(index.references(here))]
    while path and left > 0 and len(seen) < _MOST_SEEN:
        at = next(path[-1], None)
        if at is None:
            path.pop()
        elif at not in seen:
            seen.add(at)
            path.append(iter(index.references(at)))
            if wanted(index.digest(at), index.size(at)):
                left -= index.stored(at)
                yield at
            else:
                yield None
        else:
            again += 1
            if again % _MOST_LOOKS == 0:  # 2048 blobs may refer to each other half a million times
                yield None


def near(index: PackIndex, here: int, reach: int, wanted: Wanted) -> Found:
    """The nearest in its pack, on both sides in turns, up to so many stored bytes."""
    pack = index.packs[index.pack(here)]
    after = iter(range(here + 1, pack.first + pack.count))
    before = iter(range(here - 1, pack.first - 1, -1))
    for at in islice(_in_turns(after, before), _MOST_SEEN):
        if not wanted(index.digest(at), index.size(at)):
            yield None
            continue
        yield at
        reach -= index.stored(at)
        if reach <= 0:
            break


def _in_turns(*some: Iterator[int]) -> Iterator[int]:
    for both in zip_longest(*some):
        yield from (at for at in both if at is not None)


class Trail:
    """Goes through what was found beside a miss, and gives what is still wanted of it.

    What lies next to each other in a pack comes in one segment, be it of a later turn.
    """

    def __init__(
        self, index: PackIndex, found: Found, wanted: Wanted, gives_parts: GivesParts
    ) -> None:
        self.index = index
        self._found: Found | None = found  # until all is
        self._order: list[int] = []
        self._members: frozenset[int] = frozenset()
        self._wanted = wanted
        self._gives_parts = gives_parts
        self._next = 0
        self._looks = _FEWEST_LOOKS

    @property
    def is_over(self) -> bool:
        """Whether there is nothing more to come."""
        return self._found is None and self._next >= len(self._order)

    def look(self) -> bool:
        """Find a little more of it; whether all is found. Between two times others should run."""
        if self._found is not None:
            looks, self._looks = self._looks, min(2 * self._looks, _MOST_LOOKS)
            for _ in range(looks):
                try:
                    at = next(self._found)
                except StopIteration:
                    self._found = None
                    self._members = frozenset(self._order)
                    break
                if at is not None:
                    self._order.append(at)
        return self._found is None

    def next(self, most: int) -> Segment | None:
        """Of what is found, up to so many stored bytes, or one blob.

        None when nothing was wanted so far: at the end, or others should run in between.
        """
        for _ in range(_MOST_LOOKS):
            if self.is_over:
                break
            at = self._order[self._next]
            self._next += 1
            pack = self.index.packs[self.index.pack(at)]
            if self._is_wanted(at) and self._gives_parts(pack):
                return of_those(self.index, pack, self._with_neighbours(at, pack, most))
        return None

    def _with_neighbours(self, here: int, pack: PackInfo, most: int) -> list[int]:
        """The blob, and its neighbours on both sides that will be wanted as well."""
        left = most - self.index.stored(here)
        after = self._run(range(here + 1, pack.first + pack.count), left)
        if after:
            left -= self.index.length(here + 1, after[-1] + 1)
        before = self._run(range(here - 1, pack.first - 1, -1), left)
        return [*reversed(before), here, *after]

    def _run(self, positions: range, most: int) -> list[int]:
        """Those of the positions that are wanted, up to the first gap that is too long."""
        run: list[int] = []
        between: list[int] = []  # wanted by nobody; they come along if somebody behind them is
        gap = 0
        for at in positions[: MOST_FRAMES // 2]:
            stored = self.index.stored(at)
            most -= stored
            if most < 0:
                break
            if at in self._members and self._is_wanted(at):
                run += [*filter(self._is_wanted, between), at]
                between.clear()
                gap = 0
                continue
            between.append(at)
            gap += stored
            if gap > _GAP:
                break
        return run

    def _is_wanted(self, at: int) -> bool:
        return self._wanted(self.index.digest(at), self.index.size(at))
