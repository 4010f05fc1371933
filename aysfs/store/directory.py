"""A directory as a store: a local disk, or whatever the kernel mounts.

Serves whoever reads or publishes through the Store protocol. Both layouts are read
(``directory_read``), the plain one is written (``directory_write``). It must never wait in the
event loop for a disk that may be a network's.
"""

import os
from pathlib import Path

from aysfs.digest import Digest
from aysfs.errors import AysfsError
from aysfs.store import layout
from aysfs.store.directory_read import Reader
from aysfs.store.directory_write import Writer
from aysfs.store.in_threads import StoreInThreads
from aysfs.store.local import is_local

THREADS = 16  # as many blobs as a fetch service asks for at once: none waits for its turn here

# A blob of at most this size is read in the event loop where the disk is a local one: the way
# to a thread and back costs more than the reading. 4000 blobs of 4 KiB on ext4, page cache
# warm, into a sink that drops them: 10 to 12 us of CPU a blob, with the thread 160 to 210.
AT_HAND = 64 << 10


class DirectoryStore(StoreInThreads):
    """Blobs and lists below ``root/namespace``.

    Writing makes the namespace where it is missing, and the root only with ``create``: a
    missing root is more often a disk that is not mounted than a store that is new.
    """

    def __init__(
        self, root: Path, namespace: str = layout.DEFAULT_NAMESPACE, *, create: bool = False
    ) -> None:
        top = os.path.abspath(root)
        layout.check_namespace(namespace)
        self._files = Reader(top, namespace, create=create)
        writer = Writer(top, self._files, namespace, create=create)
        super().__init__(top, self._files, writer, threads=THREADS, group=1)
        # A namespace that is not there yet may be one on a network that is not mounted yet.
        self._local = is_local(f"{top}/{namespace}")

    def at_hand(self, digest: Digest, size: int) -> bytes | None:
        if size > AT_HAND or not self._local:
            return None
        try:
            return self._files.read_small(digest, size)
        except AysfsError:
            return None

    async def aclose(self) -> None:
        self._files.close()
