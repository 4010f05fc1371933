"""Which blobs the lists of a mount name: their tree images and digest indexes, mapped."""

import mmap
import os
from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple

from aysfs.digest import Digest
from aysfs.errors import ImageDamaged
from aysfs.image import DigestIndex, ImageTree
from aysfs.mount.overlay.plan import Compiled


class _List(NamedTuple):
    digests: DigestIndex
    tree: ImageTree


class Indexes:
    """What the lists of one mount name, the first named asked first. Close it when done."""

    def __init__(self, lists: Sequence[Compiled]) -> None:
        """OSError or ImageDamaged when one cannot be used."""
        self._lists: list[_List] = []
        with ExitStack() as opened:
            for one in lists:
                index_map = _mapped(one.index)
                opened.callback(index_map.close)
                index = DigestIndex(memoryview(index_map))
                opened.callback(index.close)
                tree = open_image(one)
                opened.callback(tree.close)
                self._lists.append(_List(index, tree))
            self._opened = opened.pop_all()

    def close(self) -> None:
        """Let go of the files."""
        self._lists.clear()
        self._opened.close()

    def size_of(self, digest: Digest) -> int | None:
        """The size of a blob that the lists name, else None."""
        for index, _ in self._lists:
            record = index.find(digest)
            if record is not None:
                return record.size
        return None

    def path_of(self, digest: Digest) -> str:
        """A path in the lists that names the blob, as text for people."""
        for index, tree in self._lists:
            record = index.find(digest)
            if record is not None:
                try:
                    path = tree.path_of(record.directory, record.ordinal)
                except ImageDamaged:
                    break
                return path.decode(errors="backslashreplace")
        return digest.hex()


def open_image(one: Compiled) -> ImageTree:
    """The tree of a compiled list as the mount shows it; PathMissing when it has no such base."""
    return ImageTree(_mapped(one.image), source=one.source, base=os.fsencode(one.base))


def _mapped(path: str) -> mmap.mmap:
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
