"""Whether packs give the blobs that they and their index say, each to the byte.

Serves ``check``. Reads a pack once, however many lists have it. What it finds is told of the
pack: the blobs in it are there singly as well, and are checked as such.
"""

import tempfile
from collections.abc import Awaitable, Callable
from typing import BinaryIO

import trio

from aysfs import digest as digests
from aysfs.digest import Digest
from aysfs.errors import PackDamaged
from aysfs.pack import PackIndex, expand, head_size, read_head
from aysfs.pack.format import count_of
from aysfs.store.protocol import Sink

Fetch = Callable[[Digest, int, Sink], Awaitable[bool]]
"""Have a blob written to a sink; whether it came whole and is the right one."""


class PackCheck:
    """All packs of one check."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._heads: dict[Digest, Digest | None] = {}  # md5 of what each names, if it was had

    async def lying(self, index: PackIndex) -> tuple[list[Digest], bool]:
        """The packs that do not give the blobs that they name, and whether the index lies of any.

        One that is not there, or is another blob, is told by ``fetch``, and not again here.
        """
        bad, agrees = [], True
        for one in index.packs:
            blobs = index.blobs_of(one)
            if one.digest not in self._heads:
                try:
                    self._heads[one.digest] = await self._read(one.digest, one.size)
                except PackDamaged:
                    self._heads[one.digest] = None
                    bad.append(one.digest)
            head = self._heads[one.digest]
            agrees &= head is None or head == digests.of(blobs.encode())
        return bad, agrees

    async def _read(self, digest: Digest, size: int) -> Digest | None:
        """The md5 of a pack's columns; None when it could not be had. PackDamaged when it lies."""
        with tempfile.TemporaryFile(prefix="aysfs-") as file:
            if not await self._fetch(digest, size, _Spool(file)):
                return None
            return await trio.to_thread.run_sync(_verify, file, size, abandon_on_cancel=False)


class _Spool:
    """A temporary file as a sink."""

    def __init__(self, file: BinaryIO) -> None:
        self.write = file.write
        self._file = file

    def restart(self) -> None:
        self._file.seek(0)
        self._file.truncate()


def _verify(file: BinaryIO, size: int) -> Digest:
    """Expand every frame, and compare each with its digest."""
    file.seek(0)
    start = file.read(head_size(0))
    blobs = read_head(start + file.read(head_size(count_of(start)) - len(start)))
    if head_size(len(blobs)) + sum(blobs.stored) != size:
        raise PackDamaged("a pack that has not the size of its frames")
    for one in blobs:
        if digests.of(expand(file.read(one.stored), one.size)) != one.digest:
            raise PackDamaged(f"a frame that is not the blob {one.digest.hex()}")
    return digests.of(blobs.encode())
