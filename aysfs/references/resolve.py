"""The references between the blobs of one list.

Serves who makes packs. Owns what may be read, what of it is kept, and the order of the answers.
It reads no file: whoever has the blobs hands them in.
"""

from collections.abc import Iterable

from aysfs.digest import Digest
from aysfs.flist.entry import Entry

MOST = 255
"""References of one blob that are kept."""

Blob = tuple[Digest, int]
"""A digest and a size."""


class References:
    """What the blobs of a list refer to: read each of ``to_read()``, then ask.

    Not all need to be read, and in any order: a blob that was not has no references.
    """

    def __init__(self, entries: Iterable[Entry]) -> None:
        """Of the entries of the whole list, which are read once."""
        raise NotImplementedError

    def to_read(self) -> list[Blob]:
        """The blobs whose bytes say something, each once, in the order of the list."""
        raise NotImplementedError

    def read(self, digest: Digest, data: bytes) -> None:
        """Take the bytes of one of ``to_read()``; those of another blob say nothing."""
        raise NotImplementedError

    def finished(self) -> dict[Digest, tuple[Digest, ...]]:
        """The blobs that each blob refers to itself, in the order in which it will read them.

        At most ``MOST`` of them, each once, and never itself. A blob without any is not a key.
        """
        raise NotImplementedError

    def likely_start(self, most_blobs: int = 512, most_content: int = 64 << 20) -> list[Digest]:
        """What a start probably reads, in order: the programs, their loaders and libraries.

        Empty when this is more than so many blobs or so many bytes: then nobody knows.
        """
        raise NotImplementedError
