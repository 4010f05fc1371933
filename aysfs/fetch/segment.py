"""Bytes of a pack that are asked for at once, and the frames in them.

Serves who plans and who carries. Pure: positions of blobs in an index become ranges of bytes.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from aysfs.digest import Digest
from aysfs.pack.index import PackIndex, PackInfo

Wanted = Callable[[Digest, int], bool]
"""Whether a blob of this digest and size is neither here nor on its way."""

# Frames in a segment, and in one that is a whole pack, where further ones are left to come singly:
# of tiny blobs each takes more memory here than it has bytes.
MOST_FRAMES, _MOST_OF_ALL = 2048, 1 << 16


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


def part(index: PackIndex, pack: PackInfo, first: int, end: int) -> Segment:
    """The frames from position ``first`` up to ``end``, which is not part of it; all are wanted."""
    return of_those(index, pack, range(first, end))


def of_those(index: PackIndex, pack: PackInfo, wanted: Iterable[int]) -> Segment:
    """The frames at these positions, which rise, and the bytes between them."""
    positions = list(wanted)
    start, last = index.offset(positions[0]), positions[-1]
    length = index.offset(last) + index.stored(last) - start
    return Segment(pack, start, length, _frames(index, positions, start))


def whole(index: PackIndex, pack: PackInfo, wanted: Wanted) -> Segment:
    """All of a pack, for those of its blobs that are wanted."""
    most = range(pack.first, pack.first + min(pack.count, _MOST_OF_ALL))
    positions = [at for at in most if wanted(index.digest(at), index.size(at))]
    return Segment(pack, 0, pack.size, _frames(index, positions, 0))


def _frames(index: PackIndex, positions: Iterable[int], start: int) -> tuple[Frame, ...]:
    return tuple(
        Frame(index.digest(at), index.size(at), index.offset(at) - start, index.stored(at))
        for at in positions
    )
