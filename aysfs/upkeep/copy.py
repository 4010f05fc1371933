"""Lists and their blobs from one store into another: only what is missing, checked on the way.

Serves ``aysfs store copy``. A copy is a push whose files are another store's: blobs first, then
the list, byte for byte as it was, with its tree image, packs and profile where it has them. What
was copied before an interruption is not copied again. One list that cannot be copied is told and
does not keep the others; a store that does not answer ends it all.
"""

import functools
import itertools
import logging
import tempfile
from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple

import trio

from aysfs import digest as digests
from aysfs.digest import Digest
from aysfs.errors import AysfsError, BadList, BlobMissing, Corrupt, Missing, PackDamaged
from aysfs.flist.entry import Kind
from aysfs.names import ServiceName
from aysfs.store.claims import Claim, Waiting, unheard
from aysfs.store.crew import side_by_side
from aysfs.store.packs import PublishedPacks, blobs_of, keep_packs, read_index
from aysfs.store.profile import copy_profile
from aysfs.store.protocol import BlobSource, Held, OpenList, Store
from aysfs.store.tree_image import PublishedImage, keep_image
from aysfs.upkeep.lists import Step, blobs_named_by, entries_of, image_of, packs_of, sha256_of

log = logging.getLogger(__name__)

COPIERS = 8  # groups of blobs on their way at once

# A group is read and written before its copier takes the next: so much is held by each.
GROUP_BLOBS = 64
GROUP_BYTES = 8 << 20

ASKED = 20_000  # blobs in one question
_CHUNK = 1 << 20

Blob = tuple[Digest, int]


class CopyReport(NamedTuple):
    """What a copy did. ``failed`` has the error by the list's name."""

    copied: list[ServiceName]
    blobs: int
    size: int
    present: int
    failed: dict[ServiceName, AysfsError]


async def copy(
    source: Store,
    target: Store,
    names: Sequence[ServiceName],
    *,
    step: Step = lambda *_: None,
    waiting: Waiting = unheard,
) -> CopyReport:
    """Let the target have these lists and all that they name."""
    copied: list[ServiceName] = []
    failed: dict[ServiceName, AysfsError] = {}
    blobs = size = present = 0
    for number, name in enumerate(names):
        step("lists", number, len(names))
        async with Claim(target, waiting=waiting) as claim:
            one = _Copy(source, claim)
            try:
                await one.run(name)
                copied.append(name)
            except (BadList, Missing, Corrupt) as error:
                failed[name] = error
        blobs, size, present = blobs + one.blobs, size + one.size, present + one.present
    return CopyReport(copied, blobs, size, present, failed)


async def retag(
    store: Store, source: ServiceName, target: ServiceName, *, waiting: Waiting = unheard
) -> None:
    """Publish a list of the store under another name too: nothing moves, but all must be there."""
    async with Claim(store, waiting=waiting) as claim:
        await _Copy(store, claim).run(source, target)


class _Copy:
    """One list on its way."""

    def __init__(self, source: Store, claim: Claim) -> None:
        self.blobs = 0
        self.size = 0
        self.present = 0
        self._source = source
        self._claim = claim

    async def run(self, name: ServiceName, target: ServiceName | None = None) -> None:
        opened = await self._source.open_list(name)
        with opened.file:
            named = _named(opened)
            while some := await trio.to_thread.run_sync(_take, named):
                await self._send(some)
            opened.file.seek(0)
            sha256 = await trio.to_thread.run_sync(sha256_of, opened)
            image = await self._send_image(name, sha256)
            packs = await self._send_packs(name, sha256)
            await copy_profile(self._source, name, self._claim.store, target or name)
            await keep_image(self._claim, target or name, sha256, image)
            await keep_packs(self._claim, target or name, sha256, packs)
            await self._claim.publish(target or name, _chunks(opened.file))

    async def _send_image(self, name: ServiceName, sha256: str) -> PublishedImage | None:
        """Let the target have the list's image; a damaged one stays behind, for the list counts."""
        image = await image_of(self._source, name, sha256)
        if image is not None:
            try:
                await self._send(image.blobs)
            except (BlobMissing, Corrupt) as error:
                log.warning("%s: its image is not copied: %s", name, error)
                return None
        return image

    async def _send_packs(self, name: ServiceName, sha256: str) -> PublishedPacks | None:
        """Let the target have the list's packs; damaged ones stay behind, all of them."""
        found = await packs_of(self._source, name, sha256)
        if found is not None:
            try:
                index = await read_index(self._source, found)
                await self._send(blobs_of(found, index))
            except (BlobMissing, Corrupt, PackDamaged) as error:
                log.warning("%s: its packs are not copied: %s", name, error)
                return None
        return found

    async def _send(self, blobs: dict[Digest, int]) -> None:
        """Announce these, and let the target have what it lacks of them."""
        lacking = await self._claim.missing(blobs)
        self.present += len(blobs) - len(lacking)
        groups = _groups((digest, blobs[digest]) for digest in lacking)
        await side_by_side(groups, self._send_group, COPIERS)

    async def _send_group(self, group: Sequence[Blob]) -> None:
        digest, size = group[0]
        if size > GROUP_BYTES:
            await self._send_large(digest, size)
        else:
            sources = [
                BlobSource.of(one, await self._fetch(one, held_size)) for one, held_size in group
            ]
            await self._claim.store.put_many(sources)
        self.blobs += len(group)
        self.size += sum(size for _, size in group)

    async def _fetch(self, digest: Digest, size: int) -> bytes:
        """A blob in memory. Corrupt, told of the source, when it is not what it should be."""
        data = self._source.at_hand(digest, size)
        if data is None:
            held = Held()
            await self._source.get(digest, size, held)
            data = held.getvalue()
        if digests.of(data) != digest:
            raise Corrupt(f"{self._source.label}: the blob {digest.hex()} has other bytes")
        return data

    async def _send_large(self, digest: Digest, size: int) -> None:
        """By way of a temporary file; the target refuses what is corrupt."""
        with tempfile.TemporaryFile(prefix="aysfs-") as file:
            await self._source.get(digest, size, _Spool(file))
            file.flush()
            again = functools.partial(_reopen, file.fileno())
            await self._claim.store.put_many([BlobSource(digest, size, again)])


class _Spool:
    """A temporary file as a sink."""

    def __init__(self, file: BinaryIO) -> None:
        self.write = file.write
        self._file = file

    def restart(self) -> None:
        self._file.seek(0)
        self._file.truncate()


def _named(opened: OpenList) -> Iterator[Blob]:
    for entry in entries_of(opened):
        if entry.kind is Kind.REGULAR:
            yield from blobs_named_by(entry)


def _take(named: Iterator[Blob]) -> dict[Digest, int]:
    return dict(itertools.islice(named, ASKED))


def _groups(blobs: Iterator[Blob]) -> Iterator[list[Blob]]:
    """What travels together: a large blob travels alone."""
    group: list[Blob] = []
    size = 0
    for blob in blobs:
        if group and (len(group) >= GROUP_BLOBS or size + blob[1] > GROUP_BYTES):
            yield group
            group, size = [], 0
        group.append(blob)
        size += blob[1]
    if group:
        yield group


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    return iter(functools.partial(file.read, _CHUNK), b"")


def _reopen(fd: int) -> BinaryIO:
    """The file below a descriptor, which has no name, from its beginning."""
    return open(f"/proc/self/fd/{fd}", "rb", buffering=0)
