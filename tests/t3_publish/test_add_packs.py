"""Packs of a list that a store has already: those of a push, made again only where they must be."""

from pathlib import Path

import pytest

from aysfs import digest as digests
from aysfs.errors import BlobMissing, Corrupt
from aysfs.flist.entry import Entry, Kind
from aysfs.flist.text import write_flist
from aysfs.pack import Columns, PackIndex, cut, head_size
from aysfs.pack.index import Pack
from aysfs.publish.packs import add_packs
from aysfs.publish.push import push
from aysfs.store.memory import MemoryStore
from aysfs.store.packs import published
from aysfs.upkeep.check import check
from tests.list_notes import NAME
from tests.t3_publish.packs_pushed import contents, index_in, packs_in, profile_of, small_files

pytestmark = pytest.mark.usefixtures("small_packs")


async def test_what_is_in_a_store_gets_the_packs_of_a_push(many_files: Path) -> None:
    pushed, store = MemoryStore(), MemoryStore()
    await push(many_files, NAME, pushed, packs=True)
    await push(many_files, NAME, store)
    report = await add_packs(store, NAME)
    assert await packs_in(store) == await packs_in(pushed)
    assert store.blobs == pushed.blobs
    assert report.sent == report.packs
    assert (await add_packs(store, NAME)).sent == 0
    assert store.noted.keys() == {"a__b.packs"}  # and no claim


async def test_a_new_profile_changes_what_is_there(many_files: Path) -> None:
    store = MemoryStore()
    await push(many_files, NAME, store, packs=True)
    wanted = [(many_files / "d1/f1").read_bytes(), (many_files / "d5/f5").read_bytes()]
    await store.write_note("a__b.profile", profile_of(*wanted))
    report = await add_packs(store, NAME)
    assert report.start == 2
    assert report.sent < report.packs
    index = await index_in(store)
    assert contents(store, index)[:2] == wanted
    assert set(contents(store, index)) == small_files(many_files)


async def test_packs_that_lie_are_made_again_when_that_is_asked_for(many_files: Path) -> None:
    """As somebody published them who means harm: whoever reads out of them finds out."""
    store = MemoryStore()
    await push(many_files, NAME, store, packs=True)
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
    many_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All frames are said to be as short as can be, so that no pack would end by them."""
    monkeypatch.setattr(cut, "MOST_CONTENT", 30_000)
    store = MemoryStore()
    await push(many_files, NAME, store, packs=True)
    index = await index_in(store)
    whole = Columns(one for pack in index.packs for one in index.blobs_of(pack))
    short = Columns(one._replace(stored=9) for one in whole)
    pack = Pack(store.add(b"lie"), head_size(len(short)) + 9 * len(short), short)
    found, data = published(
        (await packs_in(store)).list_sha256, PackIndex.join([pack], has_start=False)
    )
    store.add(data)
    await store.write_note("a__b.packs", found.to_json())
    await push(many_files, NAME, store, packs=True)
    index = await index_in(store)
    assert set(contents(store, index)) == small_files(many_files)
    sizes = [sum(index.blobs_of(pack).sizes) for pack in index.packs]
    assert max(sizes) < 30_000 + 2_000


@pytest.mark.parametrize("damage", ["missing", "corrupt"])
async def test_a_blob_that_is_not_there_ends_it(many_files: Path, damage: str) -> None:
    store = MemoryStore()
    await push(many_files, NAME, store)
    data = (many_files / "d3/f3").read_bytes()
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


async def test_made_anew_packs_that_are_damaged_are_whole_again(many_files: Path) -> None:
    store = MemoryStore()
    await push(many_files, NAME, store, packs=True)
    index = await index_in(store)
    for pack in index.packs:
        store.blobs[pack.digest] = store.blobs[pack.digest][:-5] + b"wrong"
    assert (await check(store, [NAME], deep=True)).wrong
    await add_packs(store, NAME)
    assert (await check(store, [NAME], deep=True)).wrong  # it takes them for what they were
    await add_packs(store, NAME, anew=True)
    assert not (await check(store, [NAME], deep=True)).wrong
