"""Tree images of lists that were compiled on this host, and what was found out on the way.

Serves the engines and the commands that look into a list: who comes second compiles nothing.
Owns ``<cache>/images`` (docs/format.md, "Cache"): one folder an image, renamed into place whole
and never changed. Every opening reads all of it: the checksum of 220 MB, a million entries,
takes 0.03 s where it is in the page cache. An image that is not what was written is removed, and
made again by whoever needs it. All methods wait for the disk.

The checksum finds accidents. Whoever can write into the cache is its user.

Where an image comes from is part of its place, its *origin*: one that was compiled here is never
mistaken for one that a store gave, nor that of one store for that of another. An image that came
from elsewhere may say anything.
"""

import errno
import fcntl
import mmap
import os
import secrets
import shutil
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from io import FileIO
from pathlib import Path
from typing import BinaryIO

from aysfs.cache.image_record import checksums_of, decode, encode
from aysfs.cache.list_key import OWN, ListKey
from aysfs.cache.root import enter, translated
from aysfs.errors import ImageDamaged
from aysfs.flist.lineage import Resolve, host_id
from aysfs.image import WRITER_VERSION, DigestIndex, ImageTree, write_image
from aysfs.image.facts import Facts
from aysfs.tree import Tree

BOUND = 1 << 30
"""Bytes of all images together: about 80 lists of 60,000 entries."""

_IN_USE = 3600.0  # seconds after its last use that an image is not evicted, to be mounted meanwhile
_IMAGE, _INDEX, _FACTS = "tree.erofs", "tree.index", "facts"
_DAMAGE = (
    ImageDamaged,
    OSError,
    ValueError,
    LookupError,
    TypeError,
)  # by accident or by a later version
_OF_OURS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}  # not the image's fault
_SCRATCH = "tmp-"


class CachedImage:
    """An image and its index, verified, mapped and open. Close it, or take its tree.

    ``path`` is its name for people: another image may have taken its place since, or none.
    """

    def __init__(
        self,
        folder: Path,
        origin: str,
        facts: Facts,
        file: FileIO,
        image: mmap.mmap,
        index: mmap.mmap,
    ) -> None:
        self.path = folder / _IMAGE
        self.facts = facts
        self.origin = origin
        self._file = file
        self._image, self._mapped_index = image, index
        with memoryview(index) as view:
            self.index = DigestIndex(view)

    @property
    def descriptor(self) -> int:
        """Of the image that was verified."""
        return self._file.fileno()

    def tree(self, base: bytes = b"/") -> ImageTree:
        """The tree below a directory of the list. It reads from what ``close`` lets go of.

        ImageDamaged when it is none, PathMissing when the list has no such directory.
        """
        return ImageTree(self._image, source=str(self.path), base=base)

    def take_tree(self, base: bytes) -> ImageTree:
        """The tree, which lives on, and closes the image when it is closed itself."""
        tree = self.tree(base)
        self._close_all_but_the_map()
        return tree

    def close(self) -> None:
        """Let go of both files."""
        self._close_all_but_the_map()
        self._image.close()

    def _close_all_but_the_map(self) -> None:
        self.index.close()
        self._mapped_index.close()
        self._file.close()


@dataclass(frozen=True)
class NewImage:
    """An image that is being written, in a folder that nobody finds."""

    folder: Path
    image: BinaryIO
    index: BinaryIO
    origin: str
    place: Path
    before: int | None
    """What was in its place: what came there since is right, and stays."""


class ImageCache:
    """The images of one cache directory."""

    def __init__(
        self,
        root: Path,
        *,
        bound: int = BOUND,
        report: Callable[[str], None] = lambda _line: None,
    ) -> None:
        """``root`` is the cache's. CacheUnusable when it is another's or not writable.

        ``report`` is told, in one line, of every image that was found damaged.
        """
        self._bound, self._report = bound, report
        self.folder = root / "images"
        enter(root)
        try:
            self.folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise translated(error, root) from error

    def find(
        self, key: ListKey, resolve: Resolve = host_id, *, origins: Sequence[str] = (OWN,)
    ) -> CachedImage | None:
        """The image of a list, of the first of these origins that has one.

        None when there is none that is whole and right for this host.
        """
        found = (self._find(key, origin, resolve) for origin in origins)
        return next((one for one in found if one is not None), None)

    def _find(self, key: ListKey, origin: str, resolve: Resolve) -> CachedImage | None:
        place = self._place(key, origin)
        while True:
            try:
                descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                with suppress(OSError), self._locked():  # one may be about to take its place
                    if place.exists():
                        continue
                return None
            except OSError as error:
                raise translated(error, self.folder.parent) from error
            try:
                cached = self._opened(place, descriptor, origin)
                break
            except _DAMAGE as error:
                if isinstance(error, OSError) and error.errno in _OF_OURS:
                    raise translated(error, self.folder.parent) from error
                if self._is_removed(place, os.fstat(descriptor)):
                    self._report(f"damaged tree image {place}: removed ({error})")
                    return None
            finally:
                os.close(descriptor)
        if any(resolve(one.what, os.fsencode(one.name)) != one.id for one in cached.facts.owners):
            cached.close()
            return None
        return cached

    def put(self, key: ListKey, tree: Tree, facts: Facts) -> CachedImage:
        """Compile the tree of the whole list and keep its image; of two at once, one is kept.

        ImageRefused when no image can hold it, NoSpace or CacheUnusable when it cannot be kept.
        """
        with self.new(key, OWN) as new:
            ids = {(one.what, os.fsencode(one.name)): one.id for one in facts.owners}
            # Who put one there while the list was read need not be replaced.
            found = self.find(key, lambda what, name: ids.get((what, name)))
            if found is not None:
                return found
            write_image(tree, new.image, new.index)
            return self._finish(new, facts)

    def take(self, new: NewImage, facts: Facts) -> CachedImage:
        """Keep what was written into a ``new`` image, for those who ask for its origin.

        ImageDamaged when it is none of this version; raises as ``put`` besides. What it says of
        its list is not checked.
        """
        if new.origin == OWN:
            raise ValueError("what was not compiled here is not our own")
        return self._finish(new, facts, check=_check_whole)

    @contextmanager
    def new(self, key: ListKey, origin: str) -> Iterator[NewImage]:
        """Two empty files for an image, gone afterwards unless it was kept.

        NoSpace or CacheUnusable, also for an OSError of whoever writes into them.
        """
        place = self._place(key, origin)
        try:
            before = _identity(place)
            with (
                self._scratch() as scratch,
                open(scratch / _IMAGE, "w+b") as image,
                open(scratch / _INDEX, "w+b") as index,
            ):
                yield NewImage(scratch, image, index, origin, place, before)
        except OSError as error:
            raise translated(error, self.folder.parent) from error

    def _finish(
        self,
        new: NewImage,
        facts: Facts,
        check: Callable[[CachedImage], None] = lambda _image: None,
    ) -> CachedImage:
        """Make it durable, open it, and put it in its place."""
        for file in (new.image, new.index):
            _to_disk(file)
        with open(new.folder / _FACTS, "wb") as written:
            written.write(encode(facts, checksums_of(new.image, new.index)))
            _to_disk(written)
        descriptor = os.open(new.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            cached = self._opened(new.place, descriptor, new.origin)
        finally:
            os.close(descriptor)
        try:
            check(cached)
            self._keep(new.folder, new.place, new.before)
        except BaseException:
            cached.close()
            raise
        return cached

    def stored(self) -> tuple[int, int]:
        """How many images there are, and their bytes."""
        sizes = [size for _, size, _ in self._images()]
        return len(sizes), sum(sizes)

    def clear(self) -> None:
        """Remove all images. What is mounted or mapped lives on without its name."""
        with self._locked():
            for _, _, place in self._images():
                self._put_away(place)

    def _images(self) -> list[tuple[float, int, Path]]:
        """Last use, bytes and place of every image, the one not used for longest first."""
        folders = (one for one in self.folder.iterdir() if one.is_dir())
        return sorted(_used(one) for one in folders if not one.name.startswith(_SCRATCH))

    def _place(self, key: ListKey, origin: str) -> Path:
        own = f"{key.sha256}-{key.mtime_ns:x}-{WRITER_VERSION}"
        return self.folder / (own if origin == OWN else f"{own}-{origin}")

    # --- opening ---------------------------------------------------------------------------

    def _opened(self, place: Path, descriptor: int, origin: str) -> CachedImage:
        """Raises one of ``_DAMAGE`` for what is not as it was written."""
        with _open_in(descriptor, _FACTS) as file:
            facts, checksums = decode(file.read())
            with suppress(OSError):  # a full disk or a read-only one: it is not used less for that
                os.utime(file.fileno())
        with ExitStack() as undo:
            maps = []
            for name, expected in zip((_IMAGE, _INDEX), checksums, strict=True):
                with _open_in(descriptor, name) as file:
                    found = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                    undo.callback(found.close)
                    if name == _IMAGE:
                        image = FileIO(os.dup(file.fileno()))
                        undo.callback(image.close)
                if (len(found), zlib.crc32(found)) != expected:
                    raise ImageDamaged(f"{name} was altered")
                found.madvise(mmap.MADV_DONTNEED)  # all of it was read, little of it is needed
                maps.append(found)
            cached = CachedImage(place, origin, facts, image, *maps)
            undo.pop_all()
            return cached

    # --- changing the folder, one process at a time ------------------------------------------

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def _scratch(self) -> Iterator[Path]:
        """A folder to write into, locked as long as its process lives; those of dead ones go."""
        with self._locked():
            for left in self.folder.glob(f"{_SCRATCH}*"):
                _remove_unlocked(left)
            scratch = self.folder / f"{_SCRATCH}{secrets.token_hex(8)}"
            scratch.mkdir(mode=0o700)
            descriptor = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            yield scratch
        finally:
            os.close(descriptor)
            shutil.rmtree(scratch, ignore_errors=True)  # gone when it was kept

    def _keep(self, scratch: Path, place: Path, before: int | None) -> None:
        """Make a finished folder the image, unless somebody else just did: theirs is in use."""
        with self._locked():
            if _identity(place) != before:
                return
            self._put_away(place)
            os.rename(scratch, place)
            self._evict(place)

    def _is_removed(self, place: Path, wrong: os.stat_result) -> bool:
        """Remove an image; False when it had been, and another may have taken its place."""
        try:
            with self._locked():
                if not os.path.samestat(os.stat(place), wrong):
                    return False
                self._put_away(place)
        except FileNotFoundError:
            return False
        except OSError as error:
            self._report(f"{place} cannot be removed: {error.strerror}")
        return True

    def _put_away(self, place: Path) -> None:
        """Take a folder out of the way in one step, so that nobody finds half of it."""
        dead = self.folder / f"{_SCRATCH}{secrets.token_hex(8)}"
        try:
            os.rename(place, dead)
        except FileNotFoundError:
            return
        shutil.rmtree(dead, ignore_errors=True)

    def _evict(self, new: Path) -> None:
        """Remove what was not used for the longest time, until the rest is within the bound.

        What is mounted or mapped lives on without its name; so may what was opened just now.
        """
        images = self._images()
        total = sum(size for _, size, _ in images)
        for used, size, place in images:
            if total <= self._bound or used > time.time() - _IN_USE:
                return
            if place != new:
                self._put_away(place)
                total -= size


def _check_whole(image: CachedImage) -> None:
    """ImageDamaged unless both files are of this version, and of each other."""
    image.index.verify()
    if image.tree().uuid != image.index.uuid:
        raise ImageDamaged("the digest index is that of another image")


def _identity(place: Path) -> int | None:
    try:
        return place.stat().st_ino
    except FileNotFoundError:
        return None


def _used(place: Path) -> tuple[float, int, Path]:
    used, size = 0.0, 0
    with suppress(FileNotFoundError):
        for file in place.iterdir():
            size += file.stat().st_size
        used = (place / _FACTS).stat().st_mtime
    return used, size, place


def _remove_unlocked(folder: Path) -> None:
    """Remove a scratch folder whose process is gone."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(descriptor)


def _open_in(folder: int, name: str) -> BinaryIO:
    return open(name, "rb", opener=partial(os.open, dir_fd=folder))


def _to_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
