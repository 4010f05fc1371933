"""Images that stores give: whole or not at all, and never mistaken for our own."""

import dataclasses
import hashlib
import os
from pathlib import Path

import pytest
import trio

from aysfs import digest as digests
from aysfs.cache.images import CachedImage, ImageCache
from aysfs.cache.list_key import OWN, ListKey
from aysfs.cache.taking import origin_of, take_image
from aysfs.names import parse_name
from aysfs.publish.image import add_image
from aysfs.store.chain import Chain
from aysfs.store.faults import FlipsLastByte, Stalls
from aysfs.store.memory import MemoryStore
from aysfs.store.protocol import Store
from aysfs.store.tree_image import Part, PublishedImage, read_image
from tests.conftest import ExpectOutput
from tests.trees import directory, regular, written

NAME = parse_name("a__b")
ORIGIN = origin_of("here")
LIST = written([directory(b"/opt"), regular(b"/opt/f", b"content")])
KEY = ListKey(hashlib.sha256(LIST).hexdigest(), 77)


@pytest.fixture
def images(tmp_path: Path) -> ImageCache:
    return ImageCache(tmp_path / "cache")


async def a_store(data: bytes = LIST) -> tuple[MemoryStore, PublishedImage]:
    store = MemoryStore()
    await store.put_list(NAME, [data])
    await add_image(store, NAME)
    found = await read_image(store, NAME)
    assert found is not None
    return store, found


async def take(
    images: ImageCache, store: Store, found: PublishedImage, **more: float
) -> CachedImage | None:
    deadline = more.get("deadline", 10.0)
    size = int(more.get("list_size", len(LIST)))
    return await take_image(images, KEY, size, found, store, origin=ORIGIN, deadline=deadline)


def nothing_is_left(images: ImageCache) -> None:
    assert images.stored() == (0, 0)
    assert not list(images.folder.glob("tmp-*"))


@pytest.mark.usefixtures("no_leaks")
async def test_an_image_is_found_by_its_origin_alone(images: ImageCache) -> None:
    store, found = await a_store()
    taken = await take(images, store, found)
    assert taken is not None
    assert (taken.origin, taken.facts) == (ORIGIN, found.facts)
    tree = taken.tree(b"/opt")
    assert tree.digest(tree.resolve(b"/f")) == digests.of(b"content")
    taken.close()
    for origins in ([OWN], [origin_of("there")], [OWN, origin_of("there")], []):
        assert images.find(KEY, origins=origins) is None
    assert images.find(KEY) is None
    again = images.find(KEY, origins=[OWN, ORIGIN])
    assert again is not None
    assert again.origin == ORIGIN
    again.close()


async def test_nothing_that_was_taken_can_be_called_our_own(images: ImageCache) -> None:
    store, found = await a_store()
    with pytest.raises(ValueError, match="not our own"):
        await take_image(images, KEY, len(LIST), found, store, origin=OWN, deadline=10)
    nothing_is_left(images)


def altered(found: PublishedImage, which: str, **changes: object) -> PublishedImage:
    part: Part = getattr(found, which)
    return dataclasses.replace(found, **{which: part._replace(**changes)})  # type: ignore[arg-type]  # as the test says


@pytest.mark.usefixtures("no_leaks")
@pytest.mark.parametrize("which", ["image", "index"])
async def test_what_is_not_as_the_note_says_is_not_kept(images: ImageCache, which: str) -> None:
    store, found = await a_store()
    part: Part = getattr(found, which)
    data = store.blobs[part.digest]
    wrong = store.add(data[:-1] + b"\1")
    short = store.add(data[:-1])
    for other in (
        altered(found, which, sha256="00" * 32),
        altered(found, which, digest=wrong),  # its md5 is right, and its sha256 is not
        altered(found, which, digest=short, size=len(data) - 1),
        altered(found, which, size=len(data) - 1),
        altered(found, which, size=len(data) + 1),
        altered(found, which, digest=digests.of(b"nowhere")),
    ):
        assert await take(images, store, other) is None
        nothing_is_left(images)


def part_of(store: MemoryStore, data: bytes) -> Part:
    return Part(store.add(data), hashlib.sha256(data).hexdigest(), len(data))


@pytest.mark.usefixtures("no_leaks")
async def test_what_is_no_image_is_not_kept(images: ImageCache) -> None:
    store, found = await a_store()
    other, of_another = await a_store(written([directory(b"/etc")]))
    store.blobs |= other.blobs
    image, index = (store.blobs[part.digest] for part in (found.image, found.index))
    for broken in (
        dataclasses.replace(found, image=part_of(store, b"x")),
        dataclasses.replace(found, image=part_of(store, bytes(len(image)))),
        dataclasses.replace(found, image=part_of(store, image + bytes(4096))),
        dataclasses.replace(found, index=part_of(store, b"x")),
        dataclasses.replace(found, index=part_of(store, index[:-1] + b"\7")),
        dataclasses.replace(found, index=of_another.index),
    ):
        assert await take(images, store, broken) is None
        nothing_is_left(images)


async def test_no_list_has_an_image_of_any_size(images: ImageCache) -> None:
    store, found = await a_store()
    large = altered(found, "image", size=1 << 40)
    assert await take(images, store, large, list_size=1 << 36) is None
    nothing_is_left(images)


async def test_another_store_of_several_has_it(
    images: ImageCache, expected_output: ExpectOutput
) -> None:
    expected_output(r"^WARNING +aysfs\.store\.chain:.*sent wrong bytes.*$")
    store, found = await a_store()
    taken = await take(images, Chain([FlipsLastByte(store), store]), found)
    assert taken is not None
    taken.close()


@pytest.mark.usefixtures("no_leaks")
async def test_a_store_that_hangs_is_waited_for_no_longer_than_asked(images: ImageCache) -> None:
    store, found = await a_store()
    assert await take(images, Stalls(store), found, deadline=0.05) is None
    nothing_is_left(images)


@pytest.mark.usefixtures("no_leaks")
async def test_who_is_cancelled_leaves_nothing(images: ImageCache) -> None:
    store, found = await a_store()
    with trio.move_on_after(0.05) as scope:
        await take(images, Stalls(store), found)
    assert scope.cancelled_caught
    nothing_is_left(images)


async def test_a_full_disk_is_no_reason_to_fail(images: ImageCache, tmp_path: Path) -> None:
    class Full(MemoryStore):
        async def get(self, digest: object, size: int, sink: object) -> None:
            raise OSError(28, os.strerror(28))  # as the sink does

    _, found = await a_store()
    assert await take(images, Full(), found) is None
    nothing_is_left(images)
