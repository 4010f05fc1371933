"""Profiles in stores: found again by their service, told when damaged, gone when deleted."""

import pytest

from aysfs import digest as digests
from aysfs.errors import BadName, BadProfile
from aysfs.names import parse_name
from aysfs.profile import Profile, Read
from aysfs.store.chain import Chain
from aysfs.store.memory import MemoryStore
from aysfs.store.profile import delete_profile, profile_note, read_profile, write_profile

NAME, LONG = parse_name("a__b"), parse_name(f"a__{'b' * 200}")
PROFILE = Profile(2, (Read(digests.of(b"x"), 1, 5, 2), Read(digests.of(b"y"), 1, 9, 1)))


def test_the_name_of_a_note() -> None:
    assert profile_note(NAME) == "a__b.profile"
    assert profile_note(NAME._replace(tag="1.2")) == "a__b@1.2.profile"


async def test_a_profile_is_read_as_it_was_written() -> None:
    store = MemoryStore()
    assert await read_profile(store, NAME) is None
    await write_profile(store, NAME, PROFILE)
    assert store.noted["a__b.profile"] == PROFILE.to_bytes()
    assert await read_profile(store, NAME) == PROFILE
    assert await read_profile(store, NAME._replace(tag="1")) is None


async def test_a_damaged_profile_is_told_by_store_and_line() -> None:
    store = MemoryStore()
    store.noted["a__b.profile"] = PROFILE.to_bytes() + b"x\n"
    with pytest.raises(BadProfile, match=rf"{store.label}: a__b\.profile:5: no `md5"):
        await read_profile(store, NAME)


async def test_a_deleted_profile_is_gone_from_every_store() -> None:
    first, second = MemoryStore(), MemoryStore()
    chain = Chain([first, second])
    await write_profile(chain, NAME, PROFILE)
    assert first.noted == second.noted != {}
    del first.noted["a__b.profile"]
    await delete_profile(chain, NAME)
    assert first.noted == second.noted == {}


async def test_a_service_whose_name_is_too_long_for_a_note_has_no_profile() -> None:
    store = MemoryStore()
    assert await read_profile(store, LONG) is None
    await delete_profile(store, LONG)
    with pytest.raises(BadName, match="no name of a note"):
        await write_profile(store, LONG, PROFILE)
