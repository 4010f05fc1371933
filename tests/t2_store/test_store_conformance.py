"""What every store promises, asked of each of them."""

import contextlib
import functools
import io
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from aysfs import digest as digests
from aysfs.digest import EMPTY, Digest
from aysfs.errors import AysfsError, BadName, BlobMissing, Corrupt, ListMissing, NoteMissing
from aysfs.names import parse_name
from aysfs.store.http import HttpStore
from aysfs.store.objects import ObjectsStore
from aysfs.store.protocol import PART_IN_LOOP, BlobSource, Held, Store
from tests.conftest import ExpectOutput, same_descriptors
from tests.t2_store.kinds import ABSENT, BIG, MAKERS, NAME, SERVERS, Served, _connect, make


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test with every store; a bucket that signs nothing differs in reading alone."""
    if "store" in metafunc.fixturenames:
        reads = metafunc.function in (
            test_a_blob_comes_back_as_it_was_put,
            test_an_absent_blob_is_missing_and_writes_nothing,
            test_another_size_than_the_expected_is_corrupt,
            test_a_failing_sink_is_not_the_stores_trouble,
            test_a_cancelled_get_writes_no_more,
            test_a_part_comes_as_it_lies_in_the_blob,
            test_no_part_of_an_absent_blob_or_of_one_of_another_size,
            test_a_sink_that_fails_in_a_part_is_not_the_stores_trouble,
            test_a_cancelled_part_writes_no_more,
        )
        kinds = [*MAKERS, *SERVERS, *["s3-unsigned"] * reads]
        metafunc.parametrize("store", kinds, indirect=True)


@pytest.fixture
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if server := SERVERS.get(request.param.removesuffix("-unsigned")):
        request.getfixturevalue(server)
    with same_descriptors():  # obstore's threads close its connections when they get there
        store = make(request.param, tmp_path / "store", request)
        trio.run(_connect, store)
        yield store
        trio.run(store.aclose)


@pytest.fixture
def no_leaks(store: Store) -> Iterator[None]:
    """As everywhere; over HTTP a store has as many connections as there was to do side by side."""
    connected = isinstance(store, Served | HttpStore | ObjectsStore)
    with same_descriptors(but="socket:" if connected else None):
        yield


async def put(store: Store, data: bytes) -> Digest:
    digest = digests.of(data)
    await store.put(digest, len(data), io.BytesIO(data))
    return digest


async def get(store: Store, digest: Digest, size: int) -> bytes:
    sink = Held()
    await store.get(digest, size, sink)
    return sink.getvalue()


@pytest.mark.parametrize("data", [b"", b"x", BIG], ids=["empty", "one", "big"])
async def test_a_blob_comes_back_as_it_was_put(store: Store, data: bytes, no_leaks: None) -> None:
    digest = await put(store, data)
    assert await get(store, digest, len(data)) == data


async def test_many_blobs_are_put_at_once(store: Store, no_leaks: None) -> None:
    data = [b"", b"a", BIG, b"a"]
    await store.put_many(
        [BlobSource(digests.of(one), len(one), functools.partial(io.BytesIO, one)) for one in data]
    )
    for one in data:
        assert await get(store, digests.of(one), len(one)) == one


async def test_missing_tells_what_is_not_there(store: Store) -> None:
    one, empty = await put(store, b"one"), await put(store, b"")
    assert await store.missing({one: 3, ABSENT: 3, empty: 0}) == {ABSENT}
    assert await store.missing({}) == set()


async def test_a_blob_has_a_size(store: Store, no_leaks: None) -> None:
    for data in (b"", b"one", BIG):
        assert await store.size_of(await put(store, data)) == len(data)
    with pytest.raises(BlobMissing, match=ABSENT.hex()):
        await store.size_of(ABSENT)


async def test_a_blob_of_another_size_is_missing(store: Store) -> None:
    one = await put(store, b"one")
    assert await store.missing({one: 4}) == {one}


async def test_the_empty_blob_is_missing_until_it_is_put(store: Store) -> None:
    assert await store.missing({EMPTY: 0}) == {EMPTY}
    await put(store, b"")
    assert await store.missing({EMPTY: 0}) == set()


async def test_an_absent_blob_is_missing_and_writes_nothing(store: Store) -> None:
    sink = Held()
    with pytest.raises(BlobMissing, match=ABSENT.hex()):
        await store.get(ABSENT, 3, sink)
    assert sink.getvalue() == b""


async def test_another_size_than_the_expected_is_corrupt(
    store: Store, expected_output: ExpectOutput
) -> None:
    expected_output(r"^WARNING +aysfs\.store\.chain:.* sent wrong bytes: .*$")
    digest = await put(store, b"abc")
    with pytest.raises(Corrupt):
        await get(store, digest, 4)


@pytest.mark.parametrize(
    ("announced", "size"), [(ABSENT, 3), (digests.of(b"abc"), 2), (digests.of(b"abc"), 4)]
)
async def test_bytes_that_do_not_match_are_refused(
    store: Store, announced: Digest, size: int, no_leaks: None
) -> None:
    with pytest.raises(Corrupt):
        await store.put(announced, size, io.BytesIO(b"abc"))
    with pytest.raises(Corrupt):
        await store.put_many([BlobSource(announced, size, lambda: io.BytesIO(b"abc"))])
    assert await store.missing({announced: size}) == {announced}


async def test_an_absent_list_is_missing(store: Store) -> None:
    with pytest.raises(ListMissing, match="jumpscale__base"):
        await store.open_list(NAME)
    assert await store.lists() == []


async def test_a_list_is_published_and_replaced(store: Store, no_leaks: None) -> None:
    await store.put_list(NAME, [b"first ", b"list"])
    with (await store.open_list(NAME)).file as old:
        await store.put_list(NAME, iter([b"second"]))
        with (await store.open_list(NAME)).file as new:
            assert (old.read(), new.read()) == (b"first list", b"second")


async def test_an_open_list_says_where_and_when(store: Store) -> None:
    await store.put_list(NAME, [b"x"])
    opened = await store.open_list(NAME)
    opened.file.close()
    assert opened.source.startswith(tuple(store.label.split(", ")))
    assert "jumpscale__base" in opened.source
    assert opened.mtime_ns > 0


async def test_tags_are_lists_of_their_own_and_all_are_sorted(store: Store) -> None:
    names = [parse_name(text) for text in ("z__a", "base", "base@1.2", "a__b.c", "base@1.10")]
    for name in names:
        await store.put_list(name, [str(name).encode()])
    assert await store.lists() == sorted(names, key=str)
    with (await store.open_list(parse_name("base@1.2"))).file as file:
        assert file.read() == b"jumpscale__base@1.2"
    with pytest.raises(ListMissing):
        await store.open_list(parse_name("base@2"))


async def test_a_list_that_breaks_off_is_never_seen(store: Store) -> None:
    def broken() -> Iterator[bytes]:
        yield b"half"
        raise RuntimeError("no more")

    await store.put_list(NAME, [b"whole"])
    with pytest.raises(RuntimeError, match="no more"):
        await store.put_list(NAME, broken())
    with (await store.open_list(NAME)).file as file:
        assert file.read() == b"whole"


class Full:
    """A sink whose disk is full."""

    def write(self, data: bytes | memoryview, /) -> None:
        raise OSError(28, "no room here")

    def restart(self) -> None:
        raise AssertionError


async def test_a_failing_sink_is_not_the_stores_trouble(store: Store, no_leaks: None) -> None:
    digest = await put(store, BIG)
    with pytest.raises(OSError, match="no room here"):
        await store.get(digest, len(BIG), Full())
    assert await get(store, digest, len(BIG)) == BIG


async def test_a_cancelled_get_writes_no_more(store: Store, no_leaks: None) -> None:
    digest = await put(store, BIG)
    received: list[int] = []
    token = trio.lowlevel.current_trio_token()

    class Cancels:
        def write(self, data: bytes | memoryview, /) -> None:
            received.append(len(data))
            token.run_sync_soon(scope.cancel)

        def restart(self) -> None:
            raise AssertionError

    with trio.CancelScope() as scope:
        await store.get(digest, len(BIG), Cancels())
    count = len(received)
    await trio.testing.wait_all_tasks_blocked()
    assert len(received) == count
    assert await get(store, digest, len(BIG)) == BIG


# --- parts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "length"),
    [
        (0, 1000),
        (1_048_000, 2000),
        (len(BIG) - 777, 777),
        (12_345, 1),
        (len(BIG) - 1, 1),
        (5, PART_IN_LOOP),
        (6, PART_IN_LOOP + 1),
        (0, len(BIG)),
    ],
)
async def test_a_part_comes_as_it_lies_in_the_blob(
    store: Store, start: int, length: int, no_leaks: None
) -> None:
    digest = await put(store, BIG)
    sink = Held()
    await store.get_range(digest, len(BIG), start, length, sink)
    assert sink.getvalue() == BIG[start : start + length]


async def test_a_part_up_to_a_mebibyte_comes_in_the_event_loop(store: Store) -> None:
    digest = await put(store, BIG)
    threads = set()

    class Notes(Held):
        def write(self, data: object, /) -> int:
            threads.add(threading.get_ident())
            return 0

    with contextlib.suppress(Corrupt):  # a chain counts what its sink took
        await store.get_range(digest, len(BIG), 9, PART_IN_LOOP, Notes())
    assert threads == {threading.get_ident()}


async def test_no_part_of_an_absent_blob_or_of_one_of_another_size(
    store: Store, expected_output: ExpectOutput, no_leaks: None
) -> None:
    expected_output(r"^WARNING +aysfs\.store\.chain:.* sent wrong bytes: .*$")
    digest = await put(store, BIG)
    sink = Held()
    with pytest.raises(BlobMissing, match=ABSENT.hex()):
        await store.get_range(ABSENT, 10, 0, 10, sink)
    for size in (len(BIG) - 1, len(BIG) + 1, len(BIG) * 2):
        for start in (0, 1000, size - 10):
            with pytest.raises(Corrupt):
                await store.get_range(digest, size, start, 10, sink)
    assert sink.getvalue() == b""


@pytest.mark.parametrize("length", [2000, PART_IN_LOOP * 2])
async def test_a_sink_that_fails_in_a_part_is_not_the_stores_trouble(
    store: Store, length: int, no_leaks: None
) -> None:
    digest = await put(store, BIG)
    with pytest.raises(OSError, match="no room here"):
        await store.get_range(digest, len(BIG), 100, length, Full())
    assert await get(store, digest, len(BIG)) == BIG


@pytest.mark.parametrize("length", [200_000, PART_IN_LOOP * 2])
async def test_a_cancelled_part_writes_no_more(store: Store, length: int, no_leaks: None) -> None:
    digest = await put(store, BIG)
    received: list[int] = []
    token = trio.lowlevel.current_trio_token()

    class Cancels:
        def write(self, data: bytes | memoryview, /) -> None:
            received.append(len(data))
            token.run_sync_soon(scope.cancel)

        def restart(self) -> None:
            raise AssertionError

    with trio.CancelScope() as scope:
        await store.get_range(digest, len(BIG), 100, length, Cancels())
    count = len(received)
    await trio.testing.wait_all_tasks_blocked()
    assert len(received) == count > 0
    assert await get(store, digest, len(BIG)) == BIG


async def test_a_note_is_kept_replaced_and_deleted(store: Store, no_leaks: None) -> None:
    await store.write_note("jumpscale__base.record", b"first")
    await store.write_note("jumpscale__base.record", b"")
    assert await store.read_note("jumpscale__base.record") == b""
    await store.delete_note("jumpscale__base.record")
    with pytest.raises(NoteMissing, match=r"jumpscale__base\.record"):
        await store.read_note("jumpscale__base.record")
    await store.delete_note("jumpscale__base.record")


async def test_notes_are_sorted_and_are_no_lists(store: Store) -> None:
    await store.put_list(NAME, [b"x"])
    assert await store.notes() == {}
    for name in ("z", "a@1.json", "gc-mark"):
        await store.write_note(name, name.encode())
    assert list(await store.notes()) == ["a@1.json", "gc-mark", "z"]
    assert await store.lists() == [NAME]


@pytest.mark.parametrize("name", ["", "A", "a/b", "..", "a..b", ".a", "a.flist", "a\n", "é"])
async def test_what_cannot_be_the_name_of_a_note(store: Store, name: str) -> None:
    with pytest.raises(BadName):
        await store.write_note(name, b"x")
    with pytest.raises(BadName):
        await store.read_note(name)
    with pytest.raises(BadName):
        await store.delete_note(name)


async def test_a_note_has_at_most_a_mebibyte(store: Store) -> None:
    await store.write_note("full", bytes(1 << 20))
    assert len(await store.read_note("full")) == 1 << 20
    with pytest.raises(AysfsError, match="1048577 bytes"):
        await store.write_note("more", bytes((1 << 20) + 1))
    assert list(await store.notes()) == ["full"]


async def test_a_note_says_when_it_was_written_last(store: Store) -> None:
    await store.write_note("a", b"1")
    first = (await store.notes())["a"]
    await store.write_note("a", b"2")
    assert 0 < first <= (await store.notes())["a"]


@pytest.mark.parametrize("name", [".gc", ".push-0123456789abcdef-0"])
async def test_a_claim_is_a_note(store: Store, name: str) -> None:
    await store.write_note(name, b"x")
    assert await store.read_note(name) == b"x"
    if not isinstance(store, Served):  # whose listing leaves out what begins with a dot
        assert list(await store.notes()) == [name]
    await store.delete_note(name)
    assert await store.notes() == {}


async def shelves(store: Store) -> dict[Digest, tuple[int, int]]:
    """Size and time of every blob of a store."""
    found = {}

    async def look(first: int) -> None:
        for one in await store.shelf(first):
            assert one.digest[0] == first
            assert one.digest not in found
            found[one.digest] = (one.size, one.mtime_ns)

    async with trio.open_nursery() as nursery:
        for first in range(256):
            nursery.start_soon(look, first)
    return found


async def test_every_blob_stands_on_the_shelf_of_its_first_byte(
    store: Store, no_leaks: None
) -> None:
    sources = [BlobSource.of(digests.of(one), one) for one in (b"%d" % n for n in range(600))]
    await store.put_many(sources)
    sizes = {one.digest: one.size for one in sources}
    await get(store, digests.of(b"7"), 1)  # moves all of them, in the older layout
    await store.put_list(NAME, [b"x"])
    await store.write_note("a", b"x")
    found = await shelves(store)
    assert {digest: size for digest, (size, _) in found.items()} == sizes
    assert all(mtime_ns > 0 for _, mtime_ns in found.values())


async def test_what_is_deleted_is_missing(store: Store, no_leaks: None) -> None:
    one, two, old = [await put(store, data) for data in (b"one", b"two", b"old")]
    await get(store, old, 3)
    await store.delete([one, ABSENT, old])
    assert await store.missing({one: 3, two: 3, old: 3}) == {one, old}
    assert set(await shelves(store)) == {two}
    await store.delete([])


async def test_a_list_is_deleted_once_and_its_tags_stay(store: Store, no_leaks: None) -> None:
    tagged = NAME._replace(tag="1")
    for name in (NAME, tagged):
        await store.put_list(name, [b"x"])
    await store.delete_list(NAME)
    assert await store.lists() == [tagged]
    with pytest.raises(ListMissing, match="jumpscale__base"):
        await store.delete_list(NAME)


async def test_nothing_is_a_stray_that_a_store_wrote(store: Store) -> None:
    await put(store, b"x")
    await store.put_list(NAME, [b"x"])
    await store.write_note(".gc", b"x")
    assert await store.strays() == []
    await store.delete_strays([])


@pytest.mark.parametrize("path", ["md/a__b.flist", "../x", "README", ".a.tmp", "/etc/passwd"])
async def test_only_temporary_files_are_deleted_as_strays(store: Store, path: str) -> None:
    with pytest.raises(BadName):
        await store.delete_strays([".x.0123456789ab0.tmp", path])


async def test_close_may_be_called(store: Store) -> None:
    await put(store, os.urandom(8))
    await store.aclose()
