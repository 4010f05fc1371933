"""The packs that a push publishes: every small blob in one of them, and what changed sent alone."""

import hashlib
import os
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from aysfs import digest as digests
from aysfs.digest import Digest
from aysfs.errors import BlobMissing, Corrupt, StoreTrouble
from aysfs.flist.entry import Entry, Kind
from aysfs.flist.text import write_flist
from aysfs.limits import LARGE
from aysfs.names import ServiceName, parse_name
from aysfs.pack import Columns, PackIndex, compress, cut, expand, head_size
from aysfs.pack.index import Pack
from aysfs.publish import packing
from aysfs.publish.frames import FramesOfFiles, FrameSpool
from aysfs.publish.packs import add_packs
from aysfs.publish.push import push
from aysfs.publish.walk import TreeChanged
from aysfs.store.chain import Chain
from aysfs.store.faults import Passes
from aysfs.store.memory import MemoryStore
from aysfs.store.packs import PublishedPacks, published, read_index, read_packs
from aysfs.store.protocol import BlobSource, Sink
from aysfs.upkeep.check import check
from aysfs.upkeep.lists import remove_list
from tests.cancelling import Cut, at_every_await, threads_ended
from tests.conftest import ExpectOutput

NAME = parse_name("a__b")
TAGGED = NAME._replace(tag="1")
FILES = 120


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Files that do not compress, so that packs are of known sizes."""
    top = tmp_path / "tree"
    source = random.Random(1)
    for number in range(FILES):
        file = top / f"d{number % 7}" / f"f{number}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(source.randbytes(source.randint(0, 2000)))
    (top / "empty").touch()
    (top / "same").write_bytes((top / "d0/f0").read_bytes())
    (top / "link").symlink_to("same")
    return top


@pytest.fixture(autouse=True)
def small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packs a thousandth of their size, so that a small tree has many."""
    monkeypatch.setattr(cut, "LEAST", 3_000)
    monkeypatch.setattr(cut, "MOST", 24_000)
    monkeypatch.setattr(cut, "_BETWEEN", 9_000)


async def packs_in(store: MemoryStore | Chain, name: ServiceName = NAME) -> PublishedPacks:
    found = await read_packs(store, name)
    assert found is not None
    return found


async def index_in(store: MemoryStore, name: ServiceName = NAME) -> PackIndex:
    return await read_index(store, await packs_in(store, name))


def contents(store: MemoryStore, index: PackIndex) -> list[bytes]:
    """Every blob of the packs, out of them, in their order."""
    found = []
    for at in range(len(index)):
        pack = store.blobs[index.packs[index.pack(at)].digest]
        frame = pack[index.offset(at) :][: index.stored(at)]
        found.append(expand(frame, index.size(at)))
        assert digests.of(found[-1]) == index.digest(at)
    return found


def small_files(tree: Path) -> set[bytes]:
    return {path.read_bytes() for path in tree.rglob("*") if path.is_file()}


def profile_of(*files: bytes) -> bytes:
    """A profile that names these, after a blob that no list has."""
    lines = [
        f"{digests.of(one).hex()}|{len(one)}|1|1" for one in dict.fromkeys((b"unheard of", *files))
    ]
    return "\n".join(["#profile 1", "#runs 1", *lines, ""]).encode()


async def test_every_blob_is_in_one_pack_and_comes_out_as_it_was(
    tree: Path, no_leaks: None
) -> None:
    store = MemoryStore()
    report = await push(tree, NAME, store, packs=True)
    assert report.packs is not None
    found = await packs_in(store)
    index = await index_in(store)
    assert found.list_sha256 == hashlib.sha256(store.published[NAME][0]).hexdigest()
    blobs = contents(store, index)
    assert len(blobs) == len(set(blobs)) == len(index)
    assert set(blobs) == small_files(tree)
    assert not index.has_start
    assert 5 < len(index.packs) < 60
    packed = sum(one.size for one in index.packs)
    assert report.packs == (
        len(index.packs),
        len(blobs),
        sum(map(len, blobs)),
        packed + found.index.size,
        0,
        len(index.packs),
        packed,
    )
    assert (await check(store, deep=True)).damage == []


async def test_what_a_start_reads_is_in_the_start_pack_in_its_order(tree: Path) -> None:
    store = MemoryStore()
    wanted = [(tree / name).read_bytes() for name in ("d3/f3", "d1/f1", "d3/f10", "empty")]
    await store.write_note("a__b.profile", profile_of(*wanted, wanted[0]))
    report = await push(tree, NAME, store, packs=True)
    assert report.packs is not None
    assert report.packs.start == len(wanted)
    found, index = await packs_in(store), await index_in(store)
    assert found.start is not None
    assert found.start.digest == index.packs[0].digest
    blobs = contents(store, index)
    assert blobs[: len(wanted)] == wanted
    assert len(blobs) == len(set(blobs))
    assert set(blobs) == small_files(tree)
    alone = PackIndex.of_pack(found.start.info, store.blobs[found.start.digest][: found.start.head])
    assert [alone.digest(at) for at in range(len(alone))] == list(map(digests.of, wanted))


async def test_a_damaged_profile_is_no_profile(tree: Path, expected_output: ExpectOutput) -> None:
    expected_output(r"^WARNING +aysfs\.publish\.packs:.*so there is no start pack$")
    store = MemoryStore()
    await store.write_note("a__b.profile", b"\xff|nonsense\nabc|1\n")
    await push(tree, NAME, store, packs=True)
    assert not (await index_in(store)).has_start


async def test_the_same_tree_gives_the_same_packs(tree: Path) -> None:
    first, second = MemoryStore(clock_ns=lambda: 1), MemoryStore(clock_ns=lambda: 2)
    for store in (first, second):
        await push(tree, NAME, store, packs=True)
    assert (first.blobs, first.noted) == (second.blobs, second.noted)


class Asked(FramesOfFiles):
    """Counts the blobs that frames are made of."""

    count = 0

    async def frames(self, blobs: Sequence[cut.Blob]) -> list[bytes]:
        Asked.count += len(blobs)
        return await super().frames(blobs)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> type[Asked]:
    monkeypatch.setattr("aysfs.publish.push.FramesOfFiles", Asked)
    Asked.count = 0
    return Asked


async def test_a_push_of_the_same_tree_reads_and_sends_nothing(
    tree: Path, asked: type[Asked]
) -> None:
    store = MemoryStore()
    wanted = [(tree / "d1/f1").read_bytes(), (tree / "d2/f2").read_bytes()]
    await store.write_note("a__b.profile", profile_of(*wanted))
    await push(tree, NAME, store, packs=True)
    before = dict(store.blobs), await packs_in(store)
    asked.count = 0
    report = await push(tree, NAME, store, packs=True)
    assert report.packs is not None
    assert (report.packs.sent, asked.count) == (0, 0)
    assert (store.blobs, await packs_in(store)) == before


async def test_a_push_after_a_change_sends_the_packs_around_it(
    tree: Path, asked: type[Asked]
) -> None:
    store = MemoryStore()
    await push(tree, NAME, store, packs=True)
    source = random.Random(2)
    sent = []
    for number in range(0, FILES, 6):
        (tree / f"d{number % 7}" / f"f{number}").write_bytes(source.randbytes(800))
        asked.count = 0
        report = await push(tree, NAME, store, packs=True)
        assert report.packs is not None
        sent.append(report.packs.sent)
        assert asked.count < FILES / 3
        assert set(contents(store, await index_in(store))) == small_files(tree)
        fresh = MemoryStore()
        await push(tree, NAME, fresh, packs=True)
        assert (await index_in(fresh)).packs == (await index_in(store)).packs
    assert sum(sent) / len(sent) <= 2
    assert (await check(store, deep=True)).damage == []


async def test_a_pack_that_the_store_has_lost_is_made_again(tree: Path) -> None:
    store = MemoryStore()
    await push(tree, NAME, store, packs=True)
    before = await index_in(store)
    del store.blobs[before.packs[2].digest]
    report = await push(tree, NAME, store, packs=True)
    assert report.packs is not None
    assert report.packs.sent == 1
    assert (await index_in(store)).packs == before.packs
    del store.blobs[(await packs_in(store)).index.digest]
    report = await push(tree, NAME, store, packs=True)
    assert report.packs is not None
    assert report.packs.sent == 0  # all are made, and all are there
    assert (await index_in(store)).packs == before.packs


async def test_a_tag_has_the_packs_too_and_every_store(tree: Path) -> None:
    first, second = MemoryStore(), MemoryStore()
    await push(tree, NAME, Chain([first, second]), tag="1", packs=True)
    for store in (first, second):
        assert await packs_in(store) == await packs_in(store, TAGGED)
        assert (await check(store, deep=True)).damage == []


async def test_a_second_store_gets_the_packs_that_the_first_has(tree: Path) -> None:
    first, second = MemoryStore(), MemoryStore()
    await push(tree, NAME, first, packs=True)
    await push(tree, NAME, Chain([first, second]), packs=True)
    assert (await index_in(first)).packs == (await index_in(second)).packs
    assert (await check(second, deep=True)).damage == []


async def test_a_push_without_packs_withdraws_those_of_another_list(tree: Path) -> None:
    store = MemoryStore()
    await push(tree, NAME, store, tag="1", packs=True)
    await push(tree, NAME, store)
    assert await read_packs(store, NAME) is not None  # the list is the same
    (tree / "new").write_bytes(b"new")
    await push(tree, NAME, store)
    assert await read_packs(store, NAME) is None
    assert await read_packs(store, TAGGED) is not None


class PacksLast(Passes):
    """Sees that all packs are there before the note, and the note before the list."""

    def __init__(self, memory: MemoryStore) -> None:
        super().__init__(memory)
        self._memory = memory
        self.order: list[str] = []

    async def write_note(self, name: str, data: bytes) -> None:
        await super().write_note(name, data)
        if name.endswith(".packs"):
            index = await index_in(self._memory)
            assert not await self._memory.missing({one.digest: one.size for one in index.packs})
            self.order.append("note")

    async def put_list(self, name: ServiceName, chunks: object) -> None:
        await super().put_list(name, chunks)  # type: ignore[arg-type]  # passed on as it came
        self.order.append("list")


async def test_packs_come_before_the_note_and_the_note_before_the_list(tree: Path) -> None:
    store = PacksLast(MemoryStore())
    await push(tree, NAME, store, packs=True)
    assert store.order == ["note", "list"]


class NoRoom(Passes):
    """Takes no blob as large as a pack."""

    async def put_many(self, sources: Sequence[BlobSource]) -> None:
        if any(one.size >= 3000 for one in sources):
            raise StoreTrouble("full")
        await super().put_many(sources)


async def test_packs_that_do_not_fit_publish_nothing(tree: Path, no_leaks: None) -> None:
    memory = MemoryStore()
    with pytest.raises(StoreTrouble, match="full"):
        await push(tree, NAME, NoRoom(memory), packs=True)
    assert memory.published == {}
    assert memory.noted == {}


class WriteOnly(Passes):
    """A store of whoever may push and not read."""

    async def get(self, digest: Digest, size: int, sink: Sink) -> None:
        raise StoreTrouble("the server forbids it")


async def test_who_may_only_write_can_pack(tree: Path) -> None:
    memory = MemoryStore()
    for _ in range(2):
        report = await push(tree, NAME, WriteOnly(memory), packs=True)
        assert report.packs is not None
    assert set(contents(memory, await index_in(memory))) == small_files(tree)


class Meddler(Passes):
    """Changes a file of the tree when the first pack is put."""

    def __init__(self, memory: MemoryStore, file: Path) -> None:
        super().__init__(memory)
        self._file = file

    async def put_many(self, sources: Sequence[BlobSource]) -> None:
        await super().put_many(sources)
        self._file.write_bytes(b"other bytes")


async def test_a_file_that_changes_while_it_is_packed_is_told(tree: Path) -> None:
    memory = MemoryStore()
    await push(tree, NAME, memory)
    await remove_list(memory, NAME)
    file = tree / "d6/f6"
    data = file.read_bytes()
    (tree / "one-more").write_bytes(b"so that something is put")
    with pytest.raises(TreeChanged, match="changed while it was pushed"):
        await push(tree, NAME, Meddler(memory, file), packs=True)
    assert memory.published == {}
    assert data


async def test_a_large_blob_is_in_no_pack(tree: Path) -> None:
    (tree / "large").touch()
    os.truncate(tree / "large", LARGE + 1)
    store = MemoryStore()
    await push(tree, NAME, store, packs=True)
    index = await index_in(store)
    assert index.find(digests.of(bytes(LARGE + 1))) is None
    assert index.find(digests.of((tree / "d1/f1").read_bytes())) is not None


async def test_a_pack_with_a_large_frame_goes_by_way_of_a_file(
    tree: Path, no_leaks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "_HELD", 100_000)
    large = [random.Random(seed).randbytes(200_000) for seed in (3, 4)]
    (tree / "d1/large").write_bytes(large[0])
    (tree / "d2/large").write_bytes(large[1])
    store = MemoryStore()
    await push(tree, NAME, store, packs=True)
    index = await index_in(store)
    assert set(contents(store, index)) == small_files(tree)
    assert sum(one.size > 200_000 for one in index.packs) == 2
    assert (await check(store, deep=True)).damage == []


async def test_a_tree_of_nothing_has_no_packs(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    store = MemoryStore()
    report = await push(tmp_path / "tree", NAME, store, packs=True)
    assert report.packs is not None
    assert (report.packs.packs, report.packs.blobs) == (0, 0)
    assert (await index_in(store)).packs == ()
    assert (await check(store, deep=True)).damage == []


async def test_a_push_with_packs_can_be_cut_anywhere(tree: Path, no_leaks: None) -> None:
    """Nothing is published, or all of it; and no file and no thread is left."""
    lists = set()

    async def attempt(cut_here: Cut) -> None:
        store = MemoryStore()
        await store.write_note("a__b.profile", profile_of((tree / "d1/f1").read_bytes()))
        await cut_here.during(lambda: push(tree, NAME, store, packs=True))
        await threads_ended()
        lists.add(len(store.published))
        if store.published:
            assert (await check(store, deep=True)).damage == []

    assert await at_every_await(attempt) > 20
    assert lists == {0, 1}


# --- of what a store has already ---------------------------------------------------------


async def test_what_is_in_a_store_gets_the_packs_of_a_push(tree: Path) -> None:
    pushed, store = MemoryStore(), MemoryStore()
    await push(tree, NAME, pushed, packs=True)
    await push(tree, NAME, store)
    report = await add_packs(store, NAME)
    assert await packs_in(store) == await packs_in(pushed)
    assert store.blobs == pushed.blobs
    assert report.sent == report.packs
    assert (await add_packs(store, NAME)).sent == 0
    assert store.noted.keys() == {"a__b.packs"}  # and no claim


async def test_a_new_profile_changes_what_is_there(tree: Path) -> None:
    store = MemoryStore()
    await push(tree, NAME, store, packs=True)
    wanted = [(tree / "d1/f1").read_bytes(), (tree / "d5/f5").read_bytes()]
    await store.write_note("a__b.profile", profile_of(*wanted))
    report = await add_packs(store, NAME)
    assert report.start == 2
    assert report.sent < report.packs
    index = await index_in(store)
    assert contents(store, index)[:2] == wanted
    assert set(contents(store, index)) == small_files(tree)


async def test_packs_that_lie_are_made_again_when_that_is_asked_for(tree: Path) -> None:
    """As somebody published them who means harm: whoever reads out of them finds out."""
    store = MemoryStore()
    await push(tree, NAME, store, packs=True)
    good = await index_in(store)
    pack = good.packs[0]
    data = store.blobs[pack.digest]
    lie = data[: head_size(pack.count)] + bytes(len(data) - head_size(pack.count))
    await publish_instead(store, good, lie)
    await add_packs(store, NAME)
    assert digests.of(lie) in {one.digest for one in (await index_in(store)).packs}
    assert (await check(store, deep=True)).damage != []
    await add_packs(store, NAME, anew=True)
    assert (await index_in(store)).packs == good.packs
    assert (await check(store, deep=True)).damage == []


async def publish_instead(store: MemoryStore, index: PackIndex, lie: bytes) -> None:
    """Have the note and an index name another first pack."""
    from_before = await packs_in(store)
    first, *rest = (Pack(one.digest, one.size, index.blobs_of(one)) for one in index.packs)
    packs = [first._replace(digest=store.add(lie)), *rest]
    data = PackIndex.join(packs, has_start=False).encode()
    note = from_before.to_json()
    for old, new in (
        (from_before.index.digest.hex(), store.add(data).hex()),
        (f'"size": {from_before.index.size}', f'"size": {len(data)}'),
    ):
        note = note.replace(old.encode(), new.encode())
    await store.write_note("a__b.packs", note)


async def test_an_index_that_lies_of_lengths_makes_no_endless_pack(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All frames are said to be as short as can be, so that no pack would end by them."""
    monkeypatch.setattr(cut, "MOST_CONTENT", 30_000)
    store = MemoryStore()
    await push(tree, NAME, store, packs=True)
    index = await index_in(store)
    whole = Columns(one for pack in index.packs for one in index.blobs_of(pack))
    short = Columns(one._replace(stored=9) for one in whole)
    pack = Pack(store.add(b"lie"), head_size(len(short)) + 9 * len(short), short)
    found, data = published(
        (await packs_in(store)).list_sha256, PackIndex.join([pack], has_start=False)
    )
    store.add(data)
    await store.write_note("a__b.packs", found.to_json())
    await push(tree, NAME, store, packs=True)
    index = await index_in(store)
    assert set(contents(store, index)) == small_files(tree)
    sizes = [sum(index.blobs_of(pack).sizes) for pack in index.packs]
    assert max(sizes) < 30_000 + 2_000


@pytest.mark.parametrize("damage", ["missing", "corrupt"])
async def test_a_blob_that_is_not_there_ends_it(tree: Path, damage: str) -> None:
    store = MemoryStore()
    await push(tree, NAME, store)
    data = (tree / "d3/f3").read_bytes()
    if damage == "missing":
        del store.blobs[digests.of(data)]
    else:
        store.blobs[digests.of(data)] = bytes(len(data))
    with pytest.raises(BlobMissing if damage == "missing" else Corrupt):
        await add_packs(store, NAME)
    assert store.noted == {}


async def test_a_list_of_the_lineage_has_packs_as_well() -> None:
    store = MemoryStore()
    digest = store.add(b"content")
    await store.put_list(NAME, [b"/bin/x|%s|7|nobody-here|x|0755|2|1|1|\n" % digest.hex().encode()])
    await add_packs(store, NAME)
    assert contents(store, await index_in(store)) == [b"content"]
    assert (await check(store, deep=True)).damage == []


async def test_one_digest_with_two_sizes_is_packed_as_the_first() -> None:
    store = MemoryStore()
    digest = store.add(b"content")
    entries = [
        Entry(path, Kind.REGULAR, 0o644, 0, 0, size, digest, 5)
        for path, size in ((b"/a", 7), (b"/b", 9))
    ]
    await store.put_list(NAME, [b"".join(write_flist(None, entries))])
    await add_packs(store, NAME)
    assert contents(store, await index_in(store)) == [b"content"]


# --- of a stream -------------------------------------------------------------------------


def source(data: bytes, *, held: bool) -> BlobSource:
    of = BlobSource.of(digests.of(data), data)
    return of if held else of._replace(held=None)


async def test_a_spool_gives_the_frames_of_what_went_by(no_leaks: None) -> None:
    blobs = [b"", b"a", b"b" * 100_000, random.Random(5).randbytes(5000)]
    with FrameSpool() as spool:
        spool.take([source(one, held=False) for one in blobs[:2]])
        spool.take([])
        spool.take([source(b"", held=True)])
        spool.take([source(one, held=True) for one in blobs])
        asked = [(digests.of(one), len(one)) for one in reversed(blobs)]
        assert await spool.frames(asked) == [compress(one) for one in reversed(blobs)]


async def test_a_spool_passes_large_blobs_over() -> None:
    def refuse() -> object:
        raise AssertionError("read")

    large = BlobSource(Digest(bytes(16)), LARGE + 1, refuse)  # type: ignore[arg-type]  # never called
    with FrameSpool() as spool:
        spool.take([large, source(b"a", held=True)])
        assert await spool.frames([(digests.of(b"a"), 1)]) == [compress(b"a")]


async def test_made_anew_packs_that_are_damaged_are_whole_again(tree: Path) -> None:
    store = MemoryStore()
    await push(tree, NAME, store, packs=True)
    index = await index_in(store)
    for pack in index.packs:
        store.blobs[pack.digest] = store.blobs[pack.digest][:-5] + b"wrong"
    assert (await check(store, [NAME], deep=True)).wrong
    await add_packs(store, NAME)
    assert (await check(store, [NAME], deep=True)).wrong  # it takes them for what they were
    await add_packs(store, NAME, anew=True)
    assert not (await check(store, [NAME], deep=True)).wrong
