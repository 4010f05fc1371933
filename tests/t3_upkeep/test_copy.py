"""Copies: only what is missing, whole or not at all, each list for itself; and tags, which are
copies within a store."""

from collections.abc import Callable
from pathlib import Path

import pytest

from aysfs import digest as digests
from aysfs.digest import Digest
from aysfs.errors import BadList, BlobMissing, Corrupt, StoreTrouble
from aysfs.names import parse_name
from aysfs.store.directory import DirectoryStore
from aysfs.store.faults import Counts, FlipsLastByte, Passes
from aysfs.store.memory import MemoryStore
from aysfs.store.protocol import Held, Sink, Store
from aysfs.upkeep import copy as copy_module
from aysfs.upkeep.check import check
from aysfs.upkeep.copy import copy, retag
from tests.t3_upkeep.listed import listed

NAME, TAGGED, OTHER = parse_name("a__b"), parse_name("a__b@1"), parse_name("c__d")
SOME = [b"%d" % number for number in range(300)]
HUGE = bytes(range(256)) * ((copy_module.GROUP_BYTES >> 8) + 1)


async def a_store(*files: bytes) -> MemoryStore:
    store = MemoryStore("source")
    for data in files:
        store.add(data)
    await store.put_list(NAME, [listed(*files)])
    return store


async def test_a_list_and_its_blobs_arrive_as_they_are(tmp_path: Path, no_leaks: None) -> None:
    source = await a_store(*SOME, b"", HUGE)
    target = DirectoryStore(tmp_path, create=True)
    report = await copy(source, target, [NAME])
    assert (report.copied, report.blobs, report.present) == ([NAME], 302, 0)
    assert report.size == sum(map(len, SOME)) + len(HUGE)
    with (await target.open_list(NAME)).file as file:
        assert file.read() == source.published[NAME][0]
    assert (await check(target, deep=True)).wrong == {}
    assert await target.notes() == {}


async def test_only_what_is_missing_is_read_and_sent() -> None:
    memory = await a_store(*SOME)
    source, target = Counts(memory), Counts(MemoryStore())
    await copy(source, target, [NAME])
    await memory.put_list(OTHER, [listed(*SOME[:5], b"new")])
    memory.add(b"new")
    report = await copy(source, target, [NAME, OTHER])
    assert (report.blobs, report.present) == (1, 305)
    assert set(source.gets.values()) == set(target.puts.values()) == {1}


async def test_a_copy_that_broke_off_goes_on_where_it_was() -> None:
    class Breaks(Passes):
        left = 290

        async def get(self, digest: Digest, size: int, sink: Sink) -> None:
            self.left -= 1
            if not self.left:
                raise StoreTrouble("the line was cut")
            await super().get(digest, size, sink)

    memory, target = await a_store(*SOME), MemoryStore("target")
    with pytest.raises(StoreTrouble, match="cut"):
        await copy(Breaks(memory), target, [NAME])
    there = len(target.blobs)
    assert target.published == {}
    report = await copy(memory, target, [NAME])
    assert report.present == there > 0
    assert report.blobs == len(SOME) - there


@pytest.mark.parametrize("data", [b"data", HUGE], ids=["small", "large"])
async def test_what_arrives_corrupt_is_not_kept(tmp_path: Path, data: bytes) -> None:
    source = FlipsLastByte(await a_store(data))
    target = DirectoryStore(tmp_path, create=True)
    report = await copy(source, target, [NAME])
    assert isinstance(report.failed[NAME], Corrupt)
    assert report.copied == []
    assert await target.lists() == []
    assert await target.missing({digests.of(data): len(data)}) == {digests.of(data)}


async def test_a_list_that_cannot_be_copied_keeps_no_other() -> None:
    source = await a_store(*SOME)
    await source.put_list(OTHER, [listed(b"nowhere")])
    await source.put_list(TAGGED, [b"nonsense"])
    target = MemoryStore("target")
    report = await copy(source, target, [OTHER, TAGGED, parse_name("none"), NAME])
    assert report.copied == [NAME]
    kinds = {str(name): type(error).__name__ for name, error in report.failed.items()}
    assert kinds == {
        "c__d": "BlobMissing",
        "a__b@1": "BadList",
        "jumpscale__none": "ListMissing",
    }
    assert set(target.published) == {NAME}
    assert target.noted == {}


async def test_lists_of_the_lineage_are_copied_byte_for_byte() -> None:
    source = MemoryStore()
    digest = source.add(b"data")
    classic = b"/a|%s|4\n/b|%s|4" % (digest.hex().encode(), digest.hex().encode())
    await source.put_list(NAME, [classic])
    target = MemoryStore()
    await copy(source, target, [NAME])
    assert target.published[NAME][0] == classic


# --- tags --------------------------------------------------------------------------------


async def test_a_tag_is_the_same_list_under_another_name() -> None:
    store = Counts(await a_store(*SOME))
    await retag(store, NAME, TAGGED)
    with (await store.open_list(NAME)).file as one, (await store.open_list(TAGGED)).file as other:
        assert one.read() == other.read()
    assert (store.gets, store.puts) == ({}, {})
    assert await store.notes() == {}


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda store: store.blobs.clear(), BlobMissing),
        (lambda store: store.blobs.update({digests.of(b"1"): b"12"}), Corrupt),
        (lambda store: store.published.update({NAME: (b"nonsense", 0)}), BadList),
    ],
)
async def test_a_list_that_is_not_whole_gets_no_tag(
    spoil: Callable[[MemoryStore], None], error: type[Exception]
) -> None:
    store = await a_store(b"1")
    spoil(store)
    with pytest.raises(error):
        await retag(store, NAME, TAGGED)
    assert list(store.published) == [NAME]
    assert store.noted == {}


async def test_blobs_are_sent_in_groups_that_fit_into_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(copy_module, "GROUP_BLOBS", 7)
    monkeypatch.setattr(copy_module, "ASKED", 50)
    target: Store = MemoryStore()
    report = await copy(await a_store(*SOME), target, [NAME])
    assert report.blobs == len(SOME)
    sink = Held()
    await target.get(digests.of(b"299"), 3, sink)
    assert sink.getvalue() == b"299"
