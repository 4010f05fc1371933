"""A tree image that a store has, fetched into the cache instead of being compiled.

Serves ``load`` and the overlay engine. Owns what is fetched: both files as blobs, verified by md5
and by the sha256 of the note, and no more of them than an image of that list can be.
"""

import hashlib
import logging
from contextlib import ExitStack
from typing import BinaryIO

import trio

from aysfs import digest as digests
from aysfs.cache.images import CachedImage, ImageCache
from aysfs.cache.list_key import ListKey
from aysfs.cache.root import translated
from aysfs.errors import AysfsError, Corrupt
from aysfs.store.protocol import Store
from aysfs.store.tree_image import Part, PublishedImage

log = logging.getLogger(__name__)

# An entry takes 100 to 250 bytes in a list, and 190 bytes and its name in an image and its index,
# a directory of its own up to a block more. Whoever sends more than that sends no image.
_TIMES_LIST = 8
_AT_LEAST = 1 << 20


def origin_of(source: str) -> str:
    """The origin of what a store gave for a list of its own, by where that list is."""
    name = source.encode(errors="surrogateescape")
    return f"store-{hashlib.sha256(name).hexdigest()[:32]}"


async def take_image(
    images: ImageCache,
    key: ListKey,
    list_size: int,
    found: PublishedImage,
    store: Store,
    *,
    origin: str,
    deadline: float,
) -> CachedImage | None:
    """The image of which a store's note speaks, kept under an origin.

    None, and a line in the log, when it cannot be had within ``deadline`` seconds. Only whether
    both files are whole is checked, not whether they say what the list says.
    """
    if found.size > max(_TIMES_LIST * list_size, _AT_LEAST):
        log.info("%s: its image has %d bytes, too many for its list", store.label, found.size)
        return None
    try:
        with trio.move_on_after(deadline):
            return await _take(images, key, found, store, origin)
        log.info("%s: no image within %g s", store.label, deadline)
    except AysfsError as error:
        log.info("%s: its image is not used: %s", store.label, error)
    return None


async def _take(
    images: ImageCache, key: ListKey, found: PublishedImage, store: Store, origin: str
) -> CachedImage:
    opened = ExitStack()
    try:
        new = await trio.to_thread.run_sync(opened.enter_context, images.new(key, origin))
        for part, file in ((found.index, new.index), (found.image, new.image)):
            sink = _Sink(part, file)
            await store.get(part.digest, part.size, sink)
            sink.check_whole()
        return await trio.to_thread.run_sync(images.take, new, found.facts)
    except OSError as error:
        raise translated(error, images.folder.parent) from error
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(opened.close)


class _Sink:
    """Writes one of the files, and refuses all bytes but its own."""

    def __init__(self, part: Part, file: BinaryIO) -> None:
        self._part = part
        self._file = file
        self.restart()

    def write(self, data: bytes | memoryview, /) -> None:
        self._left -= len(data)
        if self._left < 0:
            raise self._wrong()
        self._md5.update(data)
        self._sha256.update(data)
        self._file.write(data)
        if not self._left:
            self.check_whole()  # here, where a store of several can make way for the next

    def restart(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._left = self._part.size
        self._md5, self._sha256 = digests.hasher(), hashlib.sha256()

    def check_whole(self) -> None:
        """Corrupt unless all bytes came."""
        found = (self._left, self._md5.digest(), self._sha256.hexdigest())
        if found != (0, self._part.digest, self._part.sha256):
            raise self._wrong()

    def _wrong(self) -> Corrupt:
        return Corrupt(f"{self._part.digest.hex()} has other bytes than the note of the image says")
