"""A tree pushed and unpacked again: every kind of entry, every attribute, and the same list."""

import os
import shutil
import socket
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import trio

from aysfs.cache.blobs import Cache
from aysfs.errors import AysfsError, BlobMissing, ExitCode, NoSpace
from aysfs.fetch.fetcher import open_fetcher
from aysfs.limits import Limits
from aysfs.load import load_tree
from aysfs.names import parse_name
from aysfs.publish.push import push
from aysfs.store.directory import DirectoryStore
from aysfs.unpack import UnpackReport, unpack
from tests.conftest import ExpectOutput

NAME = parse_name("test")
BASE = b"/opt/test"
BIG = bytes(range(256)) * 12_345

# struct vfs_cap_data, version 2: cap_net_bind_service permitted and effective
CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)


class Found(NamedTuple):
    """Everything that unpacking must keep of one path; ``inode`` is its first name."""

    mode: int
    uid: int
    gid: int
    rdev: int
    mtime_ns: int
    links: int
    xattrs: dict[str, bytes]
    content: bytes
    first_name: bytes


def below(top: bytes) -> Iterator[bytes]:
    yield top
    for directory, names, files in os.walk(top):
        for name in names + files:
            yield os.path.join(directory, name)


def look(top: Path) -> dict[bytes, Found]:
    """Every path below a directory, itself included, as it is on disk."""
    found: dict[bytes, Found] = {}
    first: dict[int, bytes] = {}
    root = os.fsencode(top)
    for path in sorted(below(root)):
        status = os.lstat(path)
        content = b""
        if stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)
        elif stat.S_ISREG(status.st_mode):
            content = Path(os.fsdecode(path)).read_bytes()
        name = path[len(root) :]
        found[name] = Found(
            status.st_mode,
            status.st_uid,
            status.st_gid,
            status.st_rdev,
            status.st_mtime_ns,
            status.st_nlink,
            {
                key: os.getxattr(path, key, follow_symlinks=False)
                for key in os.listxattr(path, follow_symlinks=False)
            },
            content,
            first.setdefault(status.st_ino, name),
        )
    return found


def make_everything(top: Path) -> None:
    """A directory with every kind of entry and every attribute. Needs root."""
    (top / "bin").mkdir(parents=True)
    (top / "bin" / "setuid").write_bytes(b"#!/bin/sh\n")
    os.chown(top / "bin" / "setuid", 12, 34)
    (top / "bin" / "setuid").chmod(0o6755)
    (top / "bin" / "capable").write_bytes(b"may bind ports")
    os.chown(top / "bin" / "capable", 1000, 1000)
    os.setxattr(top / "bin" / "capable", "security.capability", CAPABILITY)
    (top / "bin" / "relative").symlink_to("../data")
    (top / "dangling").symlink_to("/nowhere/at/all|%&=")
    os.chown(top / "dangling", 56, 78, follow_symlinks=False)
    (top / "data").write_bytes(BIG)
    (top / "data").chmod(0o400)
    os.setxattr(top / "data", "user.note", b"\0binary\xff&=|")
    os.link(top / "data", top / "bin" / "data-again")
    os.link(top / "data", top / "zz-data")
    (top / "twin").write_bytes(BIG)
    (top / "empty").touch(0o000)
    os.link(top / "empty", top / "empty-too")
    (top / "empty-directory").mkdir(0o700)
    (top / "locked").mkdir()
    (top / "locked" / "file").write_bytes(b"in a directory that nobody may write")
    os.setxattr(top / "locked", "user.of-a-directory", b"")
    os.chown(top / "locked", 12, 34)
    (top / "locked").chmod(0o3555)
    os.mkfifo(top / "fifo")
    (top / "fifo").chmod(0o622)
    os.mknod(top / "character", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    os.mknod(top / "block", stat.S_IFBLK | 0o600, os.makedev(8, 300))
    os.chown(top / "block", 0, 6)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(top / "socket"))
    raw = os.fsencode(top)
    os.mkdir(raw + b"/\xff\xfe")
    for name in (b"a|b", b"100%", b"new\nline", b" ", b"\xc3\xa9", b"\xe9", b"-"):
        path = raw + b"/\xff\xfe/" + name
        with open(path, "wb") as file:
            file.write(name)
    deep = raw + b"/deep" * 60
    os.makedirs(deep)
    for number, path in enumerate(sorted(below(raw), reverse=True)):
        os.utime(
            path,
            ns=(0, 1_400_000_000_000_000_001 + number * 86_400_123_456_789),
            follow_symlinks=False,
        )
    os.utime(top / "fifo", ns=(0, -1_500_000_000))


def push_it(root: Path, directory: Path, name: str = "test") -> bytes:
    """Push a directory; the bytes of its list."""
    service = parse_name(name)
    store = DirectoryStore(root / "store", create=True)
    trio.run(lambda: push(directory, service, store, base=BASE))
    return (root / "store" / "dedupe" / "md" / f"{service}.flist").read_bytes()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 128 KiB and 16 inodes. Needs root."""
    place = tmp_path / "small"
    place.mkdir()
    options = "size=128k,nr_inodes=16"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "small", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


def unpack_it(
    root: Path, target: Path, base: bytes | None = None
) -> tuple[UnpackReport, list[int]]:
    """Unpack the pushed service; the report, and the entries done at each step."""
    steps: list[int] = []

    async def run() -> UnpackReport:
        store = DirectoryStore(root / "store")
        cache = Cache(root / "cache", Limits(1 << 30, keep_free=0))
        try:
            tree = (await load_tree(store, [NAME], base=base)).tree
            async with open_fetcher(cache, store, deadline=20.0) as fetcher:
                return await unpack(tree, target, fetcher, lambda done, _: steps.append(done))
        finally:
            cache.close()

    try:
        return trio.run(run), steps
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None


def test_every_attribute_of_every_kind_of_entry_is_kept(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    make_everything(source)
    expected = look(source)
    push_it(tmp_path, source)
    report, _ = unpack_it(tmp_path, target)
    found = look(target)
    assert found.keys() == expected.keys()
    for path, attributes in expected.items():
        assert found[path] == attributes, path
    kinds = {stat.S_IFMT(one.mode) for one in found.values()}
    assert len(kinds) == 7, "the tree of this test holds every kind"
    assert report.skipped == {}
    assert report.entries == len(expected)


def test_pushing_what_was_unpacked_gives_the_same_list(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    make_everything(source)
    before = push_it(tmp_path, source)
    unpack_it(tmp_path, target)
    assert push_it(tmp_path, target, "again") == before


def test_progress_counts_every_entry_once(tmp_path: Path) -> None:
    make_everything(tmp_path / "source")
    push_it(tmp_path, tmp_path / "source")
    report, steps = unpack_it(tmp_path, tmp_path / "target")
    assert steps == list(range(1, report.entries + 1))
    assert report.size == sum(
        len(one.content)
        for path, one in look(tmp_path / "source").items()
        if stat.S_ISREG(one.mode) and one.first_name == path
    )


def test_a_base_chooses_what_becomes_the_directory(tmp_path: Path) -> None:
    make_everything(tmp_path / "source")
    push_it(tmp_path, tmp_path / "source")
    report, _ = unpack_it(tmp_path, tmp_path / "target", BASE + b"/locked")
    assert report.entries == 2
    expected = look(tmp_path / "source" / "locked")
    assert look(tmp_path / "target") == expected


def test_parents_of_the_directory_are_made(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    push_it(tmp_path, tmp_path / "source")
    unpack_it(tmp_path, tmp_path / "a" / "b" / "c")
    assert list((tmp_path / "a" / "b" / "c").iterdir()) == []


def test_an_empty_directory_is_filled(tmp_path: Path) -> None:
    make_everything(tmp_path / "source")
    push_it(tmp_path, tmp_path / "source")
    (tmp_path / "target").mkdir()
    unpack_it(tmp_path, tmp_path / "target")
    assert look(tmp_path / "target") == look(tmp_path / "source")


def test_a_directory_with_anything_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    push_it(tmp_path, tmp_path / "source")
    target = tmp_path / "target"
    target.mkdir()
    (target / ".hidden").touch()
    before = look(target)
    with pytest.raises(AysfsError, match="is not empty") as caught:
        unpack_it(tmp_path, target)
    assert caught.value.hint is not None
    assert look(target) == before


def test_a_target_that_is_a_file_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    push_it(tmp_path, tmp_path / "source")
    (tmp_path / "target").touch()
    with pytest.raises(AysfsError, match=r"/target: (File exists|Not a directory)$"):
        unpack_it(tmp_path, tmp_path / "target")


def test_a_missing_blob_ends_it_with_its_path(
    tmp_path: Path, expected_output: ExpectOutput
) -> None:
    expected_output(r"WARNING .*/opt/test/file: .* has no blob")
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_bytes(b"gone")
    push_it(tmp_path, source)
    (blob,) = (tmp_path / "store" / "dedupe").glob("?/?/*")
    blob.unlink()
    with pytest.raises(BlobMissing) as caught:
        unpack_it(tmp_path, tmp_path / "target")
    assert caught.value.code == ExitCode.MISSING
    assert "/opt/test/file" in str(caught.value)


@pytest.mark.parametrize("kind", ["file", "files", "links", "directories"])
def test_a_full_disk_is_one_line_with_the_path(tmp_path: Path, small_disk: Path, kind: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    if kind == "file":
        (source / "big").write_bytes(BIG)
    for number in range(40):
        path = source / f"n{number}"
        if kind == "files":
            path.write_bytes(b"%d" % number)
        elif kind == "links":
            path.symlink_to("/")
        elif kind == "directories":
            path.mkdir()
    push_it(tmp_path, source)
    with pytest.raises(
        NoSpace, match=r"/small/target/(big|n\d+): No space left on device$"
    ) as caught:
        unpack_it(tmp_path, small_disk / "target")
    assert caught.value.code == ExitCode.NO_SPACE


def test_unpacking_raises_one_error_and_no_group(tmp_path: Path, small_disk: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(40):
        (source / f"n{number}").write_bytes(BIG + b"%d" % number)
    push_it(tmp_path, source)

    async def run() -> None:
        store = DirectoryStore(tmp_path / "store")
        cache = Cache(tmp_path / "cache", Limits(1 << 30, keep_free=0))
        try:
            tree = (await load_tree(store, [NAME])).tree
            async with open_fetcher(cache, store, deadline=20.0) as fetcher:
                with pytest.raises(NoSpace):
                    await unpack(tree, small_disk / "target", fetcher, lambda *_: None)
        finally:
            cache.close()

    trio.run(run)


def write_list(root: Path, *lines: str) -> None:
    """Publish a list that no push would write."""
    path = root / "store" / "dedupe" / "md" / f"{NAME}.flist"
    path.parent.mkdir(parents=True)
    path.write_text("#flist 2\n" + "".join(f"{line}\n" for line in lines))


NOTHING = f"{'0' * 32}|0|0|0"


def test_an_xattr_that_cannot_be_set_is_reported_with_its_reason(tmp_path: Path) -> None:
    write_list(
        tmp_path,
        f"/d|{NOTHING}|0755|4|1.000000000|1.000000000|",
        f"/f|{NOTHING}|0644|6|1.000000000|1.000000000|xattr.user.note=x",
        f"/l|{NOTHING}|0777|1|1.000000000|1.000000000|target=d&xattr.user.note=x",
        f"/m|{NOTHING}|0755|4|1.000000000|1.000000000|xattr.security.capability=nonsense",
    )
    report, _ = unpack_it(tmp_path, tmp_path / "target")
    assert report.skipped == {
        ("xattr user.note", "only files and directories may have user.* attributes"): 2,
        ("xattr security.capability", "the kernel does not take its value"): 1,
    }


def test_a_file_system_without_xattrs_is_named_as_the_reason(tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    write_list(tmp_path, f"/d|{NOTHING}|0755|4|1.000000000|1.000000000|xattr.user.note=x")
    subprocess.run(["mount", "-t", "ramfs", "without", tmp_path / "place"], check=True)
    try:
        report, _ = unpack_it(tmp_path, tmp_path / "place" / "target")
    finally:
        subprocess.run(["umount", tmp_path / "place"], check=True)
    reason = ("xattr user.note", "the file system here keeps no such attributes")
    assert report.skipped == {reason: 1}


AS_NOBODY = """
import os, sys
sys.path[:0] = sys.argv[3:]
from pathlib import Path
from tests.t4_unpack.test_unpack import unpack_it
os.umask(0o077)
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
report, _ = unpack_it(Path(sys.argv[1]), Path(sys.argv[2]))
print(sorted((what, why, count) for (what, why), count in report.skipped.items()))
"""


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A folder for anybody: pytest's own are root's, and each session closes them to others."""
    folder = Path(tempfile.mkdtemp(prefix="aysfs-unpack-"))
    os.chown(folder, 65534, 65534)
    old = os.umask(0o022)  # nobody reads what root makes there
    yield folder
    os.umask(old)
    shutil.rmtree(folder)


def test_an_ordinary_user_gets_all_that_needs_no_root_and_is_told_the_rest(
    reachable: Path,
) -> None:
    root = reachable
    source = root / "source"
    (source / "d").mkdir(parents=True)
    (source / "d" / "mine").write_bytes(b"x")
    os.setxattr(source / "d" / "mine", "user.note", b"kept although it is read-only")
    (source / "d" / "mine").chmod(0o440)
    os.setxattr(source / "d", "user.note", b"kept as well")
    (source / "d").chmod(0o555)
    for path in (source, source / "d", source / "d" / "mine"):
        os.chown(path, 65534, 65534)
    (source / "roots").write_bytes(b"y")
    os.mknod(source / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    os.setxattr(source / "d" / "mine", "security.capability", CAPABILITY)
    capability = "xattr security.capability"
    push_it(root, source)
    target = root / "target"
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, root, target, str(Path(__file__).parents[2])],
        capture_output=True,
        text=True,
        check=False,
    )
    reasons = [(what, "this needs root", 1) for what in ("devices", "owners", capability)]
    assert (done.stdout, done.stderr) == (f"{reasons}\n", "")
    expected, found = look(source), look(target)
    del expected[b"/device"]
    roots = expected[b"/roots"]
    expected[b"/roots"] = roots._replace(uid=65534, gid=65534)
    del expected[b"/d/mine"].xattrs["security.capability"]
    assert found == expected
