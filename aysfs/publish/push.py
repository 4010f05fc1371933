"""Publishing a directory: what the store lacks goes there, then a list names it all.

Serves ``aysfs push``. The order is the promise: a list appears only after every blob that it
names, and while the push's claim on them keeps any gc away (``aysfs.store.claims``). Knows
nothing of caches of blobs, and leaves the reading of files to ``send``.
"""

import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import trio

from aysfs import digest as digests
from aysfs.chunks import with_chunks
from aysfs.digest import Digest
from aysfs.errors import AysfsError
from aysfs.flist.entry import Entry, Header, Kind
from aysfs.flist.text import write_flist
from aysfs.names import ServiceName, published_names
from aysfs.publish.frames import FramesOfFiles
from aysfs.publish.hash_cache import HashCache
from aysfs.publish.image import newest, send_image, sha256_of
from aysfs.publish.packing import Step, no_step
from aysfs.publish.packs import PackReport, send_packs
from aysfs.publish.send import Progress, Sender, Sent
from aysfs.publish.walk import Found, walk
from aysfs.store.claims import Claim, Waiting, unheard
from aysfs.store.packs import keep_packs
from aysfs.store.protocol import Store
from aysfs.store.tree_image import keep_image


class PushReport(NamedTuple):
    """What a push did. ``files`` and ``bytes`` count names of regular files, links included."""

    name: ServiceName
    files: int
    bytes: int
    uploaded_blobs: int
    uploaded_bytes: int
    present_blobs: int
    list_bytes: int
    list_md5: Digest
    image_bytes: int = 0
    """Of the image and its index, 0 where none was asked for."""
    packs: PackReport | None = None
    """None where none were asked for."""
    withdrawn: bool = False
    """Whether packs of the list before are of no use any more, and there are no new ones."""


def no_progress(_sent: Sent) -> None:
    """A progress that nobody watches."""


async def push(
    directory: Path,
    name: ServiceName,
    store: Store,
    *,
    base: bytes | None = None,
    tag: str | None = None,
    image: bool = False,
    packs: bool = False,
    step: Step = no_step,
    hash_cache: HashCache | None = None,
    progress: Progress = no_progress,
    waiting: Waiting = unheard,
) -> PushReport:
    """Publish the directory as ``name``, and under ``tag``. Paths in the list are below ``base``.

    Without a base it is the directory's own absolute path. The same tree gives the same list.
    With ``image`` the tree image of the list goes into the store too, with ``packs`` its packs, of
    which ``step`` is told.
    """
    names = published_names(name, tag)
    base = check_base(base) if base is not None else os.fsencode(os.path.abspath(directory))
    found = await trio.to_thread.run_sync(
        walk, os.fsencode(directory), base, abandon_on_cancel=True
    )
    files = [one for one in found if one.entry.kind == Kind.REGULAR]
    async with Claim(store, waiting=waiting) as claim:
        sender = Sender(claim, hash_cache, progress)
        await sender.send(files)
        if hash_cache is not None:
            await trio.to_thread.run_sync(hash_cache.save, abandon_on_cancel=True)
        chunks = list(write_flist(Header(2, base), _entries(found, sender)))
        sha256, new = sha256_of(chunks), None
        if image:
            new = await send_image([claim], chunks, sha256, newest(one.entry for one in found))
        made, packed = None, None
        if packs:
            frames = FramesOfFiles({sender.digests[one.key]: one for one in files})
            entries = partial(_entries, found, sender)
            made, packed = await send_packs([claim], name, sha256, entries, frames, step=step)
        withdrawn = False
        for one in names:
            await keep_image(claim, one, sha256, new)
            withdrawn |= await keep_packs(claim, one, sha256, made)
            await claim.publish(one, chunks)
    report = _report(name, files, sender, chunks)
    size = new.size if new else 0
    return report._replace(image_bytes=size, packs=packed, withdrawn=withdrawn)


def check_base(base: bytes) -> bytes:
    """The base without a trailing slash; AysfsError unless it is an absolute, plain path."""
    parts = base.rstrip(b"/").split(b"/")
    if not base.startswith(b"/") or b"\0" in base or {b"", b".", b".."} & set(parts[1:]):
        raise AysfsError(f"`{os.fsdecode(base)}` is no base", hint="a base is an absolute path")
    return base.rstrip(b"/") or b"/"


def _entries(found: Sequence[Found], sender: Sender) -> Iterator[Entry]:
    known, index_of = sender.digests, sender.indexes.get
    for one in found:
        entry = one.entry
        if entry.kind == Kind.REGULAR:
            ext = with_chunks(entry.ext, index_of(one.key))
            entry = entry._replace(digest=known[one.key], ext=ext)
        yield entry


def _report(
    name: ServiceName, files: Sequence[Found], sender: Sender, chunks: Sequence[bytes]
) -> PushReport:
    hasher = digests.hasher()
    for chunk in chunks:
        hasher.update(chunk)
    return PushReport(
        name=name,
        files=len(files),
        bytes=sum(one.entry.size for one in files),
        uploaded_blobs=sender.uploaded_blobs,
        uploaded_bytes=sender.uploaded_bytes,
        present_blobs=len({*sender.digests.values(), *sender.indexes.values()})
        - sender.uploaded_blobs,
        list_bytes=sum(map(len, chunks)),
        list_md5=Digest(hasher.digest()),
    )
