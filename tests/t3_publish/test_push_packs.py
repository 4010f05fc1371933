"""The packs that a push publishes: every small blob in one of them, and what changed sent alone.

test_push_list_notes.py asks the rest of every kind of notes.
"""

import hashlib
import os
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from aysfs import digest as digests
from aysfs.digest import Digest
from aysfs.errors import StoreTrouble
from aysfs.limits import LARGE
from aysfs.pack import PackIndex, cut
from aysfs.publish import packing
from aysfs.publish.frames import FramesOfFiles
from aysfs.publish.push import push
from aysfs.publish.walk import TreeChanged
from aysfs.store.chain import Chain
from aysfs.store.faults import Passes
from aysfs.store.memory import MemoryStore
from aysfs.store.protocol import BlobSource, Sink
from aysfs.upkeep.check import check
from aysfs.upkeep.lists import remove_list
from tests.cancelling import Cut, at_every_await, threads_ended
from tests.conftest import ExpectOutput
from tests.list_notes import NAME
from tests.t3_publish.packs_pushed import (
    FILES,
    contents,
    index_in,
    packs_in,
    profile_of,
    small_files,
)

pytestmark = pytest.mark.usefixtures("small_packs")


async def test_every_blob_is_in_one_pack_and_comes_out_as_it_was(
    many_files: Path, no_leaks: None
) -> None:
    store = MemoryStore()
    report = await push(many_files, NAME, store, packs=True)
    assert report.packs is not None
    found = await packs_in(store)
    index = await index_in(store)
    assert found.list_sha256 == hashlib.sha256(store.published[NAME][0]).hexdigest()
    blobs = contents(store, index)
    assert len(blobs) == len(set(blobs)) == len(index)
    assert set(blobs) == small_files(many_files)
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


async def test_what_a_start_reads_is_in_the_start_pack_in_its_order(many_files: Path) -> None:
    store = MemoryStore()
    wanted = [(many_files / name).read_bytes() for name in ("d3/f3", "d1/f1", "d3/f10", "empty")]
    await store.write_note("a__b.profile", profile_of(*wanted, wanted[0]))
    report = await push(many_files, NAME, store, packs=True)
    assert report.packs is not None
    assert report.packs.start == len(wanted)
    found, index = await packs_in(store), await index_in(store)
    assert found.start is not None
    assert found.start.digest == index.packs[0].digest
    blobs = contents(store, index)
    assert blobs[: len(wanted)] == wanted
    assert len(blobs) == len(set(blobs))
    assert set(blobs) == small_files(many_files)
    alone = PackIndex.of_pack(found.start.info, store.blobs[found.start.digest][: found.start.head])
    assert [alone.digest(at) for at in range(len(alone))] == list(map(digests.of, wanted))


async def test_a_damaged_profile_is_no_profile(
    many_files: Path, expected_output: ExpectOutput
) -> None:
    expected_output(r"^WARNING +aysfs\.publish\.packs:.*so there is no start pack$")
    store = MemoryStore()
    await store.write_note("a__b.profile", b"\xff|nonsense\nabc|1\n")
    await push(many_files, NAME, store, packs=True)
    assert not (await index_in(store)).has_start


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
    many_files: Path, asked: type[Asked]
) -> None:
    store = MemoryStore()
    wanted = [(many_files / "d1/f1").read_bytes(), (many_files / "d2/f2").read_bytes()]
    await store.write_note("a__b.profile", profile_of(*wanted))
    await push(many_files, NAME, store, packs=True)
    before = dict(store.blobs), await packs_in(store)
    asked.count = 0
    report = await push(many_files, NAME, store, packs=True)
    assert report.packs is not None
    assert (report.packs.sent, asked.count) == (0, 0)
    assert (store.blobs, await packs_in(store)) == before


async def test_a_push_after_a_change_sends_the_packs_around_it(
    many_files: Path, asked: type[Asked]
) -> None:
    store = MemoryStore()
    await push(many_files, NAME, store, packs=True)
    source = random.Random(2)
    sent = []
    for number in range(0, FILES, 6):
        (many_files / f"d{number % 7}" / f"f{number}").write_bytes(source.randbytes(800))
        asked.count = 0
        report = await push(many_files, NAME, store, packs=True)
        assert report.packs is not None
        sent.append(report.packs.sent)
        assert asked.count < FILES / 3
        assert set(contents(store, await index_in(store))) == small_files(many_files)
        fresh = MemoryStore()
        await push(many_files, NAME, fresh, packs=True)
        assert (await index_in(fresh)).packs == (await index_in(store)).packs
    assert sum(sent) / len(sent) <= 2
    assert (await check(store, deep=True)).damage == []


async def test_a_pack_that_the_store_has_lost_is_made_again(many_files: Path) -> None:
    store = MemoryStore()
    await push(many_files, NAME, store, packs=True)
    before = await index_in(store)
    del store.blobs[before.packs[2].digest]
    report = await push(many_files, NAME, store, packs=True)
    assert report.packs is not None
    assert report.packs.sent == 1
    assert (await index_in(store)).packs == before.packs
    del store.blobs[(await packs_in(store)).index.digest]
    report = await push(many_files, NAME, store, packs=True)
    assert report.packs is not None
    assert report.packs.sent == 0  # all are made, and all are there
    assert (await index_in(store)).packs == before.packs


async def test_a_second_store_gets_the_packs_that_the_first_has(many_files: Path) -> None:
    first, second = MemoryStore(), MemoryStore()
    await push(many_files, NAME, first, packs=True)
    await push(many_files, NAME, Chain([first, second]), packs=True)
    assert (await index_in(first)).packs == (await index_in(second)).packs
    assert (await check(second, deep=True)).damage == []


class WriteOnly(Passes):
    """A store of whoever may push and not read."""

    async def get(self, digest: Digest, size: int, sink: Sink) -> None:
        raise StoreTrouble("the server forbids it")


async def test_who_may_only_write_can_pack(many_files: Path) -> None:
    memory = MemoryStore()
    for _ in range(2):
        report = await push(many_files, NAME, WriteOnly(memory), packs=True)
        assert report.packs is not None
    assert set(contents(memory, await index_in(memory))) == small_files(many_files)


class Meddler(Passes):
    """Changes a file of the tree when the first pack is put."""

    def __init__(self, memory: MemoryStore, file: Path) -> None:
        super().__init__(memory)
        self._file = file

    async def put_many(self, sources: Sequence[BlobSource]) -> None:
        await super().put_many(sources)
        self._file.write_bytes(b"other bytes")


async def test_a_file_that_changes_while_it_is_packed_is_told(many_files: Path) -> None:
    memory = MemoryStore()
    await push(many_files, NAME, memory)
    await remove_list(memory, NAME)
    file = many_files / "d6/f6"
    data = file.read_bytes()
    (many_files / "one-more").write_bytes(b"so that something is put")
    with pytest.raises(TreeChanged, match="changed while it was pushed"):
        await push(many_files, NAME, Meddler(memory, file), packs=True)
    assert memory.published == {}
    assert data


async def test_a_large_blob_is_in_no_pack(many_files: Path) -> None:
    (many_files / "large").touch()
    os.truncate(many_files / "large", LARGE + 1)
    store = MemoryStore()
    await push(many_files, NAME, store, packs=True)
    index = await index_in(store)
    assert index.find(digests.of(bytes(LARGE + 1))) is None
    assert index.find(digests.of((many_files / "d1/f1").read_bytes())) is not None


async def test_a_pack_with_a_large_frame_goes_by_way_of_a_file(
    many_files: Path, no_leaks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "_HELD", 100_000)
    large = [random.Random(seed).randbytes(200_000) for seed in (3, 4)]
    (many_files / "d1/large").write_bytes(large[0])
    (many_files / "d2/large").write_bytes(large[1])
    store = MemoryStore()
    await push(many_files, NAME, store, packs=True)
    index = await index_in(store)
    assert set(contents(store, index)) == small_files(many_files)
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


async def test_a_push_with_packs_can_be_cut_anywhere(many_files: Path, no_leaks: None) -> None:
    """Nothing is published, or all of it; and no file and no thread is left."""
    lists = set()

    async def attempt(cut_here: Cut) -> None:
        store = MemoryStore()
        await store.write_note("a__b.profile", profile_of((many_files / "d1/f1").read_bytes()))
        await cut_here.during(lambda: push(many_files, NAME, store, packs=True))
        await threads_ended()
        lists.add(len(store.published))
        if store.published:
            assert (await check(store, deep=True)).damage == []

    assert await at_every_await(attempt) > 20
    assert lists == {0, 1}
