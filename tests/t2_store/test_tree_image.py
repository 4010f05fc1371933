"""The note of a published image: its bytes, what is read from it, and when it is withdrawn."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aysfs import digest as digests
from aysfs.errors import BadName
from aysfs.image import WRITER_VERSION
from aysfs.image.facts import Facts, Owner
from aysfs.names import parse_name
from aysfs.store.chain import Chain
from aysfs.store.claims import Claim
from aysfs.store.memory import MemoryStore
from aysfs.store.tree_image import (
    Part,
    PublishedImage,
    delete_image,
    from_json,
    image_note,
    is_usable,
    keep_image,
    read_image,
)

NAME = parse_name("a__b")
LIST, OTHER_LIST = "ab" * 32, "cd" * 32
FACTS = Facts(b"/opt/a", b"/opt/a/\xff", (b"/", b"/opt"), 7, 1)


def published(image: bytes = b"image", index: bytes = b"index") -> PublishedImage:
    def part(data: bytes) -> Part:
        return Part(digests.of(data), "01" * 32, len(data))

    return PublishedImage(LIST, -5, WRITER_VERSION, part(image), part(index), FACTS)


def altered(**changes: object) -> bytes:
    return json.dumps(json.loads(published().to_json()) | changes).encode()


def test_the_bytes_of_a_note() -> None:
    """Those of docs/format.md: other versions of this program read them."""
    assert (
        published().to_json().decode()
        == """{
 "facts": {
  "above": [
   "/",
   "/opt"
  ],
  "base": "/opt/a",
  "implied": 1,
  "named": 7,
  "owners": [],
  "trunk": "/opt/a/\\udcff"
 },
 "image": {
  "md5": "78805a221a988e79ef3f42d7c5bfd418",
  "sha256": "0101010101010101010101010101010101010101010101010101010101010101",
  "size": 5
 },
 "index": {
  "md5": "6a992d5529f459a44fee58c733255e86",
  "sha256": "0101010101010101010101010101010101010101010101010101010101010101",
  "size": 5
 },
 "list_sha256": "abababababababababababababababababababababababababababababababab",
 "mtime_ns": -5,
 "version": 1,
 "writer": 2
}
"""
    )
    assert from_json(published().to_json()) == published()
    assert (image_note(NAME), image_note(NAME._replace(tag="1"))) == ("a__b.image", "a__b@1.image")


PART = {"md5": "00" * 16, "sha256": "00" * 32, "size": 1}


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"[]", b"7", b"null", b'"text"', b"\xff", b"[" * 100_000, b'{"version": 1}'),
        altered(version=2),
        altered(list_sha256=LIST[:-1]),
        altered(list_sha256=LIST.upper()),
        altered(list_sha256=None),
        altered(mtime_ns="0"),
        altered(mtime_ns=1 << 63),
        altered(writer=True),
        altered(image=None),
        altered(image=PART | {"size": -1}),
        altered(image=PART | {"size": 0}),
        altered(image=PART | {"size": 1.5}),
        altered(image=PART | {"md5": "../../../../../../etc/passwd...."}),
        altered(image=PART, index=PART),
        altered(facts={}),
        altered(facts=FACTS.to_values() | {"trunk": "/a/../b"}),
        altered(facts=FACTS.to_values() | {"base": "relative"}),
        altered(facts=FACTS.to_values() | {"above": ["/a\0"]}),
        altered(facts=FACTS.to_values() | {"named": float("inf")}),
        altered(facts=FACTS._replace(owners=(Owner("user", "x", 1),)).to_values()),
    ],
)
def test_what_is_no_note_says_nothing(data: bytes) -> None:
    assert from_json(data) is None


@given(st.binary(max_size=40), st.integers(0, 700), st.integers(0, 20))
def test_no_bytes_are_too_strange(noise: bytes, at: int, less: int) -> None:
    good = published().to_json()
    found = from_json(good[:at] + noise + good[at + less :])
    assert found is None or isinstance(found, PublishedImage)


def test_an_image_of_another_list_or_writer_is_of_no_use() -> None:
    found = published()
    assert is_usable(found, LIST)
    assert not is_usable(found, OTHER_LIST)
    later = altered(writer=WRITER_VERSION + 1)
    found_later = from_json(later)
    assert found_later is not None
    assert not is_usable(found_later, LIST)


async def store_with_image() -> MemoryStore:
    store = MemoryStore()
    store.add(b"image"), store.add(b"index")
    async with Claim(store) as claim:
        await keep_image(claim, NAME, LIST, published())
    assert await read_image(store, NAME) == published()
    return store


async def kept(store: MemoryStore | Chain, sha256: str) -> bool:
    async with Claim(store) as claim:
        await keep_image(claim, NAME, sha256, None)
    return await read_image(store, NAME) is not None


async def test_an_image_of_the_same_list_stays() -> None:
    store = await store_with_image()
    assert await kept(store, LIST)
    assert list(store.noted) == ["a__b.image"]


async def test_an_image_of_another_list_is_withdrawn_by_whoever_may_only_write() -> None:
    store = await store_with_image()
    assert not await kept(store, OTHER_LIST)
    assert not await kept(store, LIST)  # for good
    await delete_image(store, NAME)
    assert list(store.noted) == []


@pytest.mark.parametrize("lost", [b"image", b"index"])
async def test_an_image_that_is_not_whole_is_withdrawn(lost: bytes) -> None:
    store = await store_with_image()
    del store.blobs[digests.of(lost)]
    assert not await kept(store, LIST)


async def test_an_image_in_any_store_of_several_is_withdrawn() -> None:
    chain = Chain([MemoryStore(), await store_with_image()])
    assert not await kept(chain, OTHER_LIST)
    assert not await kept(chain.stores[1], LIST)  # type: ignore[arg-type]  # it is a MemoryStore


async def test_nothing_is_written_where_there_was_no_image() -> None:
    store = MemoryStore()
    assert not await kept(store, LIST)
    assert store.noted == {}
    await delete_image(store, NAME)


async def test_a_deleted_image_is_gone_from_every_store() -> None:
    first, second = await store_with_image(), await store_with_image()
    await delete_image(Chain([first, MemoryStore(), second]), NAME)
    assert first.noted == second.noted == {}


async def test_a_name_that_is_too_long_for_a_note_has_no_image() -> None:
    name = parse_name("a__" + "b" * 230)
    store = MemoryStore()
    assert await read_image(store, name) is None
    async with Claim(store) as claim:
        await keep_image(claim, name, LIST, None)
        with pytest.raises(BadName):
            await keep_image(claim, name, LIST, published())
