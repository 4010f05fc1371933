"""The blocks of a directory: records, names, and which of them share a block."""

import struct
from collections.abc import Sequence
from itertools import accumulate, chain
from typing import NamedTuple

from aysfs.errors import ImageRefused
from aysfs.image import erofs
from aysfs.image.erofs import BLOCK


class Part(NamedTuple):
    """Entries of a directory that share a block, and its length without what pads it."""

    start: int
    end: int
    size: int


def split(names: Sequence[bytes]) -> list[Part]:
    """A directory's entries in blocks, in the order of their names throughout.

    ImageRefused for a name that no list may hold and the kernel would take for damage.
    """
    if max(map(len, names)) > erofs.MAX_NAME:
        raise ImageRefused(f"a name of {max(map(len, names))} bytes, over {erofs.MAX_NAME}")
    record = erofs.DIRENT.size
    total = record * len(names) + sum(map(len, names))
    if total <= BLOCK:
        return [Part(0, len(names), total)]
    parts, start, size = [], 0, 0
    for at, name in enumerate(names):
        if size + record + len(name) > BLOCK:
            parts.append(Part(start, at, size))
            start, size = at, 0
        size += record + len(name)
    return [*parts, Part(start, len(names), size)]


def dirents(names: Sequence[bytes], nids: Sequence[int], types: Sequence[int]) -> bytes:
    """A block of a directory: the records, then the names."""
    places = accumulate(map(len, names), initial=erofs.DIRENT.size * len(names))
    fields = chain.from_iterable(zip(nids, places, types, strict=False))
    records = struct.pack("<" + erofs.DIRENT.format[1:] * len(names), *fields)
    return records + b"".join(names)
