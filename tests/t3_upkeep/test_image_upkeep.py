"""Published images in the care of upkeep: kept, checked, copied, tagged, removed, counted."""

from aysfs import digest as digests
from aysfs.names import ServiceName, parse_name
from aysfs.publish.image import add_image
from aysfs.store.memory import MemoryStore
from aysfs.store.tree_image import PublishedImage, read_image
from aysfs.upkeep.check import Hurt, Wrong, check
from aysfs.upkeep.copy import copy, retag
from aysfs.upkeep.gc import gc
from aysfs.upkeep.info import info
from aysfs.upkeep.lists import remove_list
from tests.conftest import ExpectOutput
from tests.t3_upkeep.test_gc import listed

NAME, OTHER = parse_name("a__b"), parse_name("c__d")
TAGGED = NAME._replace(tag="1")


async def a_store() -> tuple[MemoryStore, PublishedImage]:
    store = MemoryStore()
    store.add(b"file")
    await store.put_list(NAME, [listed(b"file")])
    await add_image(store, NAME)
    return store, await image_in(store, NAME)


async def image_in(store: MemoryStore, name: ServiceName) -> PublishedImage:
    found = await read_image(store, name)
    assert found is not None
    return found


async def sweep(store: MemoryStore) -> int:
    report = await gc(store, grace=-1, delete=True, settle=0)
    return report.blobs.files


async def test_a_gc_keeps_an_image_as_long_as_its_list() -> None:
    store, image = await a_store()
    assert await sweep(store) == 0
    await store.put_list(NAME, [listed(b"file", b"file")])
    assert await sweep(store) == 2
    assert await store.missing(image.blobs) == set(image.blobs)


async def test_a_gc_deletes_the_image_of_a_list_that_is_gone() -> None:
    store, _ = await a_store()
    await remove_list(store, NAME)
    assert store.noted == {}
    assert await sweep(store) == 3


async def test_a_note_that_says_nothing_stops_no_gc() -> None:
    store, _ = await a_store()
    store.noted["a__b.image"] = b"nonsense"
    assert await sweep(store) == 2
    assert digests.of(b"file") in store.blobs


async def test_check_names_what_is_lacking_of_an_image() -> None:
    store, image = await a_store()
    report = await check(store, deep=True)
    assert (report.damage, report.blobs) == ([], 3)
    data = bytearray(store.blobs[image.image.digest])
    data[-1] ^= 1
    store.blobs[image.image.digest] = bytes(data)
    del store.blobs[image.index.digest]
    [damage] = (await check(store, deep=True)).damage
    assert (damage.files, damage.missing, damage.corrupt) == (3, 1, 1)
    assert set(damage.hurt) == {
        Hurt(b"a__b.image", image.image.digest, Wrong.BYTES),
        Hurt(b"a__b.image", image.index.digest, Wrong.MISSING),
    }


async def test_an_image_of_another_list_is_no_damage() -> None:
    store, image = await a_store()
    await store.put_list(NAME, [listed(b"file", b"file")])
    store.blobs = {digests.of(b"file"): b"file"}
    report = await check(store, deep=True)
    assert (report.damage, report.blobs) == ([], 1)
    assert image.list_sha256 != ""


async def test_a_copy_takes_the_image_along() -> None:
    store, image = await a_store()
    target = MemoryStore("target")
    report = await copy(store, target, [NAME])
    assert (report.copied, report.blobs) == ([NAME], 3)
    assert await image_in(target, NAME) == image
    assert (await check(target, deep=True)).damage == []
    assert (await copy(store, target, [NAME])).blobs == 0


async def test_a_copy_leaves_a_damaged_image_behind(expected_output: ExpectOutput) -> None:
    expected_output(r"^WARNING +aysfs\.upkeep\.copy:.*its image is not copied.*$")
    store, image = await a_store()
    del store.blobs[image.index.digest]
    target = MemoryStore("target")
    report = await copy(store, target, [NAME])
    assert (report.copied, report.failed) == ([NAME], {})
    assert await read_image(target, NAME) is None


async def test_a_copy_of_a_list_without_image_withdraws_that_of_the_list_before() -> None:
    store, _ = await a_store()
    target = MemoryStore("target")
    await copy(store, target, [NAME])
    store.noted.clear()
    await store.put_list(NAME, [listed(b"file", b"file")])
    await copy(store, target, [NAME])
    assert await read_image(target, NAME) is None


async def test_a_tag_has_its_list_s_image_and_keeps_it() -> None:
    store, image = await a_store()
    await retag(store, NAME, TAGGED)
    assert await image_in(store, TAGGED) == image
    await store.put_list(NAME, [listed(b"file", b"file")])
    assert await sweep(store) == 0
    await retag(store, TAGGED, NAME)
    assert await image_in(store, NAME) == image
    await remove_list(store, TAGGED)
    assert set(store.noted) == {"a__b.image"}


async def test_info_counts_images() -> None:
    store, image = await a_store()
    await retag(store, NAME, TAGGED)
    found = await info(store)
    assert (found.images, found.images_size) == (2, 2 * image.size)
    assert (found.named, found.unnamed) == (3, 0)
    assert found.saved == image.size + len(b"file")
