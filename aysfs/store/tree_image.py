"""Tree images that stores hold: the note beside a list that names one, and when it counts.

Serves whoever publishes, looks after or uses them. Owns the note `<service>.image`
(docs/format.md, "Published images"). An image is two ordinary blobs; what makes them somebody's
is the note, and only while the list that it speaks of is the list under its name. What the note
says of the image is the store's word: nobody here has compared it with the list.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from aysfs.digest import Digest
from aysfs.flist.rules import check_path
from aysfs.image import WRITER_VERSION
from aysfs.image.facts import Facts, facts_from
from aysfs.names import ServiceName
from aysfs.store import layout, list_notes
from aysfs.store.claims import Claim
from aysfs.store.note_values import LARGEST_NUMBER, digest_in, number_in, sha256_in
from aysfs.store.protocol import Store

VERSION = 1


class Part(NamedTuple):
    """One of the two files of an image, as a blob."""

    digest: Digest
    sha256: str
    size: int


@dataclass(frozen=True)
class PublishedImage:
    """An image in a store, and the list that it was made of."""

    list_sha256: str
    mtime_ns: int
    """What directories that no line of the list names are dated by."""
    writer: int
    image: Part
    index: Part
    facts: Facts

    @property
    def blobs(self) -> dict[Digest, int]:
        """Digest and size of both files."""
        return {one.digest: one.size for one in (self.image, self.index)}

    @property
    def size(self) -> int:
        """Bytes of both files."""
        return self.image.size + self.index.size

    def to_json(self) -> bytes:
        """The note. The same image gives the same bytes."""
        values = {
            "version": VERSION,
            "list_sha256": self.list_sha256,
            "mtime_ns": self.mtime_ns,
            "writer": self.writer,
            "image": _part_values(self.image),
            "index": _part_values(self.index),
            "facts": self.facts.to_values(),
        }
        return json.dumps(values, indent=1, sort_keys=True).encode() + b"\n"


def from_json(data: bytes) -> PublishedImage | None:
    """What a note says; None for one that says nothing that is understood here."""
    try:
        values = json.loads(data)
        if values["version"] != VERSION:
            return None
        found = PublishedImage(
            list_sha256=sha256_in(values["list_sha256"]),
            mtime_ns=number_in(values["mtime_ns"], -LARGEST_NUMBER),
            writer=number_in(values["writer"]),
            image=_part(values["image"]),
            index=_part(values["index"]),
            facts=_facts(values["facts"]),
        )
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError):
        return None
    # Sizes are taken for those of blobs, and one blob has one size.
    same = found.image.digest == found.index.digest
    return None if found.facts.owners or same else found


def image_note(name: ServiceName) -> str:
    """Where the image of a list is told of, among the notes of a store."""
    return layout.image_note(str(name))


async def read_image(store: Store, name: ServiceName) -> PublishedImage | None:
    """The image that a store has of a list under this name, be it of another list than now."""
    return await list_notes.read(store, image_note(name), from_json)


def is_usable(found: PublishedImage, list_sha256: str) -> bool:
    """Whether an image is of this list, and of the form that is written and read here."""
    return found.list_sha256 == list_sha256 and found.writer == WRITER_VERSION


async def keep_image(
    claim: Claim, name: ServiceName, list_sha256: str, new: PublishedImage | None
) -> None:
    """What to do under a claim before a list is published (``list_notes.keep``).

    A ``new`` image must be there.
    """

    async def counts(_store: Store, found: PublishedImage) -> bool:
        return found.list_sha256 == list_sha256 and not await claim.missing(found.blobs)

    data = None if new is None else new.to_json()
    await list_notes.keep(claim, image_note(name), data, from_json, counts)


async def delete_image(store: Store, name: ServiceName) -> None:
    """Have no note of an image under this name, after its list was deleted."""
    await list_notes.delete(store, image_note(name))


def _part_values(part: Part) -> dict[str, object]:
    return {"md5": part.digest.hex(), "sha256": part.sha256, "size": part.size}


def _part(values: Mapping[str, Any]) -> Part:
    digest = digest_in(values["md5"])
    return Part(digest, sha256_in(values["sha256"]), number_in(values["size"], 1))


def _facts(values: Mapping[str, Any]) -> Facts:
    facts = facts_from(values)
    for path in (facts.base or b"/", facts.trunk, *facts.above):
        check_path(path)
    return facts
