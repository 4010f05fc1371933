"""A tar of a tree gives what a walk of it gives, byte for byte."""

import io
import os
import random
import tarfile
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from aysfs import digest as digests
from aysfs.digest import Digest
from aysfs.errors import BuildFailed, StoreTrouble
from aysfs.flist.entry import Entry, Header, Kind
from aysfs.publish.batches import HELD
from aysfs.publish.frames import FrameSpool
from aysfs.publish.push import push
from aysfs.publish.put import put_missing
from aysfs.publish.stream import TarTree, publish_list
from aysfs.publish.tar import TarReader
from aysfs.store.claims import Claim
from aysfs.store.faults import Counts, FailsAlways
from aysfs.store.memory import MemoryStore
from aysfs.store.protocol import BlobSource
from tests.t3_publish.tars import NAME, gathered, made, member, packed
from tests.t3_publish.test_walk import CAPABILITY


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Every kind of entry that a tar can hold, and names that are hard to hold."""
    top = tmp_path / "tree"
    (top / "z").mkdir(parents=True)
    (top / "regular").write_bytes(b"abc")
    (top / "regular").chmod(0o6711)
    os.chown(top / "z", 4_000_000, 5_000_000)
    (top / "same").write_bytes(b"abc")
    (top / "empty").touch()
    (top / "large").write_bytes(random.Random(1).randbytes(HELD + 12345))
    (top / "z" / "first").write_bytes(b"x")
    for other in ("b", "a", "z/last"):
        os.link(top / "z" / "first", top / other)
    (top / "symlink").symlink_to("no|where\n%")
    os.link(top / "symlink", top / "symlink2", follow_symlinks=False)
    (top / "long-link").symlink_to("t" * 300)
    os.mkfifo(top / "fifo", 0o640)
    os.mknod(top / "character", 0o020600, os.makedev(1, 3))
    os.mknod(top / "block", 0o060600, os.makedev(8, 300))
    deep = top
    for _ in range(3):
        deep = deep / ("n" * 250)
        deep.mkdir()
    (deep / "below").touch()
    for odd in (b"\xff\xfe", b"new\nline", b"a|b", b"50%", b"tab\t", "\u00e9".encode(), b"a b "):
        (top / os.fsdecode(odd)).touch()
    os.setxattr(top / "regular", "user.note", b"a|b\0\xff\n=")
    os.setxattr(top / "regular", "user.a=b%25c", b"")
    os.setxattr(top / "regular", "security.capability", CAPABILITY)
    os.setxattr(top / "z", "user.top", b"1")
    for number, name in enumerate(("regular", "fifo", "z", "symlink")):
        os.utime(top / name, ns=(1, 1_500_000_000_123_456_789 + number), follow_symlinks=False)
    os.utime(top / "same", ns=(1, 1_500_000_000_000_000_000))
    os.utime(top / "empty", ns=(1, -1_500_000_000))
    return top


async def test_a_tar_of_a_tree_gives_the_list_and_blobs_of_a_push(tree: Path) -> None:
    pushed, streamed = MemoryStore(), MemoryStore()
    await push(tree, NAME, pushed, base=b"/b")
    claim = Claim(streamed)
    gathering = TarTree(lambda batch: trio.from_thread.run(put_missing, [claim], batch))
    archive = await trio.to_thread.run_sync(packed, tree)
    await trio.to_thread.run_sync(gathering.add, io.BytesIO(archive).read, b"/b")
    await publish_list([claim], NAME, *gathering.finish())
    assert streamed.published[NAME][0] == pushed.published[NAME][0]
    assert streamed.blobs == pushed.blobs


async def test_a_tar_of_a_tree_gives_the_packs_of_a_push(tree: Path, no_leaks: None) -> None:
    pushed, streamed = MemoryStore(), MemoryStore()
    await push(tree, NAME, pushed, base=b"/b", packs=True)
    claim = Claim(streamed)
    with FrameSpool() as spool:

        def put(batch: list[BlobSource]) -> None:
            trio.from_thread.run(put_missing, [claim], batch)
            spool.take(batch)

        gathering = TarTree(put)
        archive = await trio.to_thread.run_sync(packed, tree)
        await trio.to_thread.run_sync(gathering.add, io.BytesIO(archive).read, b"/b")
        report = await publish_list([claim], NAME, *gathering.finish(), frames=spool)
    assert report is not None
    assert streamed.published[NAME][0] == pushed.published[NAME][0]
    assert streamed.blobs == pushed.blobs
    assert streamed.noted[f"{NAME}.packs"] == pushed.noted[f"{NAME}.packs"]


def test_the_reader_agrees_with_tarfile(tree: Path) -> None:
    archive = packed(tree)
    found = [
        (one.name.rstrip(b"/"), one.type, one.mode, one.uid, one.gid, one.size, one.link)
        for one in TarReader(io.BytesIO(archive).read)
    ]
    with tarfile.open(fileobj=io.BytesIO(archive)) as theirs:
        assert found == [
            (
                os.fsencode(one.name),
                one.type,
                one.mode,
                one.uid,
                one.gid,
                one.size,
                os.fsencode(one.linkname),
            )
            for one in theirs
        ]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_form_that_tars_have(format: int) -> None:
    name = "b/" + "/".join(["d" * 40] * 4)
    info = member(name, size=700, mtime=1_600_000_000, mode=0o640, uid=12, gid=34)
    _, entries = gathered((made(info, format=format), b"/" + name.encode()))
    assert entries == [
        Entry(
            b"/" + name.encode(),
            Kind.REGULAR,
            0o640,
            12,
            34,
            700,
            digests.of(bytes(700)),
            1_600_000_000 * 10**9,
        )
    ]


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_what_fits_no_old_header(format: int) -> None:
    name = "b/" + "x" * 200
    info = member(name, tarfile.SYMTYPE, linkname="t" * 300, uid=3_000_000, mtime=-5)
    _, (entry,) = gathered((made(info, format=format), b"/" + name.encode()))
    assert (entry.target, entry.uid, entry.mtime_ns) == (b"t" * 300, 3_000_000, -5 * 10**9)


@pytest.mark.parametrize(
    ("text", "mtime_ns"),
    [
        ("1700000000.000000001", 1_700_000_000_000_000_001),
        ("1700000000.5", 1_700_000_000_500_000_000),
        ("1700000000.1234567899", 1_700_000_000_123_456_789),
        ("-0.25", -250_000_000),
        ("7", 7_000_000_000),
    ],
)
def test_times_are_exact(text: str, mtime_ns: int) -> None:
    _, (entry,) = gathered((made(member("b", pax_headers={"mtime": text})), b"/b"))
    assert entry.mtime_ns == mtime_ns


def test_times_after_the_epoch_are_set_back_to_it() -> None:
    archive = made(
        member("b", tarfile.DIRTYPE, mtime=99),
        member("b/late", pax_headers={"mtime": "100.000000001"}),
    )
    _, entries = gathered((archive, b"/b"), epoch=100)
    assert [one.mtime_ns for one in entries] == [99 * 10**9, 100 * 10**9]


def test_each_blob_is_handed_on_once(tree: Path) -> None:
    put: list[list[Digest]] = []
    gathered((packed(tree), b"/b"), (packed(tree), b"/b"), put=put)
    handed = [digest for batch in put for digest in batch]
    assert len(handed) == len(set(handed)) == 4  # abc, x, nothing, the large one


def test_a_blob_that_was_spooled_can_be_read_more_than_once(tmp_path: Path) -> None:
    data = random.Random(2).randbytes(HELD + 1)
    (tmp_path / "large").write_bytes(data)
    seen = []

    def put(batch: list[BlobSource]) -> None:
        (one,) = batch
        assert one.held is None
        for _ in range(2):
            with one.open() as file:
                seen.append(file.read(HELD + 2))

    TarTree(put).add(io.BytesIO(packed(tmp_path)).read, b"/b")
    assert seen == [data, data]


def test_the_next_batch_is_read_while_one_is_put() -> None:
    archive = made(*(member(f"b{n}", size=n) for n in range(600)))
    source = io.BytesIO(archive)
    last_read = threading.Event()

    def read(size: int) -> bytes:
        if source.tell() > 300 * 1024:
            last_read.set()
        return source.read(4096)

    waited = []
    tree = TarTree(lambda batch: waited.append(last_read.wait(30)))
    with pytest.raises(BuildFailed, match="does not hold it"):
        tree.add(read, b"/b", b"")
    assert waited[0]


def test_an_error_of_a_store_ends_the_reading(no_leaks: None) -> None:
    archive = made(*(member(f"{n}", size=n) for n in range(2000)))
    source = io.BytesIO(archive)

    def put(batch: list[BlobSource]) -> None:
        raise StoreTrouble("full")

    with pytest.raises(StoreTrouble, match="full"):
        TarTree(put).add(lambda size: source.read(4096), b"/b", b"")
    assert source.tell() < len(archive) // 2


# --- several streams ----------------------------------------------------------------------


def test_for_the_same_path_the_later_stream_wins() -> None:
    first = made(member("b/x", tarfile.DIRTYPE, mode=0o700), member("b/x/old", size=1))
    second = made(member("b", tarfile.DIRTYPE, mode=0o711), member("b/x", tarfile.DIRTYPE))
    header, entries = gathered((first, b"/b/x"), (second, b"/b"))
    assert header == Header(2, b"/b")
    assert [(one.path, one.mode) for one in entries] == [
        (b"/b", 0o711),
        (b"/b/x", 0o644),
        (b"/b/x/old", 0o644),
    ]


def test_what_was_below_a_directory_goes_with_it() -> None:
    both = made(member("b", tarfile.DIRTYPE), member("b/xy"))
    _, entries = gathered(
        (both, b"/b"),
        (made(member("b/x", tarfile.DIRTYPE), member("b/x/old", size=1)), b"/b/x"),
        (made(member("b/x")), b"/b/x"),
    )
    assert [one.path for one in entries] == [b"/b", b"/b/x", b"/b/xy"]


@pytest.mark.parametrize(
    ("tops", "base"),
    [
        ((b"/opt/a", b"/opt/b"), b"/opt"),
        ((b"/opt/a", b"/srv/b"), b"/"),
        ((b"/opt/a", b"/opt/a/b"), b"/opt/a"),
        ((b"/opt/ab", b"/opt/a"), b"/opt"),
    ],
)
def test_the_base_is_the_deepest_common_directory(tops: Sequence[bytes], base: bytes) -> None:
    archives = [(made(member(top[1:].decode(), tarfile.DIRTYPE)), top) for top in tops]
    assert gathered(*archives)[0].base == base


def test_the_base_of_a_single_file_is_its_directory() -> None:
    header, entries = gathered((made(member("opt/a/file")), b"/opt/a/file"))
    assert header.base == b"/opt/a"
    assert [one.path for one in entries] == [b"/opt/a/file"]


def test_a_path_through_something_that_is_no_directory() -> None:
    link = made(member("b/x", tarfile.SYMTYPE, linkname="y"))
    with pytest.raises(BuildFailed, match="/b/x/f was uploaded, and /b/x, which is no directory"):
        gathered((link, b"/b/x"), (made(member("b/x/f")), b"/b/x/f"))


def test_hard_links_do_not_reach_into_another_stream() -> None:
    first = made(member("b", tarfile.DIRTYPE), member("b/one"))
    second = made(member("b", tarfile.DIRTYPE), member("b/two", tarfile.LNKTYPE, linkname="b/one"))
    with pytest.raises(BuildFailed, match="is a link to `/b/one`, which did not come before it"):
        gathered((first, b"/b"), (second, b"/b"))


@given(
    st.dictionaries(
        st.text("ab|%\n\u00e9\udcff ", min_size=1, max_size=120),
        st.tuples(
            st.binary(max_size=1200),
            st.integers(0, 0o7777),
            st.integers(-(2**62), 2**62),
            st.dictionaries(st.text("xyz", min_size=1), st.text("ab=\n\0\udcfe"), max_size=2),
        ),
        max_size=8,
    ),
    st.integers(1, 3000),
)
def test_any_files_arrive_as_they_are(
    files: dict[str, tuple[bytes, int, int, dict[str, str]]], step: int
) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(member("b", tarfile.DIRTYPE))
        for name, (data, mode, mtime_ns, xattrs) in files.items():
            pax = {f"SCHILY.xattr.user.{key}": value for key, value in xattrs.items()}
            seconds, nanoseconds = divmod(abs(mtime_ns), 10**9)
            pax["mtime"] = f"{'-' if mtime_ns < 0 else ''}{seconds}.{nanoseconds:09}"
            info = member(f"b/{name}", size=len(data), mode=mode, pax_headers=pax)
            archive.addfile(info, io.BytesIO(data))
    source = io.BytesIO(out.getvalue())
    blobs: dict[Digest, bytes] = {}

    def put(batch: list[BlobSource]) -> None:
        blobs.update((one.digest, one.open().read()) for one in batch)

    tree = TarTree(put)
    tree.add(lambda size: source.read(min(size, step)), b"/b")
    _, entries = tree.finish()
    found = {
        os.fsdecode(one.path[3:]): (blobs[one.digest], one.mode, one.mtime_ns, one.xattrs)
        for one in entries[1:]
    }
    assert found == {
        name: (data, mode, mtime, {os.fsencode(f"user.{k}"): os.fsencode(v) for k, v in x.items()})
        for name, (data, mode, mtime, x) in files.items()
    }


# --- stores -------------------------------------------------------------------------------


async def test_every_store_is_sent_what_it_lacks() -> None:
    one, two = Counts(MemoryStore()), Counts(MemoryStore())
    batch = [BlobSource.of(digests.of(data), data) for data in (b"a", b"b")]
    await put_missing([Claim(one)], batch[:1])
    await put_missing([Claim(one), Claim(two)], batch)
    assert sorted(one.puts.values()) == sorted(two.puts.values()) == [1, 1]


async def test_the_trouble_of_one_store_is_told_as_it_is() -> None:
    with pytest.raises(StoreTrouble, match="always fails"):
        await put_missing(
            [Claim(MemoryStore()), Claim(FailsAlways(MemoryStore()))],
            [BlobSource.of(digests.of(b"a"), b"a")],
        )


async def test_entries_that_no_list_can_hold_are_not_published() -> None:
    store = MemoryStore()
    header, entries = gathered((made(member("b/" + "x" * 256)), b"/b/" + b"x" * 256))
    with pytest.raises(BuildFailed, match=r"fits no list: .* a name of 256 bytes"):
        await publish_list([Claim(store)], NAME, header, entries)
    assert not store.published
