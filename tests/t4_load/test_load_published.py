"""When an image that a store has is shown, and whose word it is."""

import hashlib
from pathlib import Path

import pytest

from aysfs import load
from aysfs.cache.images import ImageCache
from aysfs.cache.list_key import OWN, ListKey
from aysfs.cache.taking import origin_of
from aysfs.digest import of
from aysfs.errors import StoreTrouble
from aysfs.image import ImageTree
from aysfs.load import Shown, load_entry, load_tree, load_view
from aysfs.names import ServiceName
from aysfs.publish.image import add_image
from aysfs.store.chain import Chain
from aysfs.store.directory import DirectoryStore
from aysfs.store.faults import Passes
from aysfs.store.layout import list_path
from aysfs.store.memory import MemoryStore
from aysfs.store.protocol import Store
from aysfs.store.tree_image import read_image
from tests.forging import forge_image
from tests.t4_load.test_load_view import everything
from tests.trees import directory, regular, symlink, written

SERVICE, OTHER = (ServiceName("jumpscale", name, None) for name in ("test", "other"))
LIST = written([directory(b"/opt"), regular(b"/opt/f", b"good"), symlink(b"/opt/l", b"f")])
EVIL = written([directory(b"/opt"), regular(b"/opt/f", b"evil"), symlink(b"/opt/l", b"f")])
TIME = 10**18


def publish(store: MemoryStore, data: bytes = LIST) -> None:
    store.published[SERVICE] = (data, TIME)


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore()
    publish(store)
    return store


@pytest.fixture
def images(tmp_path: Path) -> ImageCache:
    return ImageCache(tmp_path / "cache")


async def compiled(store: Store, images: ImageCache) -> Shown:
    return await load_view(store, [SERVICE], images, compile_new=True, patience=10)


def digest_in(shown: Shown) -> bytes:
    digest = shown.tree.digest(shown.tree.inode(shown.tree.resolve(b"/opt/f")))
    shown.tree.close()
    return digest


def origin_in(images: ImageCache, store: Store, data: bytes = LIST) -> str | None:
    """Where the image of a list that this store published came from."""
    key = ListKey(hashlib.sha256(data).hexdigest(), TIME)
    found = images.find(key, origins=[OWN, origin_of(f"{store.label}/{SERVICE}")])
    if found is None:
        return None
    found.close()
    return found.origin


@pytest.mark.usefixtures("no_leaks")
async def test_a_list_whose_store_has_its_image_is_not_read(
    store: MemoryStore, images: ImageCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add_image(store, SERVICE)
    loaded = await load_tree(store, [SERVICE])
    monkeypatch.delattr(load, "FlistReader")
    monkeypatch.delattr(load, "compile_list")
    shown = await compiled(store, images)
    assert isinstance(shown.tree, ImageTree)
    assert (shown.lists, shown.outside) == (loaded.lists, 0)
    expected = everything(loaded.tree)
    found = everything(shown.tree)
    # No line names the root: it has the time that the note says.
    assert found.pop(b"/") != expected.pop(b"/")
    assert found == expected
    shown.tree.close()
    assert origin_in(images, store) == origin_of(f"memory/{SERVICE}")
    store.noted.clear()
    store.blobs.clear()
    for again in (await compiled(store, images), await load_view(store, [SERVICE], images)):
        assert digest_in(again) == of(b"good")
    entry, _ = await load_entry(store, SERVICE, images, b"/opt/f")
    assert entry.digest == of(b"good")


async def test_who_only_looks_takes_nothing(store: MemoryStore, images: ImageCache) -> None:
    await add_image(store, SERVICE)
    (await load_view(store, [SERVICE], images)).tree.close()
    await load_entry(store, SERVICE, images, b"/opt/f")
    assert images.stored() == (0, 0)


async def test_an_image_that_was_compiled_here_is_used_first(
    store: MemoryStore, images: ImageCache
) -> None:
    (await compiled(store, images)).tree.close()
    await forge_image(store, SERVICE, EVIL)
    assert digest_in(await compiled(store, images)) == of(b"good")
    assert images.stored()[0] == 1


async def test_what_cannot_be_taken_is_compiled(store: MemoryStore, images: ImageCache) -> None:
    await add_image(store, SERVICE)
    found = await read_image(store, SERVICE)
    assert found is not None
    del store.blobs[found.index.digest]
    assert digest_in(await compiled(store, images)) == of(b"good")
    assert origin_in(images, store) == OWN


async def test_the_image_of_another_list_is_not_taken(
    store: MemoryStore, images: ImageCache
) -> None:
    publish(store, EVIL)
    await add_image(store, SERVICE)
    publish(store)
    assert digest_in(await compiled(store, images)) == of(b"good")
    assert origin_in(images, store) == OWN


async def test_a_store_that_tells_no_note_is_in_no_way_of_a_mount(
    store: MemoryStore, images: ImageCache
) -> None:
    class NoNotes(Passes):
        async def read_note(self, name: str) -> bytes:
            raise StoreTrouble("it has gone")

    assert digest_in(await compiled(NoNotes(store), images)) == of(b"good")


async def test_a_store_s_word_is_taken_for_its_own_list(
    store: MemoryStore, images: ImageCache
) -> None:
    """The list is its word too: this is what makes the tests below worth something."""
    await forge_image(store, SERVICE, EVIL)
    assert digest_in(await compiled(store, images)) == of(b"evil")


@pytest.mark.parametrize("first", [True, False])
async def test_no_store_says_what_the_list_of_another_shows(
    store: MemoryStore, images: ImageCache, first: bool
) -> None:
    """A replica with the same list, which serves blobs and must not be able to do more."""
    replica = MemoryStore("replica")
    publish(replica)
    await forge_image(replica, SERVICE, EVIL)
    if first:
        del replica.published[SERVICE]
    chain = Chain([replica, store] if first else [store, replica])
    assert digest_in(await compiled(chain, images)) == of(b"good")
    assert origin_in(images, store) == OWN


async def test_what_one_store_gave_is_not_shown_for_another(
    store: MemoryStore, images: ImageCache
) -> None:
    replica = MemoryStore("replica")
    publish(replica)
    await forge_image(replica, SERVICE, EVIL)
    assert digest_in(await compiled(replica, images)) == of(b"evil")
    assert digest_in(await load_view(store, [SERVICE], images)) == of(b"good")
    entry, _ = await load_entry(store, SERVICE, images, b"/opt/f")
    assert entry.digest == of(b"good")
    assert digest_in(await compiled(store, images)) == of(b"good")


async def test_a_list_in_a_file_has_no_store_s_image(images: ImageCache, tmp_path: Path) -> None:
    """Also where the file is one of a store: who names it names its bytes."""
    store = DirectoryStore(tmp_path / "store", create=True)
    await store.put_list(SERVICE, [LIST])
    await forge_image(store, SERVICE, EVIL)
    assert digest_in(await compiled(store, images)) == of(b"evil")
    file = tmp_path / "store" / list_path("dedupe", SERVICE)
    for compile_new in (False, True):
        shown = await load_view(store, [file], images, compile_new=compile_new)
        assert digest_in(shown) == of(b"good")


async def test_several_lists_take_no_image(store: MemoryStore, images: ImageCache) -> None:
    await forge_image(store, SERVICE, EVIL)
    store.published[OTHER] = (written([directory(b"/srv")]), TIME)
    shown = await load_view(store, [SERVICE, OTHER], images, base=b"/", compile_new=True)
    assert digest_in(shown) == of(b"good")
