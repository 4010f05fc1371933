"""Tree images under mounts: damaged, gone, by loop device, and of lists that mean evil."""

import errno
import os
import re
import stat
from pathlib import Path

import pytest

from aysfs.kernel import mounts
from aysfs.kernel.table import find_kernel_mount
from aysfs.mount.client import DaemonFailed
from aysfs.mount.overlay import stack
from tests.t4_mount.conftest import Site, run
from tests.t4_mount.overlay_site import mounts_below, own_daemon


@pytest.fixture
def engine() -> str:
    return "overlay"


def image_of(site: Site) -> Path:
    (found,) = (site.root / "cache" / "images").glob("*/tree.erofs")
    return found


def parts_of(image: Path) -> list[Path]:
    return [image, image.with_name("tree.index"), image.with_name("facts")]


@pytest.mark.parametrize("part", [0, 1, 2], ids=["image", "index", "facts"])
@pytest.mark.parametrize("how", ["truncated", "altered", "emptied", "removed"])
def test_a_damaged_image_is_never_mounted(site: Site, tree: Path, part: int, how: str) -> None:
    site.push(tree)
    site.mount()
    site.umount()
    victim = parts_of(image_of(site))[part]
    good = victim.read_bytes()
    victim.chmod(0o600)
    if how == "removed":
        victim.unlink()
    else:
        middle = len(good) // 2
        altered = good[:middle] + bytes([good[middle] ^ 0x10]) + good[middle + 1 :]
        victim.write_bytes({"truncated": good[:middle], "altered": altered, "emptied": b""}[how])
    site.mount()
    site.expected.append("damaged tree image")
    assert "damaged tree image" in site.logs()
    assert (site.point / "data").read_bytes() == (tree / "data").read_bytes()
    assert sorted(os.listdir(site.point)) == sorted(os.listdir(tree))
    if part < 2:  # the facts have no order
        assert parts_of(image_of(site))[part].read_bytes() == good
    site.umount()


def test_an_image_that_is_removed_under_a_mount(site: Site, tree: Path) -> None:
    """The mount has it; the next mount, and a repair, make another."""
    site.push(tree)
    site.mount()
    for part in parts_of(image_of(site)):
        part.unlink()
    assert sorted(os.listdir(site.point)) == sorted(os.listdir(tree))
    assert (site.point / "big").read_bytes() == (tree / "big").read_bytes()
    assert site.ask("reload")["changed"] is False
    site.mount(point=site.root / "mnt-other")
    assert (site.root / "mnt-other" / "data").read_bytes() == (tree / "data").read_bytes()
    site.expected.append("damaged tree image")
    site.umount(site.root / "mnt-other")
    site.umount()


AWAY = """
from pathlib import Path
real_make = stack.make
def make(lowers, *more):
    folder = Path(lowers[0].name).parent
    away = folder.rename(folder.with_name("away"))
    try:
        return real_make(lowers, *more)
    finally:
        away.rename(folder)
stack.make = make
"""


def test_an_image_whose_name_is_away_while_it_is_mounted(site: Site, tree: Path) -> None:
    """As when somebody else replaces it just then."""
    site.push(tree)
    with own_daemon(site, AWAY):
        site.mount()
        assert (site.point / "data").read_bytes() == (tree / "data").read_bytes()
        site.umount()


BY_LOOP = """
real_create = stack.mounts.create
def create(kind, options, attributes):
    if kind == "erofs" and not dict(options)["source"].startswith("/dev/loop"):
        raise stack.Refused(kind, 15)  # ENOTBLK, as before Linux 6.12
    return real_create(kind, options, attributes)
stack.mounts.create = create
"""


def loop_devices(site: Site) -> set[str]:
    found = set()
    for device in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            if device.read_text().startswith(f"{site.root}/"):
                found.add(device.parts[3])
        except OSError:  # taken down just now
            pass
    return found


def test_a_mount_by_loop_device(site: Site, tree: Path) -> None:
    site.push(tree)
    with own_daemon(site, BY_LOOP):
        site.mount()
        (device,) = loop_devices(site)
        assert Path(f"/sys/block/{device}/ro").read_text() == "1\n"
        assert (site.point / "data").read_bytes() == (tree / "data").read_bytes()
        assert (site.point / "big").read_bytes() == (tree / "big").read_bytes()
        site.mount(point=site.root / "mnt-other")
        assert len(loop_devices(site)) == 2
        (tree / "data").write_text("newer")
        site.push(tree)
        assert site.ask("reload")["changed"] is True
        assert (site.point / "data").read_text() == "newer"
        for point in (site.root / "mnt-other", site.point):
            assert run("umount", point).returncode == 0
    assert loop_devices(site) == set()


def test_the_image_by_loop_device_is_the_image(site: Site, tree: Path) -> None:
    site.push(tree)
    site.mount()
    shown = []
    with open(image_of(site), "rb") as file:
        made = (stack.mount_image(file.fileno()), stack.mount_image_by_loop(file.fileno()))
    for mount in made:
        try:
            top = f"/proc/self/fd/{mount}"
            shown.append(sorted(os.listdir(top)))
            with pytest.raises(OSError, match="Read-only") as failed:
                os.mkdir(f"{top}/new")
            assert failed.value.errno == errno.EROFS
        finally:
            os.close(mount)
    assert shown[0] == shown[1] == ["opt"]
    assert loop_devices(site) == set()
    site.umount()


# --- lists that mean evil -------------------------------------------------------------------


def test_a_link_on_the_way_of_the_base_leads_nowhere(site: Site, tree: Path) -> None:
    (site.root / "outside").mkdir()
    (site.root / "outside" / "secret").write_text("secret")
    (tree / "way").symlink_to(site.root / "outside")
    (tree / "up").symlink_to("../../../../../../../../etc")
    site.push(tree)
    for base in ("way", "up", "way/..", "..", "../..", "bin/../..", "bin/hello", "way/secret"):
        with pytest.raises(DaemonFailed) as failed:
            site.mount(base=f"/opt/test/{base}")
        assert "internal" not in str(failed.value)
        assert find_kernel_mount(str(site.point)) is None
        assert mounts_below(site.root) == []
        assert os.listdir(site.root / "run") == []


def test_open_below_is_not_led_out(tmp_path: Path) -> None:
    (tmp_path / "top" / "in").mkdir(parents=True)
    (tmp_path / "top" / "out").symlink_to("/")
    (tmp_path / "top" / "self").symlink_to("in")
    top = os.open(tmp_path / "top", os.O_PATH)
    try:
        os.close(mounts.open_below(top, b"in"))
        os.close(mounts.open_below(top, b""))
        for path in (b"out", b"out/etc", b"self", b"..", b"in/../..", b"missing", b"/etc"):
            with pytest.raises(mounts.Refused):
                os.close(mounts.open_below(top, path))
    finally:
        os.close(top)


def test_devices_are_shown_and_cannot_be_opened(site: Site, tree: Path) -> None:
    os.mknod(tree / "disk", stat.S_IFBLK | 0o666, os.makedev(7, 0))
    os.mknod(tree / "kmsg", stat.S_IFCHR | 0o666, os.makedev(1, 11))
    site.push(tree)
    site.mount()
    for name in ("disk", "kmsg"):
        assert (site.point / name).lstat().st_rdev == (tree / name).lstat().st_rdev
        with pytest.raises(PermissionError):
            (site.point / name).read_bytes()
    site.umount()


XATTRS = ("trusted.overlay.redirect", "trusted.overlay.opaque", "trusted.overlay.metacopy")


@pytest.mark.parametrize("name", XATTRS)
def test_a_list_cannot_say_what_overlayfs_reads(site: Site, tree: Path, name: str) -> None:
    """By hand: a push would not take such an attribute up."""
    site.push(tree)
    (listed,) = (site.root / "store").rglob("*.flist")
    lines = listed.read_bytes().splitlines(keepends=True)
    said = f"xattr.{name}=/etc/shadow\n".encode()
    evil = [line.rstrip() + said if b"/bin|" in line else line for line in lines]
    assert evil != lines
    bad = site.root / "evil.flist"
    bad.write_bytes(b"".join(evil))
    with pytest.raises(DaemonFailed, match=r"evil\.flist:\d+: .*trusted"):
        site.mount(str(bad))
    assert find_kernel_mount(str(site.point)) is None


def test_a_list_cannot_hide_what_another_shows(site: Site, tree: Path) -> None:
    """A device 0:0 in an upper list would be overlayfs's mark of a removed file."""
    os.mknod(tree / "char", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    site.push(tree)
    (listed,) = (site.root / "store").rglob("*.flist")
    evil = site.root / "evil.flist"
    evil.write_bytes(listed.read_bytes().replace(b"rdev=1,3", b"rdev=0,0"))
    assert evil.read_bytes() != listed.read_bytes()
    with pytest.raises(DaemonFailed, match=r"evil\.flist:\d+: "):
        site.mount(str(evil), "test")


@pytest.mark.parametrize("path", ["/opt/../etc/x", "/opt/test/..", "/opt/test/.", "/opt//x"])
def test_a_list_cannot_name_a_way_out(site: Site, tree: Path, path: str) -> None:
    site.push(tree)
    bad = site.root / "evil.flist"
    bad.write_text(f"{path}|{'0' * 32}|1\n")
    with pytest.raises(DaemonFailed, match=r"evil\.flist:1: "):
        site.mount(str(bad))


@pytest.mark.parametrize("count", [10, 20_000], ids=["short", "long"])
def test_a_list_of_any_length_is_compiled_and_a_bad_line_of_it_named(
    site: Site, tree: Path, count: int
) -> None:
    """A short one is compiled in the daemon, a long one beside it."""
    site.push(tree)
    text = "".join(f"/opt/test/{number}|{'0' * 32}|1\n" for number in range(count))
    listed = site.root / "long.flist"
    listed.write_text(text + "/opt/test/x|short|1\n")
    with pytest.raises(DaemonFailed, match=rf"long\.flist:{count + 1}: "):
        site.mount(str(listed))
    listed.write_text(text)
    site.mount(str(listed))
    assert len(os.listdir(site.point / "opt/test")) == count
    site.umount()


def test_a_short_list_of_deep_directories_takes_no_memory_of_the_daemon(
    site: Site, tree: Path
) -> None:
    site.push(tree)
    listed = site.root / "deep.flist"
    listed.write_text(f"/opt/test{'/a' * 15_000}|{'0' * 32}|1\n")
    site.mount(str(listed))
    status = Path(f"/proc/{site.ask()['pid']}/status").read_text()
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
    assert int(peak) < 180_000
    assert os.listdir(site.point / "opt/test") == ["a"]
    site.umount()
