"""Where a miss leads: the blobs that will be read because this one is, by what they refer to.

Serves the planner. An index says which blobs each blob refers to, as a module does that imports
others (docs/format.md, "References"): that is a hint, and nobody has to be right.
"""

from collections.abc import Callable, Sequence

from aysfs.fetch.segment import MOST_FRAMES, Segment, Wanted, of_those
from aysfs.pack.index import PackIndex, PackInfo

Trusted = Callable[[PackInfo], bool]
"""Whether a pack may be planned with."""

# Importing numpy, pandas, django and sqlalchemy over 50 ms and 100 Mbit/s, 685 blobs in 38 MB of
# frames, leaves 18 misses with 16 MiB and with 32 MiB, 25 with 8 MiB (a model of the line, and a
# recorded start). All walks of that start together look at 3,000 blobs.
_MOST_STORED = 16 << 20  # bytes of frames that one walk leads to
_MOST_SEEN = 2048  # blobs that one walk looks at: each may be a stat(2)

_LOOKS = 512  # blobs that are looked at in a row
_GAP = 16 << 10  # bytes of frames that are not wanted and cost less than one more request


def lead(index: PackIndex, here: int, wanted: Wanted) -> list[int]:
    """The blobs that one leads to and that are wanted, in the order in which they will be read."""
    order: list[int] = []
    seen, left = {here}, _MOST_STORED
    path = [iter(index.references(here))]
    while path and left > 0 and len(seen) < _MOST_SEEN:
        at = next(path[-1], None)
        if at is None:
            path.pop()
        elif at not in seen:
            seen.add(at)
            path.append(iter(index.references(at)))
            if wanted(index.digest(at), index.size(at)):
                order.append(at)
                left -= index.stored(at)
    return order


class Trail:
    """Goes through blobs of an index in a given order, and gives what is still wanted of them.

    What lies next to each other in a pack comes in one segment, be it of a later turn.
    """

    def __init__(
        self, index: PackIndex, order: Sequence[int], wanted: Wanted, is_trusted: Trusted
    ) -> None:
        self.index = index
        self._order = order
        self._members = frozenset(order)
        self._wanted = wanted
        self._is_trusted = is_trusted
        self._next = 0

    @property
    def is_over(self) -> bool:
        """Whether there is nothing more to come."""
        return self._next >= len(self._order)

    def next(self, most: int) -> Segment | None:
        """Up to so many stored bytes, or one blob. None when nothing was wanted so far."""
        for _ in range(_LOOKS):
            if self.is_over:
                break
            at = self._order[self._next]
            self._next += 1
            pack = self.index.packs[self.index.pack(at)]
            if self._is_wanted(at) and self._is_trusted(pack):
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
