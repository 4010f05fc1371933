"""The numbers of a store."""

from pathlib import Path

from aysfs.names import parse_name
from aysfs.store.claims import Claim
from aysfs.store.directory import DirectoryStore
from aysfs.store.memory import MemoryStore
from aysfs.upkeep.info import info, read_lists
from aysfs.upkeep.lists import Facts
from tests.t3_upkeep.listed import listed

NAME, TAGGED = parse_name("a__b"), parse_name("a__b@1")


async def test_what_is_counted() -> None:
    store = MemoryStore()
    for data in (b"shared", b"twice", b"nobody's", b"claimed"):
        store.add(data)
    await store.put_list(NAME, [listed(b"shared", b"twice", b"twice")])
    await store.put_list(TAGGED, [listed(b"shared")])
    await store.put_list(parse_name("c__d"), [b"nonsense"])
    claim = Claim(store)
    await claim.missing(dict.fromkeys(store.blobs, 1))
    found = await info(store)
    assert (found.services, found.tags, found.entries) == (1, 1, 4)
    assert (found.listed_size, found.named, found.named_size, found.saved) == (22, 2, 11, 11)
    assert (found.blobs, found.size) == (4, 26)
    assert (found.unnamed, found.unnamed_size) == (2, 15)
    assert (found.pushes, found.gc) == (1, False)
    assert list(found.unreadable) == ["c__d"]


async def test_leftovers_are_counted(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path, create=True)
    await store.put_list(NAME, [listed()])
    (tmp_path / "dedupe/.x.0123456789ab0.tmp").write_bytes(b"123")
    (tmp_path / "dedupe/README").write_bytes(b"12345")
    (tmp_path / "dedupe/md/old.flist").write_bytes(b"1")
    found = await info(store)
    assert (found.leftovers, found.leftovers_size) == (1, 3)
    assert list(found.unreadable) == ["md/old.flist"]


async def test_lists_have_entries_sizes_and_times() -> None:
    store = MemoryStore(clock_ns=lambda: 7)
    await store.put_list(NAME, [listed(b"a", b"bc")])
    [facts], unreadable = await read_lists(store)
    assert unreadable == {}
    assert facts == Facts(NAME, 2, 2, 3, 7)
