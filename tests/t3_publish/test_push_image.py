"""The image that a push publishes: the one that this host would have made.

test_push_list_notes.py asks the rest of every kind of notes.
"""

import hashlib
import io
from pathlib import Path

import pytest

from aysfs import digest as digests
from aysfs.digest import Digest
from aysfs.errors import ImageRefused
from aysfs.flist.entry import Entry, Kind
from aysfs.flist.text import write_flist
from aysfs.image import DigestIndex, ImageTree, write_image
from aysfs.image.compile import read_tree
from aysfs.names import ServiceName, parse_name
from aysfs.publish.image import add_image
from aysfs.publish.push import push
from aysfs.store.chain import Chain
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
