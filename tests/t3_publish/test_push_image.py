"""The image that a push publishes: the one that this host would have made."""

import hashlib
import io
from pathlib import Path

import pytest

from aysfs import digest as digests
from aysfs.digest import Digest
from aysfs.errors import ImageRefused, StoreTrouble
from aysfs.flist.entry import Entry, Kind
from aysfs.flist.text import write_flist
from aysfs.image import DigestIndex, ImageTree, write_image
from aysfs.image.compile import read_tree
from aysfs.names import ServiceName, parse_name
from aysfs.publish.image import add_image
from aysfs.publish.push import push
from aysfs.store.chain import Chain
from aysfs.store.faults import Passes
from aysfs.store.memory import MemoryStore
from aysfs.store.tree_image import PublishedImage, read_image

NAME = parse_name("a__b")
TAGGED = NAME._replace(tag="1")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    (top / "sub").mkdir(parents=True)
    (top / "file").write_bytes(b"content")
    (top / "sub/empty").touch()
    (top / "link").symlink_to("file")
    return top


async def image_in(store: MemoryStore | Chain, name: ServiceName = NAME) -> PublishedImage:
    found = await read_image(store, name)
    assert found is not None
    return found


async def test_the_image_is_that_of_the_list(tree: Path, no_leaks: None) -> None:
    store = MemoryStore()
    report = await push(tree, NAME, store, base=b"/opt/b", image=True)
    data = store.published[NAME][0]
    found = await image_in(store)
    newest = max(one.lstat().st_mtime_ns for one in [tree, *tree.rglob("*")])
    assert found.list_sha256 == hashlib.sha256(data).hexdigest()
    assert (found.mtime_ns, report.image_bytes) == (newest, found.size)
    made, facts = read_tree(io.BytesIO(data), "list", newest)
    image, index = io.BytesIO(), io.BytesIO()
    write_image(made, image, index)
    for part, expected in ((found.image, image), (found.index, index)):
        assert store.blobs[part.digest] == expected.getvalue()
        assert part.sha256 == hashlib.sha256(expected.getvalue()).hexdigest()
        assert part.size == len(expected.getvalue())
    assert found.facts == facts
    shown = ImageTree(image.getvalue(), source="image", base=b"/opt/b")
    assert [one.name for one in shown.listing(shown.resolve(b"/"))] == [b"file", b"link", b"sub"]
    assert DigestIndex(index.getvalue()).find(digests.of(b"content")) is not None


async def test_the_same_tree_gives_the_same_image(tree: Path) -> None:
    first, second = MemoryStore(clock_ns=lambda: 1), MemoryStore(clock_ns=lambda: 2)
    for store in (first, second):
        await push(tree, NAME, store, base=b"/opt/b", image=True)
    assert (first.blobs, first.noted) == (second.blobs, second.noted)


async def test_a_tag_has_the_image_too(tree: Path) -> None:
    store = Chain([MemoryStore(), MemoryStore()])
    await push(tree, NAME, store, tag="1", image=True)
    for one in store.stores:
        assert await read_image(one, NAME) == await read_image(one, TAGGED) is not None


async def test_a_push_without_image_withdraws_that_of_another_list(tree: Path) -> None:
    store = MemoryStore()
    await push(tree, NAME, store, tag="1", image=True)
    await push(tree, NAME, store)
    assert await read_image(store, NAME) is not None  # the list is the same
    (tree / "new").write_bytes(b"new")
    await push(tree, NAME, store)
    assert await read_image(store, NAME) is None
    assert await read_image(store, TAGGED) is not None


class ImageLast(Passes):
    """Sees that both blobs are there before the note, and the note before the list."""

    def __init__(self, memory: MemoryStore) -> None:
        super().__init__(memory)
        self._memory = memory
        self.order: list[str] = []

    async def write_note(self, name: str, data: bytes) -> None:
        await super().write_note(name, data)
        if name.endswith(".image"):
            found = await image_in(self._memory)
            assert not await self._memory.missing(found.blobs)
            self.order.append("note")

    async def put_list(self, name: ServiceName, chunks: object) -> None:
        await super().put_list(name, chunks)  # type: ignore[arg-type]  # passed on as it came
        self.order.append("list")


async def test_blobs_come_before_the_note_and_the_note_before_the_list(tree: Path) -> None:
    store = ImageLast(MemoryStore())
    await push(tree, NAME, store, image=True)
    assert store.order == ["note", "list"]


class NoRoom(Passes):
    """Takes no blob as large as an image."""

    async def put_many(self, sources: object) -> None:
        if any(one.size >= 4096 for one in sources):  # type: ignore[attr-defined]  # BlobSources
            raise StoreTrouble("full")
        await super().put_many(sources)  # type: ignore[arg-type]  # passed on as it came


async def test_an_image_that_does_not_fit_publishes_nothing(tree: Path) -> None:
    memory = MemoryStore()
    with pytest.raises(StoreTrouble, match="full"):
        await push(tree, NAME, NoRoom(memory), image=True)
    assert memory.published == {}
    assert memory.noted == {}


async def list_in(store: MemoryStore, *entries: Entry) -> None:
    await store.put_list(NAME, [b"".join(write_flist(None, entries))])


def regular(path: bytes, digest: Digest, size: int) -> Entry:
    return Entry(path, Kind.REGULAR, 0o644, 0, 0, size, digest, 5)


async def test_a_list_that_is_there_gets_an_image_once() -> None:
    store = MemoryStore()
    await list_in(store, regular(b"/a", store.add(b"x"), 1))
    await add_image(store, NAME)
    found = await image_in(store)
    assert found.mtime_ns == 5
    store.note_times.clear()
    await add_image(store, NAME)
    assert "a__b.image" not in store.note_times  # not written again
    del store.blobs[found.index.digest]
    await add_image(store, NAME)
    assert not await store.missing(found.blobs)


async def test_a_list_that_no_image_can_hold_is_told() -> None:
    store = MemoryStore()
    digest = store.add(b"x")
    await list_in(store, regular(b"/a", digest, 1), regular(b"/b", digest, 2))
    with pytest.raises(ImageRefused, match="two different sizes"):
        await add_image(store, NAME)
    assert store.noted == {}
