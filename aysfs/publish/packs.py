"""The packs of a list that is about to be published, or is: made, and sent where they are lacking.

Serves ``push``, builds and ``store pack``. What the profile of the service names comes first, in
the start pack, or else what its programs are likely to read; the rest follows by directory. Packs
that the store has of the list before are found by the digests in them, and neither read nor made
nor sent again.
"""

import io
import logging
from collections.abc import Iterable, Sequence
from contextlib import closing
from functools import partial
from typing import NamedTuple

import trio

from aysfs.digest import Digest
from aysfs.errors import BadProfile, BlobMissing, Corrupt, PackDamaged, StoreTrouble
from aysfs.flist.entry import Entry
from aysfs.flist.text import FlistReader
from aysfs.names import ServiceName
from aysfs.pack import PackIndex
from aysfs.pack.cut import Blob, in_order
from aysfs.pack.format import MAX_COUNT
from aysfs.pack.index import MAX_BLOBS
from aysfs.publish.frames import Frames, FramesOfStore
from aysfs.publish.hints import Entries, find_hints, hints_of
from aysfs.publish.image import sha256_of
from aysfs.publish.packing import Before, Maker, Step, no_step
from aysfs.publish.put import put_missing
from aysfs.sizes import size_text
from aysfs.store.claims import Claim, Waiting, unheard
from aysfs.store.packs import PublishedPacks, keep_packs, published, read_index, read_packs
from aysfs.store.profile import read_profile
from aysfs.store.protocol import BlobSource, Store

log = logging.getLogger(__name__)


class PackReport(NamedTuple):
    """What was packed. ``size`` are the bytes of the blobs, ``packed`` those of packs and index.

    ``sent`` packs of ``sent_bytes`` were lacking in a store. ``start`` blobs are in the start pack.
    """

    packs: int
    blobs: int
    size: int
    packed: int
    start: int
    sent: int
    sent_bytes: int

    @property
    def text(self) -> str:
        """The same in words, of one line."""
        start = f", {self.start} of them in the start pack" if self.start else ""
        return (
            f"{self.blobs} blobs ({size_text(self.size)}) are in {self.packs} packs"
            f" ({size_text(self.packed)}){start}; {self.sent} packs ({size_text(self.sent_bytes)})"
            " were new"
        )


async def send_packs(
    claims: Sequence[Claim],
    name: ServiceName,
    list_sha256: str,
    entries: Entries,
    frames: Frames,
    *,
    anew: bool = False,
    step: Step = no_step,
) -> tuple[PublishedPacks, PackReport]:
    """Let every store have packs of the blobs of this list; what their note says.

    Packs that were published under the name are used again as far as they hold the same blobs,
    be it that they lie or are damaged: with ``anew`` all are made and sent again. So are the
    references in their index when they are of the same list.
    """
    blobs = (await trio.to_thread.run_sync(lambda: in_order(entries())))[:MAX_BLOBS]
    wanted = await _wanted(claims[0].store, name)
    before = None if anew else await _before(claims, name)
    again = before.referring(list_sha256) if before is not None else None
    if again is not None:
        hints = await trio.to_thread.run_sync(hints_of, again)
    else:
        hints = await find_hints(entries, dict(blobs), frames, step)
    start, rest = _split(blobs, hints.start if wanted is None else wanted)
    maker = Maker(claims, frames, before, step, sum(size for _, size in blobs), again=anew)
    packs = await maker.run(start, rest)
    join = partial(PackIndex.join, has_start=bool(start), references=hints.references)
    index = await trio.to_thread.run_sync(join, packs)
    found, data = published(list_sha256, index)
    await put_missing(claims, [BlobSource.of(found.index.digest, data)], again=anew)
    report = PackReport(
        packs=found.packs,
        blobs=found.blobs,
        size=maker.done,
        packed=found.size + found.index.size,
        start=index.packs[0].count if index.has_start else 0,
        sent=maker.sent,
        sent_bytes=maker.sent_bytes,
    )
    return found, report


async def add_packs(
    store: Store,
    name: ServiceName,
    *,
    anew: bool = False,
    step: Step = no_step,
    waiting: Waiting = unheard,
) -> PackReport:
    """Let the list that a store has of a service have its packs, of the store's own blobs."""
    opened = await store.open_list(name)
    with opened.file:
        data = await trio.to_thread.run_sync(opened.file.read)
    sha256 = sha256_of([data])
    entries = partial(_entries, data, opened.source)
    async with Claim(store, waiting=waiting) as claim:
        with closing(FramesOfStore(store)) as frames:
            made, report = await send_packs(
                [claim], name, sha256, entries, frames, anew=anew, step=step
            )
        await keep_packs(claim, name, sha256, made)
    return report


def _entries(data: bytes, source: str) -> Iterable[Entry]:
    return FlistReader(io.BytesIO(data), source=source, mtime_ns=0, resolve=_nobody)


def _nobody(_what: str, _name: bytes) -> None:
    """Owners do not matter here: none is looked up."""


async def _wanted(store: Store, name: ServiceName) -> list[Digest] | None:
    """What a start reads, in its order; None where nobody recorded one."""
    try:
        profile = await read_profile(store, name)
    except BadProfile as error:
        log.warning("%s, so there is no start pack", error)
        return []
    return [one.digest for one in profile.reads] if profile is not None else None


def _split(blobs: Sequence[Blob], wanted: Sequence[Digest]) -> tuple[list[Blob], list[Blob]]:
    """What goes into the start pack, as it is wanted, and the rest."""
    sizes = dict(blobs)
    start = {digest: sizes[digest] for digest in wanted if digest in sizes}
    first = list(start.items())[:MAX_COUNT]
    taken = {digest for digest, _ in first}
    return first, [one for one in blobs if one[0] not in taken]


async def _before(claims: Sequence[Claim], name: ServiceName) -> Before | None:
    """The packs of the list before, claimed. None where there are none that can be read."""
    store = claims[0].store
    found = await read_packs(store, name)
    if found is None:
        return None
    try:
        index = await read_index(store, found)
    except (BlobMissing, Corrupt, PackDamaged, StoreTrouble):  # who may only write cannot read
        return None
    packs = {one.digest: one.size for one in index.packs}
    lacking: set[Digest] = set()
    for claim in claims:
        lacking |= await claim.missing(packs)
    return Before(found.list_sha256, index, lacking)
