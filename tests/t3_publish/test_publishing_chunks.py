"""Large files are published with the digests of their chunks, by every writer and in one pass."""

import io
import os
import random
from pathlib import Path

import pytest
import trio

from aysfs import digest as digests
from aysfs.chunks import ChunkHasher, Chunks
from aysfs.digest import Digest
from aysfs.flist.entry import Entry
from aysfs.flist.text import FlistReader
from aysfs.limits import CHUNK, LARGE
from aysfs.publish import send as send_module
from aysfs.publish import stream as stream_module
from aysfs.publish.hash_cache import HashCache
from aysfs.publish.push import push
from aysfs.publish.put import put_missing
from aysfs.publish.stream import TarTree, publish_list
from aysfs.store.claims import Claim
from aysfs.store.memory import MemoryStore
from tests.t3_publish.tars import NAME, packed
from tests.t3_publish.test_push import BlobsFirst, later

DATA = random.Random(7).randbytes(9 << 20)
BIGGER = DATA + b"more"


def index_of(data: bytes) -> bytes:
    return b"".join(digests.of(data[at : at + CHUNK]) for at in range(0, len(data), CHUNK))


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two files that count as large, one with two names and attributes, and one that does not."""
    for module in (send_module, stream_module):
        monkeypatch.setattr(module, "LARGE", len(DATA) - 1)
    top = tmp_path / "tree"
    top.mkdir()
    (top / "large").write_bytes(DATA)
    (top / "bigger").write_bytes(BIGGER)
    (top / "small").write_bytes(DATA[:-1])
    os.link(top / "large", top / "again")
    os.setxattr(top / "large", "user.note", b"1")
    return top


def entries(store: MemoryStore) -> dict[bytes, Entry]:
    file = io.BytesIO(store.published[NAME][0])
    return {one.path: one for one in FlistReader(file, source="list", mtime_ns=0)}


async def test_large_files_have_chunks(tree: Path) -> None:
    store = MemoryStore()
    report = await push(tree, NAME, BlobsFirst(store), base=b"/b")
    found = entries(store)
    for name, data in ((b"/b/large", DATA), (b"/b/again", DATA), (b"/b/bigger", BIGGER)):
        chunks = found[name].chunks
        assert chunks == Chunks(CHUNK, digests.of(index_of(data)))
        assert store.blobs[chunks.digest] == index_of(data)
    assert found[b"/b/small"].chunks is None
    assert found[b"/b/again"].xattrs == {b"user.note": b"1"}
    assert (report.uploaded_blobs, report.present_blobs) == (5, 0)
    again = await push(tree, NAME, store, base=b"/b")
    assert (again.uploaded_blobs, again.present_blobs) == (0, 5)
    assert again.list_md5 == report.list_md5


async def test_a_stream_gives_the_same(tree: Path) -> None:
    pushed, streamed = MemoryStore(), MemoryStore()
    await push(tree, NAME, pushed, base=b"/b")
    claim = Claim(streamed)
    gathering = TarTree(lambda batch: trio.from_thread.run(put_missing, [claim], batch))
    archive = await trio.to_thread.run_sync(packed, tree)
    await trio.to_thread.run_sync(gathering.add, io.BytesIO(archive).read, b"/b")
    await publish_list([claim], NAME, *gathering.finish())
    assert streamed.published[NAME][0] == pushed.published[NAME][0]
    assert streamed.blobs == pushed.blobs


async def test_a_large_file_is_read_once_and_then_remembered_with_its_chunks(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later(monkeypatch)
    read: list[int] = []
    hash_whole = send_module._hash

    def counting(fd: int, hasher: ChunkHasher) -> None:
        read.append(os.fstat(fd).st_size)
        hash_whole(fd, hasher)

    monkeypatch.setattr(send_module, "_hash", counting)
    store, folder = MemoryStore(), tmp_path / "cache"
    first = await push(tree, NAME, store, base=b"/b", hash_cache=HashCache(folder))
    assert sorted(read) == [len(DATA) - 1, len(DATA), len(BIGGER)]
    again = await push(tree, NAME, store, base=b"/b", hash_cache=HashCache(folder))
    assert len(read) == 3
    assert again.list_md5 == first.list_md5


async def test_chunks_that_a_store_lacks_are_made_again(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later(monkeypatch)
    store, folder = MemoryStore(), tmp_path / "cache"
    first = await push(tree, NAME, store, base=b"/b", hash_cache=HashCache(folder))
    lost = digests.of(index_of(BIGGER))
    del store.blobs[lost]
    again = await push(tree, NAME, BlobsFirst(store), base=b"/b", hash_cache=HashCache(folder))
    assert (again.list_md5, again.uploaded_blobs) == (first.list_md5, 1)
    assert store.blobs[lost] == index_of(BIGGER)


async def test_a_hint_of_an_older_version_without_chunks_does_not_lose_them(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later(monkeypatch)
    with monkeypatch.context() as old:
        old.setattr(send_module, "LARGE", LARGE)
        store, folder = MemoryStore(), tmp_path / "cache"
        await push(tree, NAME, store, base=b"/b", hash_cache=HashCache(folder))
        assert entries(store)[b"/b/large"].chunks is None
    await push(tree, NAME, BlobsFirst(store), base=b"/b", hash_cache=HashCache(folder))
    assert entries(store)[b"/b/large"].chunks is not None


async def test_the_bound_is_64_mib(tmp_path: Path) -> None:
    top = tmp_path / "tree"
    top.mkdir()
    for name, size in (("at", LARGE), ("above", LARGE + 1)):
        with (top / name).open("wb") as file:
            file.truncate(size)
    store = MemoryStore()
    await push(top, NAME, store, base=b"/b")
    found = entries(store)
    assert found[b"/b/at"].chunks is None
    chunks = found[b"/b/above"].chunks
    assert chunks is not None
    zeros, last = digests.of(bytes(CHUNK)), digests.of(b"\0")
    assert store.blobs[Digest(chunks.digest)] == zeros * (LARGE // CHUNK) + last
