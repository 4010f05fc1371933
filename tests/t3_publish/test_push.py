"""Publishing a directory: order, sameness, what is not sent twice, what changes meanwhile."""

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pytest

from aysfs import digest as digests
from aysfs.digest import Digest
from aysfs.errors import AysfsError, BadName, Corrupt, StoreTrouble
from aysfs.flist.text import FlistReader
from aysfs.names import ServiceName, parse_name
from aysfs.publish import push as push_module
from aysfs.publish import send as send_module
from aysfs.publish.hash_cache import RACY_NS, HashCache
from aysfs.publish.push import push
from aysfs.publish.send import Sent
from aysfs.publish.walk import FileKey, TreeChanged, key_of
from aysfs.store import layout
from aysfs.store.directory import DirectoryStore
from aysfs.store.faults import Counts, Passes, Vanishes
from aysfs.store.memory import MemoryStore
from aysfs.store.protocol import BlobSource
from tests.cancelling import Cut, at_every_await, threads_ended
from tests.conftest import next_tick

NAME = parse_name("jumpscale__base")
BASE = b"/opt/jumpscale8"
KEY = FileKey(1, 2, 3, 4, 5)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    (top / "bin").mkdir(parents=True)
    (top / "bin" / "x").write_bytes(b"program")
    (top / "bin" / "same").write_bytes(b"program")
    (top / "empty").touch()
    os.link(top / "bin" / "x", top / "bin" / "y")
    (top / "link").symlink_to("bin/x")
    return top


def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the clock of the push be past the racy time of files made just now."""
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + 2 * RACY_NS)


class BlobsFirst(Passes):
    """Refuses a list while a blob that it names is not there."""

    def __init__(self, memory: MemoryStore) -> None:
        super().__init__(memory)
        self._memory = memory

    async def put_list(self, name: ServiceName, chunks: Iterable[bytes]) -> None:
        await super().put_list(name, chunks)
        with (await self._memory.open_list(name)).file as file:
            for entry in FlistReader(file, source="list", mtime_ns=0):
                assert entry.digest == digests.ZERO or entry.digest in self._memory.blobs


async def test_what_is_published(tree: Path) -> None:
    memory = MemoryStore()
    report = await push(tree, NAME, BlobsFirst(memory), base=BASE)
    data = memory.published[NAME][0]
    with (await memory.open_list(NAME)).file as file:
        reader = FlistReader(file, source="list", mtime_ns=0)
        entries = {entry.path: entry for entry in reader}
    assert reader.header.base == BASE
    assert list(entries) == [
        BASE + below
        for below in (b"", b"/bin", b"/bin/same", b"/bin/x", b"/bin/y", b"/empty", b"/link")
    ]
    assert entries[BASE + b"/bin/y"].hardlink == BASE + b"/bin/x"
    assert entries[BASE + b"/bin/y"].digest == digests.of(b"program")
    assert set(memory.blobs.values()) == {b"program", b""}
    assert report == push_module.PushReport(NAME, 4, 21, 2, 7, 0, len(data), digests.of(data))


async def test_the_base_is_the_directory_when_none_is_given(tree: Path) -> None:
    memory = MemoryStore()
    await push(tree, NAME, memory)
    data = memory.published[NAME][0]
    assert data.startswith(b"#flist 2\n#base %s\n%s|" % (os.fsencode(tree), os.fsencode(tree)))


@pytest.mark.parametrize("base", [b"", b"opt", b"/a/../b", b"/a//b", b"/a\0b", b"/."])
async def test_what_is_no_base(tree: Path, base: bytes) -> None:
    with pytest.raises(AysfsError, match="is no base"):
        await push(tree, NAME, MemoryStore(), base=base)


async def test_the_same_tree_gives_the_same_bytes(tree: Path, tmp_path: Path) -> None:
    one, two = MemoryStore(), MemoryStore()
    await push(tree, NAME, one, base=BASE)
    await push(tree, NAME, two, base=BASE + b"/", hash_cache=HashCache(tmp_path / "cache"))
    assert one.published[NAME][0] == two.published[NAME][0]


async def test_again_nothing_is_sent(tree: Path) -> None:
    store = Counts(MemoryStore())
    first = await push(tree, NAME, store, base=BASE)
    puts = dict(store.puts)
    again = await push(tree, NAME, store, base=BASE)
    assert store.puts == puts
    assert (again.uploaded_blobs, again.uploaded_bytes, again.present_blobs) == (0, 0, 2)
    assert again.list_md5 == first.list_md5


async def test_again_a_blob_that_was_cut_off_in_the_store_is_sent(
    tree: Path, tmp_path: Path
) -> None:
    store = DirectoryStore(tmp_path / "store", create=True)
    await push(tree, NAME, store, base=BASE)
    digest = digests.of(b"program")
    blob = tmp_path / "store" / layout.blob(layout.DEFAULT_NAMESPACE, digest)
    blob.chmod(0o644)
    blob.write_bytes(b"prog")
    again = await push(tree, NAME, store, base=BASE)
    assert (again.uploaded_blobs, again.present_blobs) == (1, 1)
    assert blob.read_bytes() == b"program"


async def test_many_batches_into_a_directory(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_leaks: None
) -> None:
    monkeypatch.setattr(send_module, "BATCH_FILES", 3)
    for number in range(50):
        (tree / f"f{number}").write_bytes(b"%d" % number)
    steps: list[Sent] = []
    store = DirectoryStore(tmp_path / "store", create=True)
    report = await push(tree, NAME, store, base=BASE, progress=steps.append)
    assert report.uploaded_blobs == 52
    assert await store.lists() == [NAME]
    assert steps == sorted(steps)
    assert steps[0].files == steps[0].bytes == 0
    last = steps[-1]
    assert (last.files, last.bytes) == (last.of_files, last.of_bytes)
    assert (last.uploaded_blobs, last.uploaded_bytes) == (52, report.uploaded_bytes)
    assert last.present_blobs == 0


async def test_what_is_remembered_is_done_from_the_start(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later(monkeypatch)
    store = DirectoryStore(tmp_path / "store", create=True)
    cache = HashCache(tmp_path / "cache")
    await push(tree, NAME, store, base=BASE, hash_cache=cache)
    steps: list[Sent] = []
    again = HashCache(tmp_path / "cache")
    report = await push(tree, NAME, store, base=BASE, hash_cache=again, progress=steps.append)
    [only] = steps
    assert (only.files, only.bytes) == (only.of_files, only.of_bytes)
    assert only.present_blobs == report.present_blobs > 0
    assert only.uploaded_blobs == 0


async def test_trouble_of_the_store_publishes_nothing(tree: Path) -> None:
    memory = MemoryStore()
    store = Vanishes(memory)
    store.gone = True
    with pytest.raises(StoreTrouble):
        await push(tree, NAME, store, base=BASE)
    assert memory.published == {}


class Meddles(MemoryStore):
    """Changes a file of the tree after it was hashed and before it is read again."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file

    async def missing(self, blobs: Mapping[Digest, int]) -> set[Digest]:
        next_tick(self._file)
        self._file.write_bytes(b"other!!")
        return await super().missing(blobs)


async def test_a_file_that_changes_before_its_upload(tree: Path) -> None:
    store = Meddles(tree / "bin" / "same")
    with pytest.raises(TreeChanged, match="bin/same: changed while it was pushed"):
        await push(tree, NAME, store, base=BASE)
    assert store.published == {}


async def test_a_file_that_vanishes_before_its_upload(tree: Path) -> None:
    class Removes(MemoryStore):
        async def put_many(self, sources: Sequence[BlobSource]) -> None:
            for path in (tree / "bin").iterdir():
                path.unlink()
            await super().put_many(sources)

    store = Removes()
    with pytest.raises(TreeChanged, match="vanished"):
        await push(tree, NAME, store, base=BASE)
    assert store.published == {}


async def test_a_store_that_spoils_bytes_does_not_blame_the_tree(tree: Path) -> None:
    class Spoils(MemoryStore):
        async def put_many(self, sources: Sequence[BlobSource]) -> None:
            raise Corrupt("refused")

    with pytest.raises(Corrupt, match="refused"):
        await push(tree, NAME, Spoils(), base=BASE)


async def test_an_unchanged_file_is_not_read_again(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later(monkeypatch)
    memory = MemoryStore()
    first = await push(tree, NAME, memory, base=BASE, hash_cache=HashCache(tmp_path / "cache"))

    def never(batch: object) -> list[Digest]:
        raise AssertionError("read again")

    monkeypatch.setattr(send_module, "_read_files", never)
    again = await push(tree, NAME, memory, base=BASE, hash_cache=HashCache(tmp_path / "cache"))
    assert again.list_md5 == first.list_md5


async def test_a_changed_file_is_read_again(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later(monkeypatch)
    memory = MemoryStore()
    await push(tree, NAME, memory, base=BASE, hash_cache=HashCache(tmp_path / "cache"))
    before = (tree / "bin" / "same").stat()
    next_tick(tree / "bin" / "same")
    (tree / "bin" / "same").write_bytes(b"PROGRAM")
    os.utime(tree / "bin" / "same", ns=(before.st_atime_ns, before.st_mtime_ns))
    await push(tree, NAME, memory, base=BASE, hash_cache=HashCache(tmp_path / "cache"))
    assert digests.of(b"PROGRAM") in memory.blobs


async def test_what_is_remembered_wrongly_of_a_blob_that_the_store_lacks_is_read_again(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later(monkeypatch)
    cache = HashCache(tmp_path / "cache")
    key = key_of((tree / "bin" / "x").stat())
    cache.add(key, digests.of(b"no such blob"), time.time_ns())
    memory = MemoryStore()
    await push(tree, NAME, BlobsFirst(memory), base=BASE, hash_cache=cache)
    assert set(memory.blobs) == {digests.of(b"program"), digests.EMPTY}
    assert cache.get(key) == digests.of(b"program")


async def test_a_file_too_large_to_be_held_is_streamed(
    tree: Path, monkeypatch: pytest.MonkeyPatch, no_leaks: None
) -> None:
    monkeypatch.setattr(send_module, "HELD", 3)

    class Streams(MemoryStore):
        async def put_many(self, sources: Sequence[BlobSource]) -> None:
            assert {one.size: one.held for one in sources} == {7: None, 0: b""}
            await super().put_many(sources)

    store = Streams()
    await push(tree, NAME, store, base=BASE)
    assert set(store.blobs.values()) == {b"program", b""}


async def test_a_large_file_that_changes_before_its_upload(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(send_module, "HELD", 3)
    store = Meddles(tree / "bin" / "same")
    with pytest.raises(TreeChanged, match="bin/same: changed while it was pushed"):
        await push(tree, NAME, store, base=BASE)
    assert store.published == {}


async def test_files_of_equal_content_in_two_batches_are_sent_once(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(send_module, "BATCH_FILES", 1)
    store = Counts(MemoryStore())
    report = await push(tree, NAME, store, base=BASE)
    assert store.puts[digests.of(b"program")] == 1
    assert report.uploaded_blobs == 2


def test_hashes_survive_the_process(tmp_path: Path) -> None:
    cache = HashCache(tmp_path / "new" / "cache")
    cache.add(KEY, digests.of(b"x"), KEY.ctime_ns + RACY_NS)
    cache.save()
    assert HashCache(tmp_path / "new" / "cache").get(KEY) == digests.of(b"x")
    assert HashCache(tmp_path / "new" / "cache").get(KEY._replace(ctime_ns=6)) is None
    assert [path.name for path in (tmp_path / "new" / "cache").iterdir()] == ["hashes"]


def test_a_file_that_changed_just_now_is_not_remembered(tmp_path: Path) -> None:
    cache = HashCache(tmp_path)
    cache.add(KEY, digests.of(b"x"), KEY.ctime_ns + RACY_NS - 1)
    assert cache.get(KEY) is None


def test_damaged_hashes_are_forgotten(tmp_path: Path) -> None:
    cache = HashCache(tmp_path)
    cache.add(KEY, digests.of(b"x"), KEY.ctime_ns + RACY_NS)
    cache.save()
    whole = (tmp_path / "hashes").read_bytes()
    for damaged in (b"", whole[:-1], whole + b"x", whole[:-1] + b"\0", b"X" + whole[1:]):
        (tmp_path / "hashes").write_bytes(damaged)
        assert HashCache(tmp_path).get(KEY) is None


async def test_a_tag_is_published_with_the_list(tree: Path) -> None:
    store = Counts(MemoryStore())
    await push(tree, NAME, store, base=BASE, tag="1.2")
    tagged = parse_name("jumpscale__base@1.2")
    assert await store.lists() == [NAME, tagged]
    with (await store.open_list(NAME)).file as one, (await store.open_list(tagged)).file as other:
        assert one.read() == other.read()
    for name, tag in ((tagged, "2"), (NAME, "A")):
        with pytest.raises(BadName):
            await push(tree, name, store, base=BASE, tag=tag)


async def test_everything_is_announced_before_it_is_asked_for(tree: Path, tmp_path: Path) -> None:
    memory = MemoryStore()

    class Asks(Passes):
        async def missing(self, blobs: Mapping[Digest, int]) -> set[Digest]:
            announced = b"".join(memory.noted.values())
            assert all(announced.find(digest) >= 0 for digest in blobs)
            return await super().missing(blobs)

    for _ in range(2):
        await push(tree, NAME, Asks(memory), hash_cache=HashCache(tmp_path / "cache"))
        assert memory.noted == {}


async def test_a_push_cut_anywhere_leaves_no_claim_on_what_it_will_not_publish(tree: Path) -> None:
    lists: set[int] = set()

    class Publishes(Counts):
        async def put_list(self, name: ServiceName, chunks: Iterable[bytes]) -> None:
            self.calls["began"] += 1
            await super().put_list(name, chunks)

    async def attempt(cut: Cut) -> None:
        memory = MemoryStore()
        store = Publishes(memory)
        await cut.during(lambda: push(tree, NAME, store, base=BASE))
        await threads_ended()
        assert memory.noted == {} or store.calls["began"]
        lists.add(len(memory.published))
        if memory.published:
            assert set(memory.blobs.values()) == {b"program", b""}

    assert await at_every_await(attempt) > 10
    assert lists == {0, 1}
