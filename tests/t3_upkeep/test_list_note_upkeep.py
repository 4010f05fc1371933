"""What notes beside lists name, in the care of upkeep: kept, checked, copied, tagged, counted."""

from typing import Any

import pytest

from aysfs import digest as digests
from aysfs.store.memory import MemoryStore
from aysfs.upkeep.check import Hurt, Wrong, check
from aysfs.upkeep.copy import copy, retag
from aysfs.upkeep.info import info
from aysfs.upkeep.lists import remove_list
from tests.conftest import ExpectOutput
from tests.list_notes import IMAGE, NAME, PACKS, Kind, each_kind, each_part
from tests.t3_upkeep.noted import FILES, PROFILE, a_store, damage_of, new_list, parts_of, swept

TAGGED = NAME._replace(tag="1")


# --- gc ----------------------------------------------------------------------------------


@each_kind
async def test_a_gc_keeps_what_a_note_names_as_long_as_its_list(kind: Kind[Any]) -> None:
    store, _ = await a_store(kind)
    assert await swept(store) == 0
    await new_list(store)
    assert await swept(store) == len(kind.parts)
    assert set(store.blobs) == set(map(digests.of, FILES))


@each_kind
async def test_a_gc_deletes_what_was_named_beside_a_list_that_is_gone(kind: Kind[Any]) -> None:
    store, _ = await a_store(kind)
    await store.write_note("a__b.profile", PROFILE)
    await remove_list(store, NAME)
    assert store.noted == {}
    assert await swept(store) == len(kind.parts) + len(FILES)


@each_kind
async def test_a_note_that_says_nothing_stops_no_gc(kind: Kind[Any]) -> None:
    store, _ = await a_store(kind)
    store.noted[kind.note(NAME)] = b"nonsense"
    assert await swept(store) == len(kind.parts)
    assert set(store.blobs) == set(map(digests.of, FILES))


# --- check -------------------------------------------------------------------------------


@each_kind
async def test_what_is_whole_is_no_damage(kind: Kind[Any]) -> None:
    store, _ = await a_store(kind)
    for deep in (False, True):
        report = await check(store, deep=deep)
        assert (report.damage, report.blobs) == ([], len(FILES) + len(kind.parts))


@each_part
async def test_a_missing_part_is_named(kind: Kind[Any], part: str) -> None:
    store, found = await a_store(kind)
    digest = (await parts_of(kind, store, found))[part]
    del store.blobs[digest]
    hurt = {Hurt(kind.note(NAME).encode(), digest, Wrong.MISSING)}
    for deep in (False, True):
        assert await damage_of(store, deep=deep) == hurt
    [damage] = (await check(store)).damage
    # Without their index, no other packs are known than the first.
    known = 2 if part == "index" else len(kind.parts)
    assert (damage.files, damage.missing, damage.corrupt) == (len(FILES) + known, 1, 0)


@pytest.mark.parametrize(
    ("kind", "altered", "lost"), [(IMAGE, "image", "index"), (PACKS, "start", "tail")], ids=str
)
async def test_all_parts_that_are_wrong_are_named(kind: Kind[Any], altered: str, lost: str) -> None:
    store, found = await a_store(kind)
    parts = await parts_of(kind, store, found)
    data = bytearray(store.blobs[parts[altered]])
    data[-1] ^= 1
    store.blobs[parts[altered]] = bytes(data)
    del store.blobs[parts[lost]]
    [damage] = (await check(store, deep=True)).damage
    files = len(FILES) + len(kind.parts)
    assert (damage.files, damage.missing, damage.corrupt) == (files, 1, 1)
    note = kind.note(NAME).encode()
    assert set(damage.hurt) == {
        Hurt(note, parts[altered], Wrong.BYTES),
        Hurt(note, parts[lost], Wrong.MISSING),
    }


@each_kind
async def test_what_another_list_had_is_no_damage(kind: Kind[Any]) -> None:
    store, _ = await a_store(kind)
    await new_list(store)
    store.blobs = {digests.of(data): data for data in FILES}
    report = await check(store, deep=True)
    assert (report.damage, report.blobs) == ([], len(FILES))


# --- copy, tag, remove, info -------------------------------------------------------------


@each_kind
async def test_a_copy_takes_along_what_a_note_names_and_a_profile(kind: Kind[Any]) -> None:
    store, found = await a_store(kind)
    await store.write_note("a__b.profile", PROFILE)
    target = MemoryStore("target")
    report = await copy(store, target, [NAME])
    assert (report.copied, report.blobs) == ([NAME], len(FILES) + len(kind.parts))
    assert await kind.found(target) == found
    assert target.noted["a__b.profile"] == PROFILE
    assert (await check(target, deep=True)).damage == []
    assert (await copy(store, target, [NAME])).blobs == 0


@each_part
async def test_a_copy_leaves_behind_what_is_damaged(
    kind: Kind[Any], part: str, expected_output: ExpectOutput
) -> None:
    words = {"image": "image is", "packs": "packs are"}[kind.name]
    expected_output(rf"^WARNING +aysfs\.upkeep\.copy:.*its {words} not copied.*$")
    store, found = await a_store(kind)
    del store.blobs[(await parts_of(kind, store, found))[part]]
    target = MemoryStore("target")
    report = await copy(store, target, [NAME])
    assert (report.copied, report.failed) == ([NAME], {})
    assert await kind.read(target, NAME) is None


@each_kind
async def test_a_copy_of_a_list_without_a_note_withdraws_that_of_the_list_before(
    kind: Kind[Any],
) -> None:
    store, _ = await a_store(kind)
    target = MemoryStore("target")
    await copy(store, target, [NAME])
    store.noted.clear()
    await new_list(store)
    await copy(store, target, [NAME])
    assert await kind.read(target, NAME) is None


@each_kind
async def test_a_tag_has_what_its_list_has_and_keeps_it(kind: Kind[Any]) -> None:
    store, found = await a_store(kind)
    await store.write_note("a__b.profile", PROFILE)
    await retag(store, NAME, TAGGED)
    assert await kind.found(store, TAGGED) == found
    assert store.noted["a__b@1.profile"] == PROFILE
    await new_list(store)
    assert await swept(store) == 0
    await retag(store, TAGGED, NAME)
    assert await kind.found(store) == found
    assert not await store.missing(await kind.blobs(store, found))
    await remove_list(store, TAGGED)
    assert set(store.noted) == {kind.note(NAME), "a__b.profile"}


@each_kind
async def test_info_counts_what_notes_name(kind: Kind[Any]) -> None:
    store, note = await a_store(kind)
    whole = sum((await kind.blobs(store, note)).values())
    await retag(store, NAME, TAGGED)
    found = await info(store)
    counted = {
        "image": (found.images, found.images_size),
        "packs": (found.packed, found.packed_size),
    }
    assert counted.pop(kind.name) == (2, 2 * whole)
    assert [*counted.values()] == [(0, 0)]
    assert (found.named, found.unnamed) == (len(FILES) + len(kind.parts), 0)
    assert found.saved == whole + sum(map(len, FILES))
