"""What is shown of a list is the same whether it is read or was compiled before."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings

from aysfs import load
from aysfs.cache.images import ImageCache
from aysfs.errors import BadConfig, BadList, PathMissing
from aysfs.flist import Entry, Header, Kind, encode_path, write_flist
from aysfs.image import ImageTree
from aysfs.load import Shown, load_entry, load_tree, load_view
from aysfs.names import ServiceName
from aysfs.store.memory import MemoryStore
from aysfs.store.protocol import Store
from aysfs.tree import Node, Tree, TreeView
from tests.trees import directory, lists, regular, special, symlink

SERVICE, OTHER = (ServiceName("jumpscale", name, None) for name in ("test", "other"))
BASE = b"/opt/x"
ENTRIES = [
    directory(BASE),
    regular(BASE + b"/f", b"content"),
    regular(BASE + b"/d/deep", b"deep"),
    symlink(BASE + b"/l", b"f"),
]


def listed(store: MemoryStore, entries: Sequence[Entry], base: bytes | None = None) -> None:
    """Publish a list; its time never changes."""
    ordered = sorted(entries, key=lambda one: encode_path(one.path))
    store.published[SERVICE] = (b"".join(write_flist(Header(2, base), ordered)), 10**18)


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore()
    listed(store, ENTRIES)
    return store


@pytest.fixture
def images(tmp_path: Path) -> ImageCache:
    return ImageCache(tmp_path / "cache")


def everything(view: TreeView) -> dict[bytes, tuple[object, ...]]:
    def seen(node: Node) -> tuple[object, ...]:
        inode = view.inode(node)
        return (view.attributes(node), view.digest(inode), view.target(node), view.xattrs(node))

    return {path: seen(node) for path, node in view.paths()}


async def compiled(
    store: Store,
    images: ImageCache,
    base: bytes | None = None,
    mount_point: bytes | None = None,
) -> Shown:
    return await load_view(
        store, [SERVICE], images, base=base, mount_point=mount_point, compile_new=True
    )


# --- when an image is used -------------------------------------------------------------------


@pytest.mark.usefixtures("no_leaks")
async def test_a_list_is_read_once(
    store: MemoryStore, images: ImageCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await compiled(store, images)
    monkeypatch.delattr(load, "FlistReader")
    monkeypatch.delattr(load, "compile_list")
    for again in (await compiled(store, images), await load_view(store, [SERVICE], images)):
        assert isinstance(again.tree, ImageTree)
        assert again.lists == first.lists
        assert everything(again.tree) == everything(first.tree)
        again.tree.close()
    first.tree.close()


async def test_who_only_looks_compiles_nothing(store: MemoryStore, images: ImageCache) -> None:
    shown = await load_view(store, [SERVICE], images)
    assert isinstance(shown.tree, Tree)
    assert images.stored() == (0, 0)
    assert isinstance((await load_view(store, [SERVICE], None)).tree, Tree)


async def test_a_newer_list_is_shown_at_once(store: MemoryStore, images: ImageCache) -> None:
    await compiled(store, images)
    listed(store, [*ENTRIES, regular(BASE + b"/new")])
    shown = await compiled(store, images)
    assert shown.tree.resolve(BASE + b"/new")


async def test_several_lists_are_one_tree(store: MemoryStore, images: ImageCache) -> None:
    await store.put_list(OTHER, [store.published[SERVICE][0]])
    shown = await load_view(store, [SERVICE, OTHER], images, compile_new=True)
    assert isinstance(shown.tree, Tree)
    assert images.stored() == (0, 0)


async def test_a_damaged_image_is_made_again(store: MemoryStore, images: ImageCache) -> None:
    (await compiled(store, images)).tree.close()
    (file,) = images.folder.glob("*/tree.erofs")
    data = bytearray(file.read_bytes())
    data[data.index(b"deep")] ^= 1
    file.write_bytes(data)
    shown = await compiled(store, images)
    assert isinstance(shown.tree, ImageTree)
    assert shown.tree.resolve(b"/opt/x/d/deep")


async def test_what_no_image_holds_is_shown_from_memory(
    store: MemoryStore, images: ImageCache
) -> None:
    large = special(BASE + b"/a", Kind.DIRECTORY, ((b"xattr.user.a", b"v" * 65536),))
    listed(store, [*ENTRIES, large])
    shown = await compiled(store, images)
    assert isinstance(shown.tree, Tree)
    assert shown.tree.xattrs(shown.tree.resolve(b"/opt/x/a")) == {b"user.a": b"v" * 65536}


async def test_a_cache_that_cannot_be_written_is_done_without(
    store: MemoryStore, images: ImageCache
) -> None:
    os.rmdir(images.folder)
    images.folder.touch()
    assert isinstance((await compiled(store, images)).tree, Tree)


async def test_a_wrong_list_is_refused_in_the_same_words(
    store: MemoryStore, images: ImageCache
) -> None:
    store.published[SERVICE] = (b"#flist 2\nrubbish\n", 0)
    words = set()
    for how in (load_tree(store, [SERVICE]), compiled(store, images)):
        with pytest.raises(BadList) as refused:
            await how
        words.add(str(refused.value))
    assert len(words) == 1


# --- what is shown ---------------------------------------------------------------------------

BASES: list[dict[str, bytes]] = [
    {},
    {"base": b"/"},
    {"base": b"/opt"},
    {"base": BASE},
    {"base": BASE + b"/"},
    {"base": BASE + b"/d"},
    {"mount_point": BASE},
    {"mount_point": b"/opt"},
    {"mount_point": b"/op"},
    {"mount_point": BASE + b"/d"},
    {"mount_point": b"/mnt"},
    {"mount_point": b"/"},
]


@pytest.mark.parametrize("where", BASES, ids=str)
@pytest.mark.parametrize("own", [None, BASE, b"/opt"])
@pytest.mark.parametrize("beside", [[], [regular(b"/opt/xy/f")], [directory(b"/opt")]])
async def test_a_base_means_the_same(
    store: MemoryStore,
    images: ImageCache,
    where: dict[str, bytes],
    own: bytes | None,
    beside: list[Entry],
) -> None:
    listed(store, [*ENTRIES, *beside], own)
    known = await load_tree(store, [SERVICE], **where)
    for _ in range(2):
        shown = await compiled(store, images, **where)
        assert (shown.tree.base, shown.outside) == (known.tree.base, known.outside)
        assert everything(shown.tree) == everything(known.tree)
        assert (len(shown.tree), shown.tree.total_size) == (
            len(known.tree),
            known.tree.total_size,
        )
        assert shown.lists == known.lists
        above = known.tree.base.startswith(b"/opt/") and beside == [directory(b"/opt")]
        assert isinstance(shown.tree, ImageTree) == (known.outside == above)


async def test_a_base_that_shows_nothing_is_refused(store: MemoryStore, images: ImageCache) -> None:
    for _ in range(2):
        with pytest.raises(BadConfig, match="nothing lies below"):
            await compiled(store, images, base=b"/elsewhere")


async def test_an_empty_list_shows_an_empty_root(store: MemoryStore, images: ImageCache) -> None:
    listed(store, [])
    for where in ({}, {"mount_point": b"/mnt"}):
        shown = await compiled(store, images, **where)
        known = await load_tree(store, [SERVICE], **where)
        assert everything(shown.tree) == everything(known.tree)
        assert shown.tree.base == known.tree.base


async def test_a_classic_list_of_another_time_is_another_tree(
    store: MemoryStore, images: ImageCache
) -> None:
    line = b"/a|9dd4e461268c8034f5c8564e155c67a6|1\n"
    for mtime_ns in (5, 10**18, 5):
        store.published[SERVICE] = (line, mtime_ns)
        tree = (await compiled(store, images)).tree
        assert tree.attributes(tree.resolve(b"/a")).mtime_ns == mtime_ns


@settings(max_examples=50)
@given(lists())
def test_a_random_list_is_shown_alike(entries: list[Entry]) -> None:
    store = MemoryStore()
    listed(store, entries)

    async def both() -> None:
        with tempfile.TemporaryDirectory() as folder:
            images = ImageCache(Path(folder) / "cache")
            known = await load_tree(store, [SERVICE])
            shown = await compiled(store, images)
            assert isinstance(shown.tree, ImageTree)
            assert everything(shown.tree) == everything(known.tree)

    trio.run(both)


# --- one entry -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [b"", b"/", b"/f", b"hard", b"l", b"d", b"d/../f", BASE + b"/f", b"d/deep", b"/opt/x/l/../f"],
)
@pytest.mark.parametrize("own", [None, BASE])
async def test_an_entry_is_the_same_from_list_and_image(
    store: MemoryStore, images: ImageCache, path: bytes, own: bytes | None
) -> None:
    hard = regular(BASE + b"/hard", b"content", ((b"hardlink", BASE + b"/f"),))
    first = regular(BASE + b"/f", b"content", ((b"sha256", b"0" * 64),))
    hard = hard._replace(ext=(*hard.ext, *first.ext))
    listed(store, [directory(BASE), first, hard, *ENTRIES[2:]], own)
    outcomes = []
    for where in (None, images):
        try:
            outcomes.append(await load_entry(store, SERVICE, where, path))
        except PathMissing as error:
            outcomes.append(str(error))  # type: ignore[arg-type]  # compared, whatever it is
        (await compiled(store, images)).tree.close()
    assert outcomes[0] == outcomes[1]


async def test_only_the_line_of_an_entry_is_read(
    store: MemoryStore, images: ImageCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    (await compiled(store, images)).tree.close()
    monkeypatch.delattr(load, "FlistReader")
    entry, info = await load_entry(store, SERVICE, images, BASE + b"/d/deep")
    assert entry == ENTRIES[2]
    assert info.source == "memory/jumpscale__test"
