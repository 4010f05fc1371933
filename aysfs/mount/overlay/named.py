"""The lists of a mount, compiled and open: which blobs they name, how large, and by which path."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from aysfs.cache.images import CachedImage, ImageCache
from aysfs.chunks import Chunks
from aysfs.digest import Digest
from aysfs.errors import ImageDamaged
from aysfs.image import ImageTree
from aysfs.mount.overlay.plan import ShownList
from aysfs.tree import Blob


class OpenedLists:
    """Images and indexes, the list that was named first asked first. Close it when done."""

    def __init__(self, images: Sequence[CachedImage], bases: Sequence[bytes]) -> None:
        """Takes the images over. PathMissing when one has no directory of its base."""
        self._images = images
        self._trees: list[ImageTree] = []
        with ExitStack() as undo:
            for image in images:
                undo.callback(image.close)
            for image, base in zip(images, bases, strict=True):
                self._trees.append(image.tree(base))
            self._close = undo.pop_all()

    def close(self) -> None:
        """Let go of the files."""
        self._close.close()

    @property
    def images(self) -> Sequence[CachedImage]:
        """The images, in order."""
        return self._images

    @property
    def trees(self) -> list[ImageTree]:
        """What each list shows."""
        return self._trees

    @property
    def outside(self) -> int:
        """Entries that lie outside their base and are not shown, as far as they were counted."""
        pairs = zip(self._images, self._trees, strict=True)
        return sum(image.facts.outside(tree.base) or 0 for image, tree in pairs)

    @property
    def entries(self) -> int:
        """Entries of all lists."""
        return sum(len(tree) for tree in self._trees)

    @property
    def size(self) -> int:
        """Bytes of all files of all lists."""
        return sum(tree.total_size for tree in self._trees)

    def blobs(self) -> Iterator[Blob]:
        """Each blob of each list."""
        for tree in self._trees:
            yield from tree.blobs()

    def size_of(self, digest: Digest) -> int | None:
        """The size of a blob that the lists name, else None."""
        for image in self._images:
            record = image.index.find(digest)
            if record is not None:
                return record.size
        return None

    def chunks_of(self, digest: Digest) -> Chunks | None:
        """What the blob is read by in parts, where the lists say."""
        for image, tree in zip(self._images, self._trees, strict=True):
            record = image.index.find(digest)
            if record is not None:
                try:
                    return tree.chunks(tree.node_of(record.directory, record.ordinal))
                except ImageDamaged:
                    return None
        return None

    def path_of(self, digest: Digest) -> str:
        """A path in the lists that names the blob, as text for people."""
        for image, tree in zip(self._images, self._trees, strict=True):
            record = image.index.find(digest)
            if record is not None:
                try:
                    path = tree.path_of(record.directory, record.ordinal)
                except ImageDamaged:
                    break
                return path.decode(errors="backslashreplace")
        return digest.hex()


def open_lists(images: ImageCache, lists: Sequence[ShownList]) -> OpenedLists | None:
    """Lists that were compiled before; None when an image is gone or damaged. Reads all of them."""
    with ExitStack() as undo:
        found = []
        for one in lists:
            image = images.find(one.key, origins=[one.origin])
            if image is None:
                return None
            undo.callback(image.close)
            found.append(image)
        undo.pop_all()
    return OpenedLists(found, [one.base.encode(errors="surrogateescape") for one in lists])
