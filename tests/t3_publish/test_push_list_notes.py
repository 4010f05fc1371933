"""What a push does with every kind of note beside the list that it publishes."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from aysfs.errors import StoreTrouble
from aysfs.names import ServiceName
from aysfs.publish.push import PushReport, push
from aysfs.store.chain import Chain
from aysfs.store.faults import Passes
from aysfs.store.memory import MemoryStore
from aysfs.store.protocol import BlobSource
from aysfs.upkeep.check import check
from tests.list_notes import IMAGE, NAME, PACKS, Kind, each_kind

TAGGED = NAME._replace(tag="1")

pytestmark = pytest.mark.usefixtures("small_packs")


def push_with(kind: Kind[Any]) -> Callable[..., Awaitable[PushReport]]:
    """A push that publishes what such a note names."""
    return partial(push, image=kind is IMAGE, packs=kind is PACKS)


@each_kind
async def test_the_same_tree_gives_the_same_note(kind: Kind[Any], many_files: Path) -> None:
    first, second = MemoryStore(clock_ns=lambda: 1), MemoryStore(clock_ns=lambda: 2)
    for store in (first, second):
        await push_with(kind)(many_files, NAME, store)
    assert (first.blobs, first.noted) == (second.blobs, second.noted)


@each_kind
async def test_a_tag_has_the_note_too_and_every_store(kind: Kind[Any], many_files: Path) -> None:
    first, second = MemoryStore(), MemoryStore()
    await push_with(kind)(many_files, NAME, Chain([first, second]), tag="1")
    for store in (first, second):
        assert await kind.found(store) == await kind.found(store, TAGGED)
        assert (await check(store, deep=True)).damage == []


@each_kind
async def test_a_push_without_a_note_withdraws_that_of_another_list(
    kind: Kind[Any], many_files: Path
) -> None:
    store = MemoryStore()
    await push_with(kind)(many_files, NAME, store, tag="1")
    await push(many_files, NAME, store)
    assert await kind.read(store, NAME) is not None  # the list is the same
    (many_files / "new").write_bytes(b"new")
    await push(many_files, NAME, store)
    assert await kind.read(store, NAME) is None
    assert await kind.read(store, TAGGED) is not None


class NoteLast(Passes):
    """Sees that all blobs are there before the note, and the note before the list."""

    def __init__(self, memory: MemoryStore, kind: Kind[Any]) -> None:
        super().__init__(memory)
        self._memory = memory
        self._kind = kind
        self.order: list[str] = []

    async def write_note(self, name: str, data: bytes) -> None:
        await super().write_note(name, data)
        if name == self._kind.note(NAME):
            found = await self._kind.found(self._memory)
            assert not await self._memory.missing(await self._kind.blobs(self._memory, found))
            self.order.append("note")

    async def put_list(self, name: ServiceName, chunks: Iterable[bytes]) -> None:
        await super().put_list(name, chunks)
        self.order.append("list")


@each_kind
async def test_blobs_come_before_the_note_and_the_note_before_the_list(
    kind: Kind[Any], many_files: Path
) -> None:
    store = NoteLast(MemoryStore(), kind)
    await push_with(kind)(many_files, NAME, store)
    assert store.order == ["note", "list"]


class NoRoom(Passes):
    """Takes no blob as large as an image or a pack."""

    async def put_many(self, sources: Sequence[BlobSource]) -> None:
        if any(one.size >= 3000 for one in sources):
            raise StoreTrouble("full")
        await super().put_many(sources)


@each_kind
async def test_what_does_not_fit_publishes_nothing(
    kind: Kind[Any], many_files: Path, no_leaks: None
) -> None:
    memory = MemoryStore()
    with pytest.raises(StoreTrouble, match="full"):
        await push_with(kind)(many_files, NAME, NoRoom(memory))
    assert memory.published == {}
    assert memory.noted == {}
