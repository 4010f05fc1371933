"""What is a directory store's own: its files, its layouts, and the disk below it."""

import io
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from aysfs import digest as digests
from aysfs.digest import Digest
from aysfs.errors import BadConfig, BlobMissing, Corrupt, Missing, StoreTrouble
from aysfs.names import parse_name
from aysfs.store import directory as directory_module
from aysfs.store import layout
from aysfs.store.directory import AT_HAND, DirectoryStore
from aysfs.store.directory_write import SYNC_FROM
from aysfs.store.protocol import BlobSource, Held

DATA = b"some bytes"
DIGEST = digests.of(DATA)
HEX = DIGEST.hex()
NAME = parse_name("base")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "store" / "dedupe").mkdir(parents=True)
    return tmp_path / "store"


@pytest.fixture
def store(root: Path) -> DirectoryStore:
    return DirectoryStore(root)


async def put(store: DirectoryStore, data: bytes = DATA) -> None:
    await store.put(digests.of(data), len(data), io.BytesIO(data))


async def get(store: DirectoryStore, digest: Digest = DIGEST, size: int = len(DATA)) -> bytes:
    sink = Held()
    await store.get(digest, size, sink)
    return sink.getvalue()


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()}


def test_paths_of_the_layout() -> None:
    assert layout.blob("ns", DIGEST) == f"ns/{HEX[0]}/{HEX[1]}/{HEX}"
    assert layout.old_blob("ns", DIGEST) == f"ns/files/{HEX[0]}/{HEX[1]}/{HEX}"
    assert layout.list_path("ns", parse_name("a__b@1")) == "ns/md/a__b@1.flist"


@pytest.mark.parametrize("text", ["a__b", "a__b@1.0", "a__b.flist", "a__b__c", "a__b@x.flist"])
def test_a_list_file_names_its_service(text: str) -> None:
    assert layout.parse_list_file(layout.list_file(parse_name(text))) == parse_name(text)


@pytest.mark.parametrize(
    "foreign",
    ["", "a.flist", "a__b", "a__B.flist", ".a__b.flist.tmp", "a__b.flist~", "x@a__b.flist"],
)
def test_foreign_files_are_no_lists(foreign: str) -> None:
    assert layout.parse_list_file(foreign) is None


@pytest.mark.parametrize("bad", ["", ".", "..", "a/b", ".hidden"])
def test_a_namespace_is_one_directory(bad: str, tmp_path: Path) -> None:
    with pytest.raises(BadConfig):
        DirectoryStore(tmp_path, bad)


async def test_what_is_written(store: DirectoryStore, root: Path) -> None:
    old = os.umask(0o077)
    try:
        await put(store)
        await store.put_list(NAME, [b"list"])
    finally:
        os.umask(old)
    blob = root / layout.blob("dedupe", DIGEST)
    assert files(root) == {layout.blob("dedupe", DIGEST), "dedupe/md/jumpscale__base.flist"}
    assert stat.S_IMODE(blob.stat().st_mode) == 0o444
    assert stat.S_IMODE(blob.parent.stat().st_mode) == 0o755


async def test_a_refused_blob_leaves_no_file(store: DirectoryStore, root: Path) -> None:
    with pytest.raises(Corrupt):
        await store.put(DIGEST, len(DATA), io.BytesIO(b"other byte"))
    assert files(root) == set()


async def test_nothing_has_its_name_before_it_is_whole(store: DirectoryStore, root: Path) -> None:
    target = root / layout.blob("dedupe", DIGEST)

    class Watching(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            assert not target.exists()
            return super().read(size)

    await store.put(DIGEST, len(DATA), Watching(DATA))
    assert target.read_bytes() == DATA


async def test_a_blob_that_is_there_is_not_read_again(store: DirectoryStore) -> None:
    await put(store)
    source = io.BytesIO(DATA)
    await store.put(DIGEST, len(DATA), source)
    assert source.tell() == 0


@pytest.mark.parametrize("data", [b"", DATA, bytes(SYNC_FROM)], ids=["empty", "small", "synced"])
async def test_bytes_in_memory_become_the_blob(
    store: DirectoryStore, root: Path, data: bytes, no_leaks: None
) -> None:
    digest = digests.of(data)
    await store.put_many([BlobSource.of(digest, data)] * 2)
    blob = root / layout.blob("dedupe", digest)
    assert files(root) == {layout.blob("dedupe", digest)}
    assert blob.read_bytes() == data
    assert stat.S_IMODE(blob.stat().st_mode) == 0o444


@pytest.mark.parametrize("torn", [b"", b"some"])
async def test_a_torn_blob_is_written_again(store: DirectoryStore, root: Path, torn: bytes) -> None:
    path = root / layout.blob("dedupe", DIGEST)
    path.parent.mkdir(parents=True)
    path.write_bytes(torn)
    with pytest.raises(Corrupt, match=HEX):
        await get(store)
    await put(store)
    assert await get(store) == DATA


@pytest.mark.parametrize("place", [layout.blob, layout.old_blob])
@pytest.mark.parametrize("torn", [b"", b"some", DATA + b"!"])
async def test_a_torn_blob_is_missing(
    store: DirectoryStore, root: Path, torn: bytes, place: Callable[[str, Digest], str]
) -> None:
    path = root / place("dedupe", DIGEST)
    path.parent.mkdir(parents=True)
    path.write_bytes(torn)
    assert await store.missing({DIGEST: len(DATA)}) == {DIGEST}


async def test_a_torn_blob_does_not_hide_the_whole_one_of_the_older_layout(
    store: DirectoryStore, root: Path, no_leaks: None
) -> None:
    for place, data in ((layout.blob, DATA[:4]), (layout.old_blob, DATA)):
        path = root / place("dedupe", DIGEST)
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
    assert await get(store) == DATA
    assert await store.missing({DIGEST: len(DATA)}) == set()


async def test_both_layouts_are_read(store: DirectoryStore, root: Path) -> None:
    path = root / layout.old_blob("dedupe", DIGEST)
    path.parent.mkdir(parents=True)
    path.write_bytes(DATA)
    assert await get(store) == DATA
    assert await store.missing({DIGEST: len(DATA)}) == set()


class Where(Held):
    """A sink that knows the threads it was called in."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: set[int] = set()

    def write(self, data: object, /) -> int:
        self.threads.add(threading.get_ident())
        return 0


@pytest.mark.parametrize(
    ("size", "local", "at_hand"),
    [(AT_HAND, True, True), (AT_HAND + 1, True, False), (AT_HAND, False, False)],
)
async def test_only_small_blobs_of_a_local_disk_are_at_hand(
    root: Path, monkeypatch: pytest.MonkeyPatch, size: int, local: bool, at_hand: bool
) -> None:
    monkeypatch.setattr(directory_module, "is_local", lambda _path: local)
    store = DirectoryStore(root)
    data = bytes(size)
    await put(store, data)
    assert store.at_hand(digests.of(data), size) == (data if at_hand else None)
    sink = Where()
    await store.get(digests.of(data), size, sink)
    assert threading.get_ident() not in sink.threads


async def test_trouble_of_any_kind_is_not_at_hand(store: DirectoryStore, root: Path) -> None:
    assert store.at_hand(DIGEST, len(DATA)) is None
    await put(store)
    assert store.at_hand(DIGEST, len(DATA) + 1) is None
    blob = root / layout.blob("dedupe", DIGEST)
    blob.unlink()
    blob.mkdir()
    assert store.at_hand(DIGEST, len(DATA)) is None
    root.rename(root.with_name("elsewhere"))
    assert store.at_hand(DIGEST, len(DATA)) is None


async def test_a_disk_that_is_gone_is_trouble_and_not_missing(
    store: DirectoryStore, root: Path
) -> None:
    root.rename(root.with_name("elsewhere"))
    for call in (
        lambda: get(store),
        lambda: store.missing({DIGEST: len(DATA)}),
        lambda: put(store),
        lambda: store.open_list(NAME),
        lambda: store.put_list(NAME, []),
        lambda: store.delete_list(NAME),
        lambda: store.shelf(0),
        lambda: store.delete([DIGEST]),
        store.lists,
        store.notes,
        store.strays,
    ):
        with pytest.raises(StoreTrouble, match=str(root)):
            await call()
    assert not root.exists()


async def test_an_empty_mount_point_is_trouble(tmp_path: Path) -> None:
    with pytest.raises(StoreTrouble, match="dedupe"):
        await get(DirectoryStore(tmp_path))
    with pytest.raises(StoreTrouble, match="dedupe"):
        await DirectoryStore(tmp_path).lists()


async def test_a_new_store_is_made_only_when_asked(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "a" / "b", create=True)
    assert await store.missing({DIGEST: len(DATA)}) == {DIGEST}
    await put(store)
    assert await get(store) == DATA


async def test_what_is_no_file_is_trouble(store: DirectoryStore, root: Path) -> None:
    path = root / layout.blob("dedupe", DIGEST)
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    with pytest.raises(StoreTrouble, match="not a regular file"):
        await get(store)


async def test_a_sources_own_error_is_not_the_stores(store: DirectoryStore, root: Path) -> None:
    def gone() -> io.BytesIO:
        raise FileNotFoundError(2, "the source went away")

    with pytest.raises(FileNotFoundError, match="the source went away"):
        await store.put_many([BlobSource(DIGEST, len(DATA), gone)])
    assert files(root) == set()


async def test_foreign_files_among_the_lists_are_passed_over(
    store: DirectoryStore, root: Path
) -> None:
    await store.put_list(NAME, [b"x"])
    (root / "dedupe" / "md" / "README").touch()
    assert await store.lists() == [NAME]


async def test_namespaces_do_not_see_each_other(store: DirectoryStore, root: Path) -> None:
    await put(store)
    other = DirectoryStore(root, "other")
    assert await other.missing({DIGEST: len(DATA)}) == {DIGEST}
    (root / "other").mkdir()
    with pytest.raises(BlobMissing):
        await get(other)


async def test_a_store_that_may_be_made_holds_nothing_until_then(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "new", create=True)
    assert await store.missing({DIGEST: len(DATA)}) == {DIGEST}
    for call in (lambda: get(store), lambda: store.open_list(NAME), lambda: store.read_note("a")):
        with pytest.raises(Missing):
            await call()
    assert await store.lists() == []
    assert not (tmp_path / "new").exists()


async def test_a_blob_in_both_layouts_stands_there_twice_and_goes_whole(
    store: DirectoryStore, root: Path
) -> None:
    await put(store)
    old = root / layout.old_blob("dedupe", DIGEST)
    old.parent.mkdir(parents=True)
    old.write_bytes(DATA)
    assert [one.digest for one in await store.shelf(DIGEST[0])] == [DIGEST, DIGEST]
    await store.delete([DIGEST])
    assert await store.shelf(DIGEST[0]) == []
    assert await store.missing({DIGEST: len(DATA)}) == {DIGEST}


async def test_strays_are_found_at_the_top_and_beside_the_lists(
    store: DirectoryStore, root: Path
) -> None:
    await put(store)
    await store.put_list(NAME, [b"x"])
    leftover = f".{DIGEST.hex()}.0123456789ab7.tmp"
    for path in (leftover, "README", "md/md.flist", "md/.hidden"):
        (root / "dedupe" / path).write_bytes(b"123")
    found = await store.strays()
    assert {one.path for one in found} == {leftover, "README", "md/md.flist", "md/.hidden"}
    assert {one.size for one in found} == {3}
    await store.delete_strays([leftover])
    assert not (root / "dedupe" / leftover).exists()
