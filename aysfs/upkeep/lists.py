"""Going through the lists of a store: which blobs they name, and what they are.

Serves all of upkeep. Owns the answer to "what does a list name": whoever deletes, checks or
copies asks here, so that none of them can forget a blob. Holds one entry at a time.
"""

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import trio

from aysfs.digest import Digest
from aysfs.errors import BadList, BlobMissing, Corrupt, PackDamaged, StoreTrouble
from aysfs.flist.entry import Entry, Kind
from aysfs.flist.text import FlistReader
from aysfs.names import ServiceName
from aysfs.store.packs import PublishedPacks, blobs_of, delete_packs, read_index, read_packs
from aysfs.store.profile import delete_profile
from aysfs.store.protocol import OpenList, Store, Stray
from aysfs.store.tree_image import PublishedImage, delete_image, read_image

Take = Callable[[Digest, int], object]
"""Told every blob that a list names, digest and size; one that is named twice, twice."""

Chunked = Callable[[Entry], object]
"""Told every entry whose blob has chunks."""


def _nothing(_entry: Entry) -> None:
    """For those who do not want to know."""


_PIECE = 1 << 20

LOST = "it is named, and is not there"

Step = Callable[[str, int, int], object]
"""Told the phase of long work, and how much of it is done of how much."""


class Packs(NamedTuple):
    """The packs that a store has of a list: what the note says, and the blobs that it names.

    ``wrong`` says why the index cannot be read; then only it and the start pack are known.
    """

    found: PublishedPacks
    blobs: tuple[tuple[Digest, int], ...]
    wrong: str = ""


class Facts(NamedTuple):
    """A list in numbers. ``size`` is that of its files, several names of one file counted once.

    ``image`` are the blobs of its tree image, none where the store has no image of this very list,
    ``packs`` its packs likewise.
    """

    name: ServiceName
    entries: int
    files: int
    size: int
    mtime_ns: int
    image: tuple[tuple[Digest, int], ...] = ()
    packs: Packs | None = None
    index_size: int = 0
    """Bytes of the index blobs of its large files, counted as ``size`` counts these."""

    @property
    def image_size(self) -> int:
        """Bytes of the image, index included."""
        return sum(size for _, size in self.image)

    @property
    def packs_size(self) -> int:
        """Bytes of all packs and their index."""
        return sum(size for _, size in self.packs.blobs) if self.packs is not None else 0


async def read_list(
    store: Store, name: ServiceName, take: Take, chunked: Chunked = _nothing
) -> Facts:
    """Read a list whole. BadList for the first thing in it that is wrong.

    What the notes of an image and of packs name counts as the list's. One that speaks of another
    list, or cannot be read, names nothing: images and packs can be made again. So a pack is
    nobody's when the index that would name it has gone.
    """
    image = await read_image(store, name)
    packs = await read_packs(store, name)
    opened = await store.open_list(name)
    notes = _Notes(image, packs)
    facts, ours = await trio.to_thread.run_sync(
        _read, opened, name, notes, take, chunked, abandon_on_cancel=True
    )
    if ours.packs is None:
        return facts
    found = await _packs_in(store, ours.packs)
    for digest, size in found.blobs:
        take(digest, size)
    return facts._replace(packs=found)


async def _packs_in(store: Store, found: PublishedPacks) -> Packs:
    try:
        index = await read_index(store, found)
    except (BlobMissing, Corrupt, PackDamaged) as error:
        return Packs(found, tuple(blobs_of(found, None).items()), str(error))
    return Packs(found, tuple(blobs_of(found, index).items()))


async def image_of(store: Store, name: ServiceName, sha256: str) -> PublishedImage | None:
    """The image that a store has of this very list, of whatever version."""
    found = await read_image(store, name)
    return found if found is not None and found.list_sha256 == sha256 else None


async def packs_of(store: Store, name: ServiceName, sha256: str) -> PublishedPacks | None:
    """The packs that a store has of this very list."""
    found = await read_packs(store, name)
    return found if found is not None and found.list_sha256 == sha256 else None


async def remove_list(store: Store, name: ServiceName) -> None:
    """Have this list no more, nor the notes of what belongs to it. ListMissing when it was not."""
    await store.delete_list(name)
    await delete_image(store, name)
    await delete_packs(store, name)
    await delete_profile(store, name)


def sha256_of(opened: OpenList) -> str:
    """What a list is known by; it stands at its beginning before and after. Waits for the store."""
    with _reading(opened):
        hasher = hashlib.sha256()
        while piece := opened.file.read(_PIECE):
            hasher.update(piece)
        opened.file.seek(0)
        return hasher.hexdigest()


async def lost(store: Store, absent: Collection[ServiceName]) -> list[ServiceName]:
    """Of lists that were not there when they were read, those that the store still names.

    Nobody has deleted these: they are links, say, to a disk that is not mounted.
    """
    return [name for name in await store.lists() if name in absent] if absent else []


class _Notes(NamedTuple):
    """What notes beside a list tell of: those that were there, or those that are this list's."""

    image: PublishedImage | None
    packs: PublishedPacks | None

    def of(self, opened: OpenList) -> "_Notes":
        """Those that speak of this very list."""
        if self.image is None and self.packs is None:
            return self
        sha256 = sha256_of(opened)
        return _Notes(
            self.image if self.image and self.image.list_sha256 == sha256 else None,
            self.packs if self.packs and self.packs.list_sha256 == sha256 else None,
        )


def _read(
    opened: OpenList, name: ServiceName, notes: _Notes, take: Take, chunked: Chunked
) -> tuple[Facts, _Notes]:
    entries = files = size = index = 0
    with opened.file:
        ours = notes.of(opened)
        for entry in entries_of(opened):
            entries += 1
            if entry.kind is Kind.REGULAR:
                files += 1
                if not entry.ext or entry.hardlink is None:
                    size += entry.size
                    index += _index_size(entry)
                for digest, its_size in blobs_named_by(entry):
                    take(digest, its_size)
                if entry.chunks:
                    chunked(entry)
    blobs = tuple(ours.image.blobs.items()) if ours.image is not None else ()
    for digest, its_size in blobs:
        take(digest, its_size)
    facts = Facts(name, entries, files, size, opened.mtime_ns, blobs, index_size=index)
    return facts, ours


def entries_of(opened: OpenList) -> Iterator[Entry]:
    """The entries of a list."""
    with _reading(opened):
        yield from FlistReader(
            opened.file, source=opened.source, mtime_ns=opened.mtime_ns, resolve=_nobody
        )


def blobs_named_by(entry: Entry) -> Iterator[tuple[Digest, int]]:
    """The blobs that an entry of a regular file names: its own, and the index of its chunks."""
    yield entry.digest, entry.size
    if chunks := entry.chunks:
        yield chunks.digest, chunks.index_size(entry.size)


def _index_size(entry: Entry) -> int:
    chunks = entry.chunks
    return chunks.index_size(entry.size) if chunks else 0


def refuse_foreign(store: Store, strays: Sequence[Stray]) -> None:
    """BadList where a file beside the lists may be one that names blobs, under no service's name.

    The lineage's builds wrote ``md.flist``.
    """
    for foreign in foreign_lists(strays):
        raise BadList(
            f"{store.label}: {foreign}",
            0,
            "a list whose name is no service's: what it names counts",
        )


def foreign_lists(strays: Sequence[Stray]) -> list[str]:
    """Files that look like lists and cannot be asked for by a name."""
    return [one.path for one in strays if one.path.endswith(".flist")]


@contextmanager
def _reading(opened: OpenList) -> Iterator[None]:
    """A list that stops being readable is trouble, and is named."""
    try:
        yield
    except OSError as error:
        raise StoreTrouble(f"{opened.source}: cannot be read: {error.strerror}") from error


def _nobody(_what: str, _name: bytes) -> None:
    """Owners do not matter here: none is looked up."""
