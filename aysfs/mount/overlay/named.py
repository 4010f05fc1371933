"""Which blobs the lists of a mount name: the digest indexes beside their tree images, mapped."""

import mmap
from collections.abc import Sequence
from contextlib import ExitStack

from aysfs.digest import Digest
from aysfs.image import DigestIndex
from aysfs.mount.overlay.plan import Compiled


class Indexes:
    """The indexes of one mount, the list that was named first asked first. Close it when done."""

    def __init__(self, lists: Sequence[Compiled]) -> None:
        """OSError or ImageDamaged when one cannot be used."""
        self._lists = lists
        self._indexes: list[DigestIndex] = []
        with ExitStack() as opened:
            for one in lists:
                with open(one.index, "rb") as file:
                    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                opened.callback(mapped.close)
                index = DigestIndex(memoryview(mapped))
                opened.callback(index.close)
                self._indexes.append(index)
            self._opened = opened.pop_all()

    def close(self) -> None:
        """Let go of the files."""
        self._indexes.clear()
        self._opened.close()

    def size_of(self, digest: Digest) -> int | None:
        """The size of a blob that the lists name, else None."""
        for index in self._indexes:
            record = index.find(digest)
            if record is not None:
                return record.size
        return None

    def path_of(self, digest: Digest) -> str:
        """A path in the lists that names the blob."""
        return digest.hex()
