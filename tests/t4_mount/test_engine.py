"""What a mounted tree shows: the engine conformance suite. Every engine must pass it."""

import errno
import hashlib
import os
import socket
import stat
from pathlib import Path

import pytest

from aysfs.errors import ExitCode
from aysfs.mount.client import DaemonFailed
from tests.t4_mount.conftest import Site, every_engine, run

pytestmark = every_engine


def facts(top: Path, path: Path) -> tuple[object, ...]:
    """Everything that must be the same in the mount as in the directory it came from."""
    status = path.lstat()
    content: object = None
    if stat.S_ISLNK(status.st_mode):
        content = os.readlink(path)
    elif stat.S_ISREG(status.st_mode):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
    elif stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
        content = (os.major(status.st_rdev), os.minor(status.st_rdev))
    xattrs = {name: os.getxattr(path, name, follow_symlinks=False) for name in xattr_names(path)}
    # A directory's size and links are its file system's own business.
    own = None if stat.S_ISDIR(status.st_mode) else (status.st_size, status.st_nlink)
    return (
        os.fsencode(path.relative_to(top)),
        status.st_mode,
        status.st_uid,
        status.st_gid,
        status.st_mtime_ns,
        own,
        content,
        xattrs,
    )


def xattr_names(path: Path) -> list[str]:
    try:
        return os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        assert error.errno == errno.EOPNOTSUPP  # noqa: PT017 - the tree has none at all
        return []


def everything(top: Path) -> list[tuple[object, ...]]:
    return sorted(
        (facts(top, path) for path in [top, *top.rglob("*")]), key=lambda one: str(one[0])
    )


def test_the_mount_is_the_tree(site: Site, tree: Path) -> None:
    site.push(tree)
    site.mount()
    assert everything(site.point) == everything(tree)
    site.umount()


def test_every_kind_of_entry_is_shown(site: Site, tree: Path) -> None:
    os.mkfifo(tree / "fifo")
    os.mknod(tree / "char", stat.S_IFCHR | 0o640, os.makedev(1, 3))
    os.mknod(tree / "block", stat.S_IFBLK | 0o600, os.makedev(7, 300))
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tree / "socket"))
    (tree / "setuid").write_text("x")
    os.chown(tree / "setuid", 1234, 2_000_000_000)
    (tree / "setuid").chmod(0o4755)
    (tree / "sticky").mkdir()
    (tree / "sticky").chmod(0o1777)
    os.setxattr(tree / "data", "user.note", b"with & = % | and \xff")
    os.utime(tree / "data", ns=(0, 1_234_567_890_123_456_789))
    os.utime(tree / "empty", ns=(0, -5_500_000_000))
    site.push(tree)
    site.mount()
    assert everything(site.point) == everything(tree)
    site.umount()


def test_programs_run_from_the_mount(site: Site, tree: Path) -> None:
    site.push(tree)
    site.mount()
    assert run(site.point / "bin" / "hello").stdout == "hello\n"
    assert run(site.point / "link").stdout == "hello\n"
    site.umount()


def test_hard_links_share_an_inode(site: Site, tree: Path) -> None:
    site.push(tree)
    site.mount()
    one, two = (site.point / "data").stat(), (site.point / "hard").stat()
    assert one.st_ino == two.st_ino
    assert one.st_nlink == two.st_nlink == 2
    site.umount()


def test_what_is_not_there_is_not_there(site: Site, tree: Path) -> None:
    site.push(tree)
    site.mount()
    for name in ("nothing", "bin/nothing", "data/below-a-file", "x" * 255):
        assert not (site.point / name).exists()
    site.umount()


@pytest.mark.parametrize(
    "attempt",
    [
        lambda top: (top / "new").write_text("x"),
        lambda top: (top / "data").write_text("x"),
        lambda top: (top / "new").mkdir(),
        lambda top: (top / "data").unlink(),
        lambda top: (top / "empty-dir").rmdir(),
        lambda top: (top / "data").rename(top / "other"),
        lambda top: (top / "data").chmod(0o600),
        lambda top: os.chown(top / "data", 1, 1),
        lambda top: os.utime(top / "data"),
        lambda top: os.truncate(top / "data", 0),
        lambda top: os.link(top / "data", top / "new"),
        lambda top: os.symlink("data", top / "new"),
        lambda top: os.mkfifo(top / "new"),
        lambda top: os.setxattr(top / "data", "user.x", b""),
    ],
)
def test_every_write_is_refused(site: Site, tree: Path, attempt: object) -> None:
    site.push(tree)
    site.mount()
    assert callable(attempt)
    with pytest.raises(OSError, match="Read-only") as refused:
        attempt(site.point)
    assert refused.value.errno == errno.EROFS
    site.umount()


def test_reads_anywhere_in_a_file(site: Site, tree: Path) -> None:
    site.push(tree)
    site.mount()
    expected = (tree / "big").read_bytes()
    descriptor = os.open(site.point / "big", os.O_RDONLY)
    for offset, size in [(0, 1), (4095, 2), (1 << 20, 1 << 20), (len(expected) - 1, 10)]:
        assert os.pread(descriptor, size, offset) == expected[offset : offset + size]
    assert os.pread(descriptor, 10, len(expected)) == b""
    with os.fdopen(descriptor, "rb") as whole:  # and so that no read-ahead is left under way
        assert whole.read() == expected
    site.umount()


def test_statfs_tells_the_size_of_the_tree(site: Site, tree: Path) -> None:
    site.push(tree)
    site.mount()
    status = os.statvfs(site.point)
    assert status.f_bfree == 0
    if site.engine == "fuse":  # the kernel tells the size of the image
        assert status.f_blocks * status.f_frsize >= 3 << 20
        assert status.f_files == len(list(tree.rglob("*"))) + 1
    site.umount()


def test_a_directory_of_many_names_is_listed_whole(site: Site, tmp_path: Path) -> None:
    many = tmp_path / "many"
    many.mkdir()
    names = {f"file-{number:05}-{'x' * (number % 50)}" for number in range(5000)}
    for name in names:
        (many / name).touch()
    site.push(many)
    site.mount()
    assert set(os.listdir(site.point)) == names
    assert run("find", site.point, "-type", "f").stdout.count("\n") == 5000
    site.umount()


def test_the_first_of_several_services_wins(site: Site, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "same").write_text(name)
        (tmp_path / name / name).write_text(name)
        site.push(tmp_path / name, name, base=f"/opt/{name}")
    site.mount("one", "two")
    assert (site.point / "same").read_text() == "one"
    assert {path.name for path in site.point.iterdir()} == {"one", "two", "same"}
    assert site.ask()["clashes"] == 1
    site.umount()


def test_a_list_without_xattrs_has_none(site: Site, tree: Path) -> None:
    site.push(tree)
    site.mount()
    assert xattr_names(site.point / "data") == []
    with pytest.raises(OSError, match=r"not supported|No data") as refused:
        os.getxattr(site.point / "data", "user.note")
    # The fuse engine makes the kernel stop asking; the overlay needs attributes for itself.
    expected = errno.EOPNOTSUPP if site.engine == "fuse" else errno.ENODATA
    assert refused.value.errno == expected
    site.umount()


def test_a_classic_list_is_mounted(site: Site, tree: Path) -> None:
    site.push(tree)
    md5 = hashlib.md5((tree / "data").read_bytes()).hexdigest()
    classic = site.root / "classic.flist"
    classic.write_text(f"/opt/x/bin/data|{md5}|10240\n/opt/x/none|{hashlib.md5().hexdigest()}|0\n")
    site.mount(str(classic), base="/opt/x")
    assert (site.point / "bin" / "data").read_bytes() == (tree / "data").read_bytes()
    assert stat.S_IMODE((site.point / "bin" / "data").stat().st_mode) == 0o555
    assert stat.S_IMODE((site.point / "bin").stat().st_mode) == 0o755
    assert (site.point / "none").read_bytes() == b""
    site.umount()


def test_a_list_that_claims_more_than_a_disk_holds_has_a_size(site: Site) -> None:
    claims = site.root / "claims.flist"
    lines = [f"/x/{number:02}|{'ab' * 16}|{(1 << 63) - 1}\n" for number in range(50)]
    claims.write_text("".join(lines))
    site.store  # noqa: B018 - make it
    if site.engine == "overlay":
        with pytest.raises(DaemonFailed, match="that a tree image takes") as refused:
            site.mount(str(claims), base="/x")
        assert refused.value.code == ExitCode.IMAGE
        return
    site.mount(str(claims), base="/x")
    assert os.statvfs(site.point).f_blocks > 0
    site.umount()
