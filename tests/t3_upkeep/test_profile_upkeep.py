"""Profiles in the care of upkeep: of no list, so kept through versions; copied, tagged, removed."""

from aysfs import digest as digests
from aysfs.names import parse_name
from aysfs.profile import Profile, Read
from aysfs.store.memory import MemoryStore
from aysfs.store.profile import read_profile, write_profile
from aysfs.upkeep.check import check
from aysfs.upkeep.copy import copy, retag
from aysfs.upkeep.gc import gc
from aysfs.upkeep.lists import remove_list
from tests.conftest import ExpectOutput
from tests.t3_upkeep.listed import listed

NAME = parse_name("a__b")
TAGGED = NAME._replace(tag="1")
PROFILE = Profile(1, (Read(digests.of(b"file"), 4, 5), Read(digests.of(b"nobody's"), 8, 9)))
OTHER = Profile(2, (Read(digests.of(b"other"), 5, 0),))


async def a_store() -> MemoryStore:
    store = MemoryStore()
    store.add(b"file")
    await store.put_list(NAME, [listed(b"file")])
    await write_profile(store, NAME, PROFILE)
    return store


async def test_a_profile_keeps_no_blob_and_outlives_a_gc() -> None:
    store = await a_store()
    store.add(b"nobody's")
    report = await gc(store, grace=-1, delete=True, settle=0)
    assert report.blobs.files == 1
    assert set(store.blobs) == {digests.of(b"file")}
    assert await read_profile(store, NAME) == PROFILE


async def test_what_a_profile_names_and_is_not_there_is_no_damage() -> None:
    store = await a_store()
    assert (await check(store, deep=True)).damage == []


async def test_a_copied_service_has_its_profile() -> None:
    store, target = await a_store(), MemoryStore()
    await write_profile(target, NAME, OTHER)
    await copy(store, target, [NAME])
    assert await read_profile(target, NAME) == PROFILE


async def test_a_service_that_is_copied_without_a_profile_keeps_that_of_the_target() -> None:
    store, target = await a_store(), MemoryStore()
    del store.noted["a__b.profile"]
    await write_profile(target, NAME, OTHER)
    report = await copy(store, target, [NAME])
    assert report.copied == [NAME]
    assert await read_profile(target, NAME) == OTHER


async def test_a_damaged_profile_is_not_copied(expected_output: ExpectOutput) -> None:
    expected_output(r"WARNING .*a__b: its profile is not copied: .*a__b.profile:1: .*")
    store, target = await a_store(), MemoryStore()
    store.noted["a__b.profile"] = b"nonsense\n"
    report = await copy(store, target, [NAME])
    assert report.copied == [NAME]
    assert target.noted == {}


async def test_a_tag_has_the_profile_of_its_time() -> None:
    store = await a_store()
    await retag(store, NAME, TAGGED)
    await write_profile(store, NAME, OTHER)
    assert await read_profile(store, TAGGED) == PROFILE
    await retag(store, TAGGED, NAME)
    assert await read_profile(store, NAME) == PROFILE


async def test_a_removed_list_takes_its_profile_with_it() -> None:
    store = await a_store()
    await retag(store, NAME, TAGGED)
    await remove_list(store, TAGGED)
    assert list(store.noted) == ["a__b.profile"]
    await remove_list(store, NAME)
    assert store.noted == {}
