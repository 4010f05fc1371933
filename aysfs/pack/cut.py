"""Which blobs lie together: their order, and where one pack ends and the next begins.

Serves who makes packs. The files of one directory lie together, since whoever reads one of them
will read others. Where a pack ends is said by the blobs around the place and by nothing else, so
that a list in which one file changed has the same packs but for one or two.
"""

from collections.abc import Iterable

from aysfs.digest import Digest
from aysfs.flist.entry import Entry as ListEntry
from aysfs.flist.entry import Kind
from aysfs.limits import LARGE

LEAST = 1 << 20
MOST = 8 << 20
MOST_CONTENT = 256 << 20
"""Bytes of blobs after which a pack ends however short its frames are, or are said to be."""
_BETWEEN = 3 << 20
"""Bytes of frames from the least of a pack to its end, on average: so a pack has about 4 MiB."""

Blob = tuple[Digest, int]
"""A digest and a size."""


def in_order(entries: Iterable[ListEntry]) -> list[Blob]:
    """The small blobs of a list, each once, by directory and name of the first path that has it."""
    first: dict[Digest, tuple[bytes, bytes, int]] = {}
    for entry in entries:
        if entry.kind is Kind.REGULAR and entry.size <= LARGE and entry.digest not in first:
            directory, _, name = entry.path.rpartition(b"/")
            first[entry.digest] = directory, name, entry.size
    placed = sorted(first.items(), key=_place)
    return [(digest, size) for digest, (_, _, size) in placed]


def _place(one: tuple[Digest, tuple[bytes, bytes, int]]) -> tuple[bytes, bytes]:
    return one[1][:2]


def goes_in(held: int, stored: int) -> bool:
    """Whether a frame of so many bytes goes into a pack that holds so many, or begins the next."""
    return held < LEAST or held + stored <= MOST


def is_last(held: int, content: int, digest: Digest, stored: int) -> bool:
    """Whether a pack ends with a blob, which is counted in what it holds, of frames and of content.

    The larger its frame the likelier it is, so that packs of large and of small files are alike.
    """
    if content >= MOST_CONTENT or held >= MOST:
        return True
    return held >= LEAST and int.from_bytes(digest[:8]) * _BETWEEN < stored << 64
