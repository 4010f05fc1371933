"""A gc beside whoever publishes what a note names: what a note of a list names is there.

Every place where the one can be cut in two is tried, and the other does all its work there.
"""

from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from aysfs import digest as digests
from aysfs.digest import Digest
from aysfs.pack import cut
from aysfs.publish.image import add_image
from aysfs.publish.packs import add_packs
from aysfs.publish.push import push
from aysfs.store.memory import MemoryStore
from aysfs.store.protocol import Store
from aysfs.upkeep.copy import retag
from tests.list_notes import IMAGE, NAME, PACKS, Kind, each_kind
from tests.t3_upkeep.noted import is_noted
from tests.t3_upkeep.turns import Plan, Turns, beside_a_gc, every_cut, is_complete, new_store

TAGGED = NAME._replace(tag="1")
PROFILE = b"#profile 1\n#runs 1\n%s|1|0|1\n" % digests.of(b"3").hex().encode()

pytestmark = pytest.mark.usefixtures("small_batches", "two_packs")


@pytest.fixture
def two_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tail packs of two blobs of the tree each."""
    monkeypatch.setattr(cut, "LEAST", 15)
    monkeypatch.setattr(cut, "MOST", 25)


async def store_for(kind: Kind[Any]) -> MemoryStore:
    """An empty store, where packs will have a start pack."""
    store = new_store()
    if kind is PACKS:
        await store.write_note("a__b.profile", PROFILE)
    return store


async def publish(
    kind: Kind[Any], tree: Path, store: Store, base: bytes, *, noted: bool = True
) -> None:
    """Push the tree, with what a note names or without."""
    image, packs = (noted and kind is one for one in (IMAGE, PACKS))
    await push(tree, NAME, store, base=base, image=image, packs=packs)


async def store_with_an_old_note(kind: Kind[Any], tree: Path) -> MemoryStore:
    """A newer list came from a writer that knows nothing of notes, which left that of /old."""
    store = await store_for(kind)
    await publish(kind, tree, store, b"/old")
    left = store.noted[kind.note(NAME)]
    await publish(kind, tree, store, b"/new", noted=False)
    store.noted[kind.note(NAME)] = left
    return store


@pytest.mark.parametrize("files", [False, True], ids=["without-files", "with-files"])
@each_kind
def test_a_push_beside_a_gc(tree: Path, kind: Kind[Any], files: bool) -> None:
    """What the note will name is there already, and nobody's."""

    async def blobs() -> dict[Digest, bytes]:
        store = await store_for(kind)
        await publish(kind, tree, store, b"/top")
        assert len(store.blobs) == 4 + len(kind.parts) + (kind is PACKS)  # a second tail pack
        named = await kind.blobs(store, await kind.found(store))
        return store.blobs if files else {one: store.blobs[one] for one in named}

    before = trio.run(blobs, clock=trio.testing.MockClock())

    async def scene(plan: Plan) -> int:
        store = await store_for(kind)
        store.blobs.update(before)
        steps = await beside_a_gc(store, plan, lambda turns: publish(kind, tree, turns, b"/top"))
        await is_complete(store, NAME)
        assert await is_noted(kind, store, NAME)
        return steps

    every_cut(scene)


@pytest.mark.parametrize("noted", [False, True], ids=["without-note", "with-note"])
@each_kind
def test_a_list_that_comes_back_beside_a_gc(tree: Path, kind: Kind[Any], noted: bool) -> None:
    async def scene(plan: Plan) -> int:
        store = await store_with_an_old_note(kind, tree)
        steps = await beside_a_gc(
            store, plan, lambda turns: publish(kind, tree, turns, b"/old", noted=noted)
        )
        await is_complete(store, NAME)
        assert await is_noted(kind, store, NAME) or not noted
        return steps

    every_cut(scene)


@each_kind
def test_a_note_for_a_list_that_is_there_beside_a_gc(tree: Path, kind: Kind[Any]) -> None:
    """Some of what it will name is there from before, of a list that is gone."""

    async def add(turns: Turns) -> None:
        if kind is IMAGE:
            await add_image(turns, NAME)
        else:
            await add_packs(turns, NAME)

    async def scene(plan: Plan) -> int:
        store = await store_with_an_old_note(kind, tree)
        steps = await beside_a_gc(store, plan, add)
        await is_complete(store, NAME)
        assert await is_noted(kind, store, NAME)
        return steps

    every_cut(scene)


@each_kind
def test_a_tag_for_a_list_with_a_note_beside_a_gc(tree: Path, kind: Kind[Any]) -> None:
    """While the tag is made, the current list goes on to a newer one."""

    async def scene(plan: Plan) -> int:
        store = await store_for(kind)
        await publish(kind, tree, store, b"/old")

        async def tag_and_go_on(turns: Turns) -> None:
            await retag(turns, NAME, TAGGED)
            await publish(kind, tree, turns, b"/new", noted=False)

        steps = await beside_a_gc(store, plan, tag_and_go_on)
        await is_complete(store, NAME, TAGGED)
        assert await is_noted(kind, store, TAGGED)
        assert not await is_noted(kind, store, NAME)
        return steps

    every_cut(scene)
