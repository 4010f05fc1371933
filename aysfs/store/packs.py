"""Packs that stores hold: the note beside a list that names their index, and when it counts.

Serves whoever makes packs, looks after them or reads blobs out of them. Owns the note
`<service>.packs` (docs/format.md, "Published packs"). Packs and their index are ordinary blobs;
what makes them somebody's is the note, and only while the list that it speaks of is the list under
its name. Nobody has to use a pack, and nobody may trust one: each blob out of it is compared with
its own digest, as one that came alone is.
"""

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import trio

from aysfs import digest as digests
from aysfs.digest import Digest
from aysfs.errors import BlobMissing, Corrupt, PackDamaged, StoreTrouble
from aysfs.names import ServiceName
from aysfs.pack import PackIndex, PackInfo, head_size
from aysfs.pack.format import MAX_COUNT
from aysfs.pack.frame import longest
from aysfs.pack.index import MAX_BLOBS, MAX_PACKS, MAX_SIZE
from aysfs.store import layout, list_notes
from aysfs.store.claims import Claim
from aysfs.store.note_values import digest_in, number_in, sha256_in
from aysfs.store.protocol import Held, Store

VERSION = 1

_Missing = Callable[[Mapping[Digest, int]], Awaitable[set[Digest]]]

_HEADER = head_size(0)
_EACH = head_size(1) - _HEADER


class Part(NamedTuple):
    """The index, as a blob."""

    digest: Digest
    size: int


class Start(NamedTuple):
    """The start pack, as a blob. ``head`` are the bytes before its first frame."""

    digest: Digest
    size: int
    head: int

    @property
    def info(self) -> PackInfo:
        """What an index of this pack alone is made with, together with its head."""
        return PackInfo(self.digest, self.size, 0, (self.head - _HEADER) // _EACH)


@dataclass(frozen=True)
class PublishedPacks:
    """The packs of a list in a store. ``size`` is that of all packs, without the index."""

    list_sha256: str
    index: Part
    start: Start | None
    packs: int
    blobs: int
    size: int

    def to_json(self) -> bytes:
        """The note. The same packs give the same bytes."""
        start = self.start
        values = {
            "version": VERSION,
            "list_sha256": self.list_sha256,
            "index": {"md5": self.index.digest.hex(), "size": self.index.size},
            "start": None if start is None else _start_values(start),
            "packs": self.packs,
            "blobs": self.blobs,
            "bytes": self.size,
        }
        return json.dumps(values, indent=1, sort_keys=True).encode() + b"\n"


def from_json(data: bytes) -> PublishedPacks | None:
    """What a note says; None for one that says nothing that is understood here."""
    try:
        values = json.loads(data)
        if values["version"] != VERSION:
            return None
        return PublishedPacks(
            list_sha256=sha256_in(values["list_sha256"]),
            index=_part(values["index"]),
            start=None if values["start"] is None else _start(values["start"]),
            packs=number_in(values["packs"], 0, MAX_PACKS),
            blobs=number_in(values["blobs"], 0, MAX_BLOBS),
            size=number_in(values["bytes"]),
        )
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


def published(list_sha256: str, index: PackIndex) -> tuple[PublishedPacks, bytes]:
    """What the note of these packs says, and the bytes of their index."""
    data = index.encode()
    return _described(list_sha256, Part(digests.of(data), len(data)), index), data


def _described(list_sha256: str, part: Part, index: PackIndex) -> PublishedPacks:
    first = index.packs[0] if index.has_start else None
    return PublishedPacks(
        list_sha256=list_sha256,
        index=part,
        start=None if first is None else Start(first.digest, first.size, head_size(first.count)),
        packs=len(index.packs),
        blobs=len(index),
        size=sum(one.size for one in index.packs),
    )


def packs_note(name: ServiceName) -> str:
    """Where the packs of a list are told of, among the notes of a store."""
    return layout.packs_note(str(name))


async def read_packs(store: Store, name: ServiceName) -> PublishedPacks | None:
    """The packs that a store has of a list under this name, be it of another list than now."""
    return await list_notes.read(store, packs_note(name), from_json)


def is_usable(found: PublishedPacks, list_sha256: str) -> bool:
    """Whether packs are of this list."""
    return found.list_sha256 == list_sha256


async def read_index(store: Store, found: PublishedPacks) -> PackIndex:
    """The index of packs, read whole: at most some 210 MB, 41 bytes a blob kept, 4 a reference.

    BlobMissing; Corrupt when it is another blob; PackDamaged when it is no index, or not of the
    packs that the note tells of.
    """
    digest, size = found.index
    data = store.at_hand(digest, size)
    if data is None:
        sink = _Bounded(size)
        await store.get(digest, size, sink)
        data = sink.getvalue()
    # Of a million blobs it takes half a second of work.
    return await trio.to_thread.run_sync(_understood, found, data, store.label)


def _understood(found: PublishedPacks, data: bytes, label: str) -> PackIndex:
    digest, size = found.index
    if len(data) != size or digests.of(data) != digest:
        raise Corrupt(f"{label}: the index of packs {digest.hex()} has other bytes")
    index = PackIndex.decode(data)
    if _described(found.list_sha256, found.index, index) != found:
        raise PackDamaged(f"the index of packs {digest.hex()} is not what its note says")
    return index


def blobs_of(found: PublishedPacks, index: PackIndex | None) -> dict[Digest, int]:
    """Digest and size of all that a note names: the index, and the packs as far as it is read."""
    blobs = {found.index.digest: found.index.size}
    if found.start is not None:
        blobs[found.start.digest] = found.start.size
    if index is not None:
        blobs |= {one.digest: one.size for one in index.packs}
    return blobs


async def keep_packs(
    claim: Claim, name: ServiceName, list_sha256: str, new: PublishedPacks | None
) -> bool:
    """What to do under a claim before a list is published (``list_notes.keep``).

    ``new`` packs and their index must be there.
    """

    async def counts(store: Store, found: PublishedPacks) -> bool:
        return found.list_sha256 == list_sha256 and await _are_whole(claim.missing, store, found)

    data = None if new is None else new.to_json()
    return await list_notes.keep(claim, packs_note(name), data, from_json, counts)


async def delete_packs(store: Store, name: ServiceName) -> None:
    """Have no note of packs under this name, after its list was deleted."""
    await list_notes.delete(store, packs_note(name))


async def are_there(store: Store, found: PublishedPacks) -> bool:
    """Whether a store has all that the note names, as far as can be seen; nothing is claimed."""
    return await _are_whole(store.missing, store, found)


async def _are_whole(missing: _Missing, store: Store, found: PublishedPacks) -> bool:
    """Whether ``missing``, which may claim them, finds all blobs that the note names.

    Not for those who cannot read the index, as who may only write: packs can be made again.
    """
    if await missing(blobs_of(found, None)):
        return False
    try:
        index = await read_index(store, found)
    except (BlobMissing, Corrupt, PackDamaged, StoreTrouble):
        return False
    return not await missing(blobs_of(found, index))


class _Bounded(Held):
    """A sink in memory that takes no more than it was promised."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size

    def write(self, data: Any, /) -> int:
        if self.tell() + len(data) > self._size:
            raise Corrupt(f"an index of packs has more than its {self._size} bytes")
        return super().write(data)


def _start_values(start: Start) -> dict[str, object]:
    return {"md5": start.digest.hex(), "size": start.size, "head": start.head}


def _part(values: Mapping[str, Any]) -> Part:
    return Part(digest_in(values["md5"]), number_in(values["size"], 1, longest(MAX_SIZE)))


def _start(values: Mapping[str, Any]) -> Start:
    head = number_in(values["head"], head_size(1), head_size(MAX_COUNT))
    if (head - _HEADER) % _EACH:
        raise ValueError(head)
    return Start(digest_in(values["md5"]), number_in(values["size"], head), head)
