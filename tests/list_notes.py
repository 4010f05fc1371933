"""The kinds of list notes, each with an example: what holds for one holds for all of them."""

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import pytest

from aysfs import digest as digests
from aysfs.digest import Digest
from aysfs.image import WRITER_VERSION
from aysfs.image.facts import Facts
from aysfs.names import ServiceName, parse_name
from aysfs.store import packs, tree_image
from aysfs.store.claims import Claim
from aysfs.store.memory import MemoryStore
from aysfs.store.packs import PublishedPacks
from aysfs.store.protocol import Store
from aysfs.store.tree_image import PublishedImage
from tests.packs import indexed, packed

NAME = parse_name("a__b")
LIST, OTHER_LIST = "ab" * 32, "cd" * 32
FACTS = Facts(b"/opt/a", b"/opt/a/\xff", (b"/", b"/opt"), 7, 1)


class Note(Protocol):
    """What a note says, whatever its kind."""

    @property
    def list_sha256(self) -> str: ...
    def to_json(self) -> bytes: ...


T = TypeVar("T", bound=Note)


@dataclass(frozen=True, eq=False)
class Kind(Generic[T]):
    """What the store's floor does with one kind of notes.

    ``example`` is a note of ``LIST``, and ``parts`` are all the blobs that it names. ``blobs`` are
    those of any note, in the order of ``parts``.
    """

    name: str
    example: T
    parts: Mapping[str, bytes]
    from_json: Callable[[bytes], T | None]
    note: Callable[[ServiceName], str]
    read: Callable[[Store, ServiceName], Awaitable[T | None]]
    blobs: Callable[[Store, T], Awaitable[Mapping[Digest, int]]]
    is_usable: Callable[[T, str], bool]
    keep: Callable[[Claim, ServiceName, str, T | None], Awaitable[object]]
    delete: Callable[[Store, ServiceName], Awaitable[None]]

    def __str__(self) -> str:
        return self.name

    def altered(self, **changes: object) -> bytes:
        """The example with other values."""
        return json.dumps(json.loads(self.example.to_json()) | changes).encode()

    async def found(self, store: Store, name: ServiceName = NAME) -> T:
        """The note that a store must have."""
        found = await self.read(store, name)
        assert found is not None
        return found

    async def kept(self, store: Store, sha256: str) -> bool:
        """Whether the note is there after a list was published that brings none along."""
        async with Claim(store) as claim:
            await self.keep(claim, NAME, sha256, None)
        return await self.read(store, NAME) is not None

    async def store(self) -> MemoryStore:
        """A store with the example and its blobs."""
        store = MemoryStore()
        for data in self.parts.values():
            store.add(data)
        async with Claim(store) as claim:
            await self.keep(claim, NAME, LIST, self.example)
        assert await self.read(store, NAME) == self.example
        return store


def _image_example() -> PublishedImage:
    def part(data: bytes) -> tree_image.Part:
        return tree_image.Part(digests.of(data), "01" * 32, len(data))

    return PublishedImage(LIST, -5, WRITER_VERSION, part(b"image"), part(b"index"), FACTS)


async def _image_blobs(_store: Store, found: PublishedImage) -> Mapping[Digest, int]:
    return found.blobs


async def _packs_blobs(store: Store, found: PublishedPacks) -> Mapping[Digest, int]:
    return packs.blobs_of(found, await packs.read_index(store, found))


IMAGE = Kind(
    name="image",
    example=_image_example(),
    parts={"image": b"image", "index": b"index"},
    from_json=tree_image.from_json,
    note=tree_image.image_note,
    read=tree_image.read_image,
    blobs=_image_blobs,
    is_usable=tree_image.is_usable,
    keep=tree_image.keep_image,
    delete=tree_image.delete_image,
)

START, TAIL = packed([b"first", b"second"]), packed([b"third"])
_PACKS, _INDEX = packs.published(LIST, indexed([START, TAIL]))

PACKS = Kind(
    name="packs",
    example=_PACKS,
    parts={"index": _INDEX, "start": START, "tail": TAIL},
    from_json=packs.from_json,
    note=packs.packs_note,
    read=packs.read_packs,
    blobs=_packs_blobs,
    is_usable=packs.is_usable,
    keep=packs.keep_packs,
    delete=packs.delete_packs,
)

KINDS: tuple[Kind[Any], ...] = (IMAGE, PACKS)

each_kind = pytest.mark.parametrize("kind", KINDS, ids=str)
each_part = pytest.mark.parametrize(
    ("kind", "part"), [pytest.param(kind, part) for kind in KINDS for part in kind.parts], ids=str
)
