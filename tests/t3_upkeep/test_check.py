"""What check finds: missing, short, flipped; in which lists and at which paths."""

import io
from pathlib import Path

import pytest

from aysfs import digest as digests
from aysfs.digest import Digest
from aysfs.errors import ListMissing, StoreTrouble
from aysfs.names import ServiceName, parse_name
from aysfs.store import layout
from aysfs.store.directory import DirectoryStore
from aysfs.store.faults import Counts, Vanishes
from aysfs.store.memory import MemoryStore
from aysfs.store.protocol import Store
from aysfs.upkeep import check as check_module
from aysfs.upkeep.check import Hurt, Wrong, check
from tests.t3_upkeep.listed import listed

NAME, OTHER = parse_name("a__b"), parse_name("c__d@1")
LARGE = bytes(range(256)) * 1000  # not at hand


class Site:
    """A directory store with two lists, and its files within reach."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = DirectoryStore(root, create=True)

    async def fill(self) -> "Site":
        for data in (b"one", b"two", b"", LARGE):
            await self.store.put(digests.of(data), len(data), io.BytesIO(data))
        await self.store.put_list(NAME, [listed(b"one", b"two", b"", LARGE, b"one")])
        await self.store.put_list(OTHER, [listed(b"two", LARGE)])
        return self

    def path(self, data: bytes) -> Path:
        return self.root / layout.blob("dedupe", digests.of(data))

    def spoil(self, data: bytes, with_what: bytes) -> None:
        path = self.path(data)
        path.chmod(0o600)
        path.write_bytes(with_what)


async def site_at(tmp_path: Path) -> Site:
    return await Site(tmp_path).fill()


@pytest.mark.parametrize("deep", [False, True])
async def test_a_whole_store_is_whole(tmp_path: Path, deep: bool, no_leaks: None) -> None:
    site = await site_at(tmp_path)
    report = await check(site.store, deep=deep)
    assert [one.name for one in report.lists] == [NAME, OTHER]
    assert (report.blobs, report.size) == (4, 6 + len(LARGE))
    assert (report.damage, report.unreadable, report.wrong) == ([], {}, {})


@pytest.mark.parametrize("deep", [False, True])
async def test_a_missing_blob_is_told_with_every_list_and_path(tmp_path: Path, deep: bool) -> None:
    site = await site_at(tmp_path)
    site.path(b"two").unlink()
    report = await check(site.store, deep=deep)
    two = digests.of(b"two")
    assert report.wrong == {two: Wrong.MISSING}
    assert [(one.name, one.missing, one.corrupt, one.files) for one in report.damage] == [
        (NAME, 1, 0, 5),
        (OTHER, 1, 0, 2),
    ]
    assert report.damage[0].hurt == [Hurt(b"/0001", two, Wrong.MISSING)]
    assert report.damage[1].hurt == [Hurt(b"/0000", two, Wrong.MISSING)]


async def test_a_short_blob_is_found_without_reading(tmp_path: Path) -> None:
    site = await site_at(tmp_path)
    site.spoil(LARGE, LARGE[:-1])
    counts = Counts(site.store)
    report = await check(counts)
    assert report.wrong == {digests.of(LARGE): Wrong.SIZE}
    assert counts.gets == {digests.of(LARGE): 1}


@pytest.mark.parametrize("data", [b"one", LARGE], ids=["small", "large"])
async def test_flipped_bytes_are_found_by_a_deep_check_only(tmp_path: Path, data: bytes) -> None:
    site = await site_at(tmp_path)
    site.spoil(data, bytes([data[0] ^ 1]) + data[1:])
    assert (await check(site.store)).wrong == {}
    report = await check(site.store, deep=True)
    assert report.wrong == {digests.of(data): Wrong.BYTES}
    paths = {hurt.path for one in report.damage for hurt in one.hurt}
    assert paths == ({b"/0000", b"/0004"} if data == b"one" else {b"/0003", b"/0001"})


async def test_each_blob_is_read_once_in_however_many_lists_it_is(tmp_path: Path) -> None:
    site = await site_at(tmp_path)
    counts = Counts(site.store)
    await check(counts, deep=True)
    assert set(counts.gets.values()) == {1}


async def test_a_list_that_cannot_be_read_does_not_stop_the_others(tmp_path: Path) -> None:
    site = await site_at(tmp_path)
    site.path(b"two").unlink()
    await site.store.put_list(parse_name("bad"), [b"nonsense"])
    (tmp_path / "dedupe/md/md.flist").write_bytes(listed())
    report = await check(site.store)
    assert set(report.unreadable) == {"jumpscale__bad", "md/md.flist"}
    assert [one.name for one in report.damage] == [NAME, OTHER]


async def test_only_the_lists_that_are_named_are_checked(tmp_path: Path) -> None:
    site = await site_at(tmp_path)
    site.path(b"one").unlink()
    assert (await check(site.store, [OTHER])).wrong == {}
    with pytest.raises(ListMissing):
        await check(site.store, [parse_name("nothing")])


async def test_of_two_sizes_of_one_digest_one_is_wrong() -> None:
    store = MemoryStore()
    digest = store.add(b"data")
    good = listed(b"data")
    await store.put_list(NAME, [good])
    await store.put_list(OTHER, [good.replace(b"|4|", b"|5|")])
    report = await check(store, deep=True)
    assert report.wrong == {digest: Wrong.SIZE}
    assert [one.name for one in report.damage] == [OTHER]


async def test_all_that_is_hurt_is_counted_and_some_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(check_module, "NAMED", 3)
    store = MemoryStore()
    await store.put_list(NAME, [listed(*(b"%d" % number for number in range(20)))])
    [damage] = (await check(store)).damage
    assert (damage.missing, len(damage.hurt)) == (20, 3)


async def test_an_outage_is_never_reported_as_damage() -> None:
    memory = MemoryStore()
    memory.add(b"data")
    await memory.put_list(NAME, [listed(b"data")])

    class Leaves(Vanishes):
        async def missing(self, blobs: object) -> set[Digest]:
            self.gone = True
            return set()

    with pytest.raises(StoreTrouble, match="gone"):
        await check(Leaves(memory), deep=True)


async def test_a_list_that_was_deleted_meanwhile_is_no_damage() -> None:
    class Deletes(Counts):
        async def lists(self) -> list[ServiceName]:
            return [NAME, OTHER]

    store: Store = Deletes(MemoryStore())
    assert (await check(store)).lists == []
