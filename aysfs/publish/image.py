"""The tree image of a list that is about to be published.

Serves ``push`` and builds. It is made of the list's own bytes, and of nothing that this host or
a store adds to them: the same list gives the same image, wherever it is made.
"""

import hashlib
import io
import tempfile
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO

import trio

from aysfs import digest as digests
from aysfs.digest import Digest
from aysfs.flist.entry import Entry
from aysfs.flist.text import FlistReader
from aysfs.image import WRITER_VERSION, write_image
from aysfs.image.compile import read_tree
from aysfs.names import ServiceName
from aysfs.publish.put import put_missing
from aysfs.store.claims import Claim, Waiting, unheard
from aysfs.store.protocol import BlobSource, Store
from aysfs.store.tree_image import Part, PublishedImage, is_usable, keep_image, read_image

_PIECE = 1 << 20


def sha256_of(chunks: Iterable[bytes]) -> str:
    """What a list is known by."""
    hasher = hashlib.sha256()
    for chunk in chunks:
        hasher.update(chunk)
    return hasher.hexdigest()


def newest(entries: Iterable[Entry]) -> int:
    """What dates the directories that no line names: the latest time of any that one does."""
    return max((one.mtime_ns for one in entries), default=0)


async def send_image(
    claims: Sequence[Claim], chunks: Sequence[bytes], list_sha256: str, mtime_ns: int
) -> PublishedImage:
    """Make the image of a version 2 list, and let every store have it; what its note says.

    ImageRefused when no image can hold the list.
    """
    with tempfile.TemporaryDirectory(prefix="aysfs-image-") as folder:
        files = Path(folder) / "image", Path(folder) / "index"
        made = await trio.to_thread.run_sync(_make, chunks, list_sha256, mtime_ns, *files)
        sources = [
            BlobSource(part.digest, part.size, partial(_open, file))
            for part, file in zip((made.image, made.index), files, strict=True)
        ]
        await put_missing(claims, sources)
    return made


async def add_image(store: Store, name: ServiceName, *, waiting: Waiting = unheard) -> None:
    """Let the list that a store has of a service have its image, unless it has one already."""
    opened = await store.open_list(name)
    with opened.file:
        data = await trio.to_thread.run_sync(opened.file.read)
    sha256 = sha256_of([data])
    async with Claim(store, waiting=waiting) as claim:
        found = await read_image(store, name)
        if found is not None and is_usable(found, sha256) and not await claim.missing(found.blobs):
            return
        latest = await trio.to_thread.run_sync(_newest, data, opened.source)
        made = await send_image([claim], [data], sha256, latest)
        await keep_image(claim, name, sha256, made)


def _newest(data: bytes, source: str) -> int:
    return newest(FlistReader(io.BytesIO(data), source=source, mtime_ns=0))


def _make(
    chunks: Sequence[bytes], list_sha256: str, mtime_ns: int, image_file: Path, index_file: Path
) -> PublishedImage:
    tree, facts = read_tree(io.BytesIO(b"".join(chunks)), "list", mtime_ns)
    with open(image_file, "w+b") as image, open(index_file, "w+b") as index:
        write_image(tree, image, index)
        parts = _part(image), _part(index)
    return PublishedImage(list_sha256, mtime_ns, WRITER_VERSION, *parts, facts)


def _open(file: Path) -> BinaryIO:
    return open(file, "rb", buffering=0)


def _part(file: BinaryIO) -> Part:
    md5, sha256, size = digests.hasher(), hashlib.sha256(), 0
    file.seek(0)
    while piece := file.read(_PIECE):
        md5.update(piece)
        sha256.update(piece)
        size += len(piece)
    return Part(Digest(md5.digest()), sha256.hexdigest(), size)
