"""A directory as entries: every kind of file, as root sees it."""

import os
import socket
import struct
from pathlib import Path

import pytest

from aysfs.digest import ZERO
from aysfs.errors import AysfsError
from aysfs.flist.entry import Entry, Kind
from aysfs.flist.percent import encode_path
from aysfs.publish.walk import TreeChanged, walk

# struct vfs_cap_data, version 2: cap_net_bind_service permitted and effective
CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)


def entries(directory: Path, base: bytes = b"/b") -> dict[bytes, Entry]:
    return {one.entry.path: one.entry for one in walk(os.fsencode(directory), base)}


def test_the_directory_itself_is_the_base(tmp_path: Path) -> None:
    tmp_path.chmod(0o1770)
    os.chown(tmp_path, 12, 34)
    os.utime(tmp_path, ns=(1, 1_500_000_000_123_456_789))
    assert walk(os.fsencode(tmp_path), b"/opt/x")[0].entry == Entry(
        b"/opt/x", Kind.DIRECTORY, 0o1770, 12, 34, 0, ZERO, 1_500_000_000_123_456_789
    )


def test_the_root_as_base(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").touch()
    assert list(entries(tmp_path, b"/")) == [b"/", b"/a", b"/a/b"]


def test_every_kind(tmp_path: Path) -> None:
    (tmp_path / "regular").write_bytes(b"abc")
    (tmp_path / "regular").chmod(0o6711)
    (tmp_path / "directory").mkdir()
    (tmp_path / "symlink").symlink_to("no|where")
    os.mkfifo(tmp_path / "fifo", 0o640)
    os.mknod(tmp_path / "character", 0o020600, os.makedev(1, 3))
    os.mknod(tmp_path / "block", 0o060600, os.makedev(8, 300))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
    found = entries(tmp_path)
    assert {path: entry.kind for path, entry in found.items()} == {
        b"/b": Kind.DIRECTORY,
        b"/b/block": Kind.BLOCK,
        b"/b/character": Kind.CHARACTER,
        b"/b/directory": Kind.DIRECTORY,
        b"/b/fifo": Kind.FIFO,
        b"/b/regular": Kind.REGULAR,
        b"/b/socket": Kind.SOCKET,
        b"/b/symlink": Kind.SYMLINK,
    }
    assert (found[b"/b/regular"].mode, found[b"/b/regular"].size) == (0o6711, 3)
    assert found[b"/b/symlink"].target == b"no|where"
    assert found[b"/b/symlink"].size == 0
    assert found[b"/b/character"].rdev == (1, 3)
    assert found[b"/b/block"].rdev == (8, 300)


def test_names_are_bytes_and_sorted_as_the_list_writes_them(tmp_path: Path) -> None:
    names = [b"a b", b"a", b"a.x", b"a%", b"\xff", "\u00e9".encode(), b"new\nline", b"A"]
    for name in names:
        os.close(os.open(os.path.join(os.fsencode(tmp_path), name), os.O_CREAT))
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "x").touch()
    (tmp_path / "d!").touch()
    paths = list(entries(tmp_path))
    assert set(paths) == {b"/b", b"/b/d", b"/b/d/x", b"/b/d!", *(b"/b/" + name for name in names)}
    assert paths == sorted(paths, key=encode_path)


def test_names_of_one_file(tmp_path: Path) -> None:
    (tmp_path / "z").mkdir()
    (tmp_path / "z" / "first").write_bytes(b"x")
    for other in ("b", "a"):
        os.link(tmp_path / "z" / "first", tmp_path / other)
    found = entries(tmp_path)
    assert found[b"/b/a"].hardlink is None
    assert found[b"/b/b"].hardlink == b"/b/a"
    assert found[b"/b/z/first"].hardlink == b"/b/a"


def test_a_link_from_outside_the_tree_is_no_link(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").write_bytes(b"x")
    os.link(tmp_path / "out", tmp_path / "in" / "file")
    assert entries(tmp_path / "in")[b"/b/file"].ext == ()


def test_only_portable_xattrs_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    os.setxattr(file, "user.note", b"a|b\0")
    os.setxattr(file, "trusted.other", b"x")
    os.setxattr(file, "security.capability", CAPABILITY)
    os.setxattr(tmp_path, "user.top", b"")
    found = entries(tmp_path)
    assert found[b"/b/file"].xattrs == {b"security.capability": CAPABILITY, b"user.note": b"a|b\0"}
    assert found[b"/b"].xattrs == {b"user.top": b""}


def test_the_xattrs_of_a_links_target_are_not_the_links(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.setxattr(tmp_path / "file", "user.note", b"x")
    (tmp_path / "link").symlink_to("file")
    assert entries(tmp_path)[b"/b/link"].xattrs == {}


def test_a_whiteout_is_refused(tmp_path: Path) -> None:
    os.mknod(tmp_path / "gone", 0o020000, os.makedev(0, 0))
    with pytest.raises(AysfsError, match="gone: a device 0:0 cannot be in a list"):
        entries(tmp_path)


def test_a_directory_behind_a_symlink(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x").touch()
    (tmp_path / "link").symlink_to("real")
    assert list(entries(tmp_path / "link")) == [b"/b", b"/b/x"]


@pytest.mark.parametrize("name", ["absent", "file"])
def test_what_is_no_directory(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(AysfsError, match=f"{name}: not a directory"):
        entries(tmp_path / name)


def test_what_vanishes_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link").symlink_to("x")
    readlink = os.readlink

    def late(path: bytes) -> bytes:
        os.unlink(path)
        return readlink(path)

    monkeypatch.setattr(os, "readlink", late)
    with pytest.raises(TreeChanged, match="link: vanished"):
        entries(tmp_path)
