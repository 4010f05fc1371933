"""What gc deletes, what it never deletes, and when it refuses to delete at all."""

import io
import os
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from aysfs import digest as digests
from aysfs.digest import Digest
from aysfs.errors import BadList, StoreTrouble
from aysfs.names import ServiceName, parse_name
from aysfs.store import claims, layout
from aysfs.store.claims import GC_NOTE, PUSH_EXPIRY, PUSH_MAGIC, BadClaim
from aysfs.store.directory import DirectoryStore
from aysfs.store.faults import Passes
from aysfs.store.memory import MemoryStore
from aysfs.store.protocol import OpenList
from aysfs.upkeep.check import check
from aysfs.upkeep.gc import Amount, GcReport, gc
from aysfs.upkeep.info import info
from aysfs.upkeep.packed import Packed
from tests.t3_upkeep.listed import listed
from tests.t3_upkeep.sweeping import HOUR, NOW, store_at, sweep

NAME = parse_name("a__b")


async def test_what_no_list_names_is_deleted_and_counted() -> None:
    store = store_at()
    kept, tagged, garbage = [store.add(data) for data in (b"kept", b"tagged", b"garbage")]
    store.blob_times.clear()
    await store.put_list(NAME, [listed(b"kept")])
    await store.put_list(NAME._replace(tag="1"), [listed(b"tagged")])
    report = await sweep(store)
    assert set(store.blobs) == {kept, tagged}
    assert garbage not in store.blobs
    assert report == GcReport(True, 2, Amount(2, 10), Amount(1, 7), Amount(), Amount())
    assert store.noted == {}


async def test_a_list_that_is_a_link_to_where_nothing_is_keeps_everything(tmp_path: Path) -> None:
    """The disk that it leads to is not mounted, say."""
    store = DirectoryStore(tmp_path, create=True)
    await store.put(digests.of(b"kept"), 4, io.BytesIO(b"kept"))
    await store.put_list(NAME, [listed(b"kept")])
    here = tmp_path / layout.list_path(layout.DEFAULT_NAMESPACE, NAME)
    away = here.rename(tmp_path / "away")
    here.symlink_to(tmp_path / "not/mounted")
    for delete in (True, False):
        with pytest.raises(BadList, match="a__b: it is named, and is not there"):
            await gc(store, grace=0, delete=delete, settle=0)
    found = await check(store)
    assert (found.lists, found.unreadable) == ([], {"a__b": "it is named, and is not there"})
    assert (await info(store)).unreadable == found.unreadable
    here.unlink()
    here.symlink_to(away)
    assert (await sweep(store)).blobs == Amount()


async def test_without_delete_nothing_at_all_is_written() -> None:
    class ReadOnly(Passes):
        async def write_note(self, name: str, data: bytes) -> None:
            raise StoreTrouble("read-only")

        async def delete(self, digests: Sequence[Digest]) -> None:
            raise StoreTrouble("read-only")

    store = MemoryStore()
    store.add(b"garbage")
    store.blob_times.clear()
    report = await gc(ReadOnly(store))
    assert report == GcReport(False, 0, Amount(), Amount(1, 7), Amount(), Amount())
    assert len(store.blobs) == 1


async def test_the_grace_period_keeps_what_is_young() -> None:
    store = store_at()
    old, young = store.add(b"old"), store.add(b"young")
    store.blob_times = {old: NOW - 25 * HOUR, young: NOW - 23 * HOUR}
    report = await sweep(store, grace=24 * 3600)
    assert set(store.blobs) == {young}
    assert (report.blobs, report.young) == (Amount(1, 3), Amount(1, 5))


async def test_a_blob_of_both_layouts_is_as_young_as_its_youngest_copy(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path, create=True)
    data = b"data"
    digest = digests.of(data)
    await store.put(digest, len(data), io.BytesIO(data))
    old = tmp_path / layout.old_blob("dedupe", digest)
    old.parent.mkdir(parents=True)
    old.write_bytes(data)
    os.utime(old, (0, 0))
    assert (await sweep(store, grace=60)).blobs == Amount()
    os.utime(tmp_path / layout.blob("dedupe", digest), (0, 0))
    assert (await sweep(store, grace=60)).blobs == Amount(2, 8)
    assert await store.missing({digest: 4}) == {digest}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nonsense",
        listed(b"kept")[:-1],
    ],
    ids=["empty", "nonsense", "cut off"],
)
async def test_a_list_that_cannot_be_read_keeps_everything(data: bytes) -> None:
    store = store_at()
    store.add(b"garbage")
    await store.put_list(NAME, [data])
    with pytest.raises(BadList) as raised:
        await sweep(store)
    assert raised.value.hint is not None
    assert "nothing was deleted" in raised.value.hint
    assert len(store.blobs) == 1
    assert store.noted == {}


async def test_a_list_under_a_name_that_is_no_services_keeps_everything(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path, create=True)
    await store.put_list(NAME, [listed()])
    (tmp_path / "dedupe/md/md.flist").write_bytes(b"x")
    with pytest.raises(BadList, match=r"md/md\.flist"):
        await sweep(store)


async def test_a_claim_that_cannot_be_read_keeps_everything() -> None:
    store = store_at()
    store.add(b"garbage")
    await store.write_note(".push-0-0", b"?")
    with pytest.raises(BadClaim):
        await sweep(store)
    assert len(store.blobs) == 1


async def test_a_list_that_was_deleted_meanwhile_protects_nothing() -> None:
    class Vanishing(Passes):
        async def open_list(self, name: ServiceName) -> OpenList:
            await self._inner.delete_list(name)
            return await super().open_list(name)

    store = store_at()
    store.add(b"garbage")
    await store.put_list(NAME, [listed(b"garbage")])
    store.blob_times.clear()
    await sweep(Vanishing(store))
    assert store.blobs == {}


async def test_leftovers_of_dead_uploads_go_after_the_grace_period(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path, create=True)
    await store.put_list(NAME, [listed()])
    top = tmp_path / "dedupe"
    names = (".x.0123456789ab0.tmp", ".x.0123456789ab1.tmp", "README")
    old, young, other = (top / name for name in names)
    for path in (old, young, other):
        path.write_bytes(b"123")
    for path in (old, other):
        os.utime(path, (0, 0))
    assert (await gc(store)).leftovers == Amount(1, 3)
    assert old.exists()
    assert (await sweep(store)).leftovers == Amount(1, 3)  # the young one may be written now
    assert [path.exists() for path in (old, young, other)] == [False, True, True]


async def test_a_gc_that_breaks_off_leaves_a_sound_store() -> None:
    class Breaks(Passes):
        left = 1

        async def delete(self, digests: Sequence[Digest]) -> None:
            await super().delete(digests[: self.left])
            if not self.left:
                raise StoreTrouble("the server was killed")
            self.left -= 1

    store = store_at()
    kept = [store.add(b"kept %d" % number) for number in range(20)]
    for number in range(40):
        store.add(b"garbage %d" % number)
    store.blob_times.clear()
    await store.put_list(NAME, [listed(*(b"kept %d" % number for number in range(20)))])
    with pytest.raises(StoreTrouble, match="killed"):
        await sweep(Breaks(store))
    assert set(kept) < set(store.blobs)
    assert GC_NOTE in store.noted  # what it asked for last may still happen
    store.note_times[GC_NOTE] = NOW - int(claims.GC_EXPIRY * 1e9) - 1
    await sweep(store)
    assert set(store.blobs) == set(kept)


async def test_a_gc_that_is_cancelled_takes_its_note_away(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path, create=True)
    await store.put_list(NAME, [listed()])
    with trio.CancelScope() as scope:
        await gc(store, delete=True, settle=0, step=lambda *_: scope.cancel())
    assert scope.cancelled_caught
    assert await store.notes() == {}


# --- the property ------------------------------------------------------------------------

BLOBS = [b"%d" % number for number in range(24)]
numbers = st.integers(0, len(BLOBS) - 1)
ages = st.integers(0, 48)  # hours


@given(
    held=st.dictionaries(numbers, ages),
    lists=st.lists(st.lists(numbers, max_size=8), max_size=5),
    notes=st.lists(st.tuples(st.lists(numbers, max_size=8), ages), max_size=4),
    grace=ages,
)
async def test_exactly_what_nobody_names_and_is_old_goes(
    held: dict[int, int],
    lists: list[list[int]],
    notes: list[tuple[list[int], int]],
    grace: int,
) -> None:
    store = store_at()
    for number, age in held.items():
        store.blob_times[store.add(BLOBS[number])] = NOW - age * HOUR
    named: set[int] = set()
    for number, content in enumerate(lists):
        tag = f"{number}" if number else None
        await store.put_list(NAME._replace(tag=tag), [listed(*(BLOBS[one] for one in content))])
        named.update(content)
    for number, (content, age) in enumerate(notes):
        note = f".push-{number}-0"
        body = PUSH_MAGIC + b"".join(digests.of(BLOBS[one]) for one in content)
        await store.write_note(note, body)
        store.note_times[note] = NOW - age * HOUR
        if age * HOUR <= PUSH_EXPIRY * 1e9:
            named.update(content)
    expected = {number for number, age in held.items() if number in named or age <= grace}
    planned = await sweep_plan(store, grace)
    report = await sweep(store, grace=grace * 3600)
    assert set(store.blobs) == {digests.of(BLOBS[number]) for number in expected}
    assert report.blobs.files == len(held) - len(expected)
    assert report._replace(deleted=False) == planned
    assert set(store.noted) == {
        f".push-{number}-0"
        for number, (_, age) in enumerate(notes)
        if age * HOUR <= PUSH_EXPIRY * 1e9
    }


async def sweep_plan(store: MemoryStore, grace: int) -> GcReport:
    """What a dry run says, with this host's clock as the store's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time_ns", lambda: NOW)
        return await gc(store, grace=grace * 3600)


@given(st.lists(st.binary(min_size=16, max_size=16), max_size=50), st.integers(1, 200))
def test_packed_digests_are_a_set(records: list[bytes], repeat: int) -> None:
    one, many = Packed(), Packed()
    for _ in range(repeat):
        for record in records:
            one.add(record)
        many.update(b"".join(records))
    for packed in (one, many):
        assert set().union(*map(packed.bucket, range(256))) == set(records)


def test_what_comes_again_and_again_takes_no_more_memory() -> None:
    packed = Packed()
    for _ in range(20_000):
        packed.add(bytes(16))
    assert len(packed._buckets[0]) < 1 << 16
