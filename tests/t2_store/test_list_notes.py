"""What every kind of list notes promises: when it counts, is withdrawn and goes."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aysfs import digest as digests
from aysfs.errors import BadName
from aysfs.names import parse_name
from aysfs.store.chain import Chain
from aysfs.store.claims import Claim
from aysfs.store.memory import MemoryStore
from tests.list_notes import LIST, NAME, OTHER_LIST, Kind, each_kind, each_part

# --- its bytes ---------------------------------------------------------------------------


@each_kind
def test_what_is_written_is_read_again(kind: Kind[Any]) -> None:
    assert kind.from_json(kind.example.to_json()) == kind.example


@each_kind
def test_a_note_is_beside_its_list(kind: Kind[Any]) -> None:
    assert kind.note(NAME) == f"a__b.{kind}"
    assert kind.note(NAME._replace(tag="1")) == f"a__b@1.{kind}"


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"7", b"null", b'"text"', b"\xff", b"[" * 100_000, b'{"version": 1}']
)
@each_kind
def test_what_is_no_note_says_nothing(kind: Kind[Any], data: bytes) -> None:
    assert kind.from_json(data) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2},
        {"list_sha256": LIST[:-1]},
        {"list_sha256": LIST.upper()},
        {"list_sha256": None},
    ],
)
@each_kind
def test_a_note_of_no_list_or_of_another_version_says_nothing(
    kind: Kind[Any], changes: dict[str, object]
) -> None:
    assert kind.from_json(kind.altered(**changes)) is None


@each_kind
@given(st.binary(max_size=40), st.integers(0, 10_000), st.integers(0, 20))
def test_no_bytes_are_too_strange(kind: Kind[Any], noise: bytes, at: int, less: int) -> None:
    good = kind.example.to_json()
    at %= len(good) + 1
    found = kind.from_json(good[:at] + noise + good[at + less :])
    assert found is None or isinstance(found, type(kind.example))


# --- when it counts ----------------------------------------------------------------------


@each_kind
def test_what_another_list_has_is_of_no_use(kind: Kind[Any]) -> None:
    assert kind.is_usable(kind.example, LIST)
    assert not kind.is_usable(kind.example, OTHER_LIST)


@each_kind
async def test_a_note_of_the_same_list_stays(kind: Kind[Any]) -> None:
    store = await kind.store()
    assert await kind.kept(store, LIST)
    assert list(store.noted) == [f"a__b.{kind}"]


@each_kind
async def test_a_note_of_another_list_is_withdrawn_by_whoever_may_only_write(
    kind: Kind[Any],
) -> None:
    store = await kind.store()
    assert not await kind.kept(store, OTHER_LIST)
    assert not await kind.kept(store, LIST)  # for good
    await kind.delete(store, NAME)
    assert list(store.noted) == []


@each_part
async def test_a_note_of_what_is_not_whole_is_withdrawn(kind: Kind[Any], part: str) -> None:
    store = await kind.store()
    del store.blobs[digests.of(kind.parts[part])]
    assert not await kind.kept(store, LIST)


@each_kind
async def test_a_note_in_any_store_of_several_is_withdrawn(kind: Kind[Any]) -> None:
    chain = Chain([MemoryStore(), await kind.store()])
    assert not await kind.kept(chain, OTHER_LIST)
    assert not await kind.kept(chain.stores[1], LIST)


@each_kind
async def test_nothing_is_written_where_there_was_no_note(kind: Kind[Any]) -> None:
    store = MemoryStore()
    assert not await kind.kept(store, LIST)
    assert store.noted == {}
    await kind.delete(store, NAME)


@each_kind
async def test_a_deleted_note_is_gone_from_every_store(kind: Kind[Any]) -> None:
    first, second = await kind.store(), await kind.store()
    await kind.delete(Chain([first, MemoryStore(), second]), NAME)
    assert first.noted == second.noted == {}


@each_kind
async def test_a_list_with_too_long_a_name_has_no_note(kind: Kind[Any]) -> None:
    name = parse_name("a__" + "b" * 230)
    store = MemoryStore()
    assert await kind.read(store, name) is None
    async with Claim(store) as claim:
        await kind.keep(claim, name, LIST, None)
        with pytest.raises(BadName):
            await kind.keep(claim, name, LIST, kind.example)
