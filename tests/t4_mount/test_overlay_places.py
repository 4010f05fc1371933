"""Where overlays may be: other mount namespaces, chroots, odd names, several lists, one daemon."""

import errno
import hashlib
import os
import stat
from pathlib import Path

import pytest

from aysfs.kernel.table import find_kernel_mount, kernel_mounts
from aysfs.mount.client import DaemonFailed
from tests.t4_mount.conftest import Site, run
from tests.t4_mount.overlay_site import aysfs, command, mounts_below, refused, started, told, until


@pytest.fixture
def engine() -> str:
    return "overlay"


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


# --- mount namespaces and chroots -----------------------------------------------------------


def test_a_mount_in_a_mount_namespace_of_its_own(site: Site, tree: Path) -> None:
    """It has a daemon of its own, and all of it goes with the namespace."""
    site.push(tree)
    site.mount(point=site.root / "mnt-outside")
    site.point.mkdir()
    words = " ".join(f"'{word}'" for word in command(site, "mount", "test", site.point))
    script = f'{words} && echo mounted; while read -r what; do eval "$what"; done'
    with started("unshare", "-m", "sh", "-c", script) as inside:
        assert told(inside) == "mounted"
        assert find_kernel_mount(str(site.point)) is None
        assert told(inside, f"stat -f -c %T {site.point}") == "overlayfs"
        assert told(inside, f"md5sum < {site.point}/data") == f"{md5(tree / 'data')}  -"
        assert len(list((site.root / "run").glob("host-*"))) == 2
        assert site.pid() != site.pid(site.root / "mnt-outside")
        assert "(serving)" in aysfs(site, "status")
    # Its daemon is the last process in the namespace.
    worker = site.pid()
    aysfs(site, "umount", site.point, inside=("nsenter", "-m", "-t", worker))
    until(lambda: len(list((site.root / "run").glob("host-*"))) == 1)
    assert md5(site.root / "mnt-outside" / "big") == md5(tree / "big")
    site.umount(site.root / "mnt-outside")


def test_a_namespace_that_ends_takes_its_mounts_along(site: Site, tree: Path) -> None:
    """In a process namespace as well, as a container has it: nothing outlives it."""
    site.push(tree)
    site.point.mkdir()
    words = " ".join(f"'{word}'" for word in command(site, "mount", "test", site.point))
    script = f"mount -t proc proc /proc && {words} && md5sum < {site.point}/big"
    done = run("unshare", "--mount", "--pid", "--fork", "sh", "-c", script)
    assert done.stdout == f"{md5(tree / 'big')}  -\n", done
    assert mounts_below(site.root) == []
    assert f"{site.point}: jumpscale__test (dead: unmounted)" in aysfs(site, "status")
    aysfs(site, "umount", site.point)
    assert os.listdir(site.root / "run") == []
    site.mount()
    assert md5(site.point / "data") == md5(tree / "data")
    site.umount()


def test_a_mount_made_before_a_namespace_is_used_inside(site: Site, tree: Path) -> None:
    site.push(tree)
    site.mount()
    done = run("unshare", "-m", "sh", "-c", f"cd {site.point} && md5sum < big && bin/hello")
    assert done.stdout == f"{md5(tree / 'big')}  -\nhello\n"
    with started(
        "unshare", "-m", "sh", "-c", "echo here; while read -r what; do eval $what; done"
    ) as inside:
        assert told(inside) == "here"
        site.point.joinpath("data").stat()
        aysfs(site, "umount", site.point)
        # The daemon goes on for those who have the tree in their namespace.
        assert told(inside, f"md5sum < {site.point}/data") == f"{md5(tree / 'data')}  -"
        assert told(inside, f"umount {site.point}; echo $?") == "0"
    site.daemon_has_left()


def test_a_chroot_into_a_mount(site: Site, tree: Path) -> None:
    (tree / "lib64").mkdir()
    for name in ("/bin/cat", "/lib64/ld-linux-x86-64.so.2"):
        (tree / name[1:]).write_bytes(Path(name).read_bytes())
        (tree / name[1:]).chmod(0o755)
    (tree / "lib" / "x86_64-linux-gnu").mkdir(parents=True)
    libc = "lib/x86_64-linux-gnu/libc.so.6"
    (tree / libc).write_bytes(Path("/", libc).read_bytes())
    site.push(tree)
    site.mount()
    done = run("chroot", site.point, "/bin/cat", "/bin/hello")
    assert (done.stdout, done.stderr) == ((tree / "bin" / "hello").read_text(), "")
    site.umount()


def test_a_bind_mount_elsewhere_is_served_after_the_unmount(site: Site, tree: Path) -> None:
    """As ``docker run -v`` makes one."""
    site.push(tree)
    site.mount()
    elsewhere = site.root / "elsewhere"
    elsewhere.mkdir()
    assert run("mount", "--bind", site.point, elsewhere).returncode == 0
    try:
        assert md5(elsewhere / "data") == md5(tree / "data")
        aysfs(site, "umount", "--lazy", site.point)
        assert md5(elsewhere / "big") == md5(tree / "big")
    finally:
        run("umount", elsewhere)
    site.daemon_has_left()


# --- options --------------------------------------------------------------------------------


def options_of(point: Path) -> set[str]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split(" ")
        if fields[4] == str(point):
            return set(fields[5].split(","))
    return set()


def test_nosuid_and_nodev_unless_asked_otherwise(site: Site, tree: Path) -> None:
    os.mknod(tree / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    (tree / "id").write_bytes(Path("/usr/bin/id").read_bytes())
    (tree / "id").chmod(0o4755)
    tree.chmod(0o755)
    site.root.chmod(0o755)
    site.push(tree)
    site.mount()
    assert options_of(site.point) >= {"ro", "nosuid", "nodev"}
    with pytest.raises(PermissionError):
        (site.point / "null").write_text("x")
    site.umount()
    site.mount(fuse_options=("suid", "dev", "noexec"))
    assert options_of(site.point) >= {"ro", "noexec"}
    assert not options_of(site.point) & {"nosuid", "nodev"}
    (site.point / "null").write_text("x")
    with pytest.raises(PermissionError):
        run(site.point / "bin" / "hello")
    with pytest.raises(OSError, match="Read-only") as failed:
        (site.point / "new").touch()
    assert failed.value.errno == errno.EROFS
    site.umount()


def test_an_unknown_option_is_refused_in_a_line(site: Site, tree: Path) -> None:
    site.push(tree)
    site.point.mkdir()
    said = refused(site, "mount", "test", site.point, "--engine", "overlay", "-o", "bogus")
    assert "-o bogus: not with the overlay engine" in said
    until(lambda: os.listdir(site.root / "run") == [])


# --- lists and bases ------------------------------------------------------------------------


def push_three(site: Site) -> None:
    for name, files in {
        "one": {"opt/a/shared": "one", "opt/a/only-one": "1", "opt/a/sub/x": "1"},
        "two": {"opt/a/shared": "two", "opt/a/only-two": "2", "opt/a/sub/y": "2"},
        "three": {"opt/b/only-three": "3"},
    }.items():
        for path, content in files.items():
            (site.root / name / path).parent.mkdir(parents=True, exist_ok=True)
            (site.root / name / path).write_text(content)
        site.push(site.root / name, name, base="/")


def test_several_lists_are_joined_and_the_first_wins(site: Site) -> None:
    push_three(site)
    site.mount("one", "two", "three")
    found = {
        str(path.relative_to(site.point)): path.read_text()
        for path in site.point.rglob("*")
        if path.is_file()
    }
    assert found == {
        "opt/a/shared": "one",
        "opt/a/only-one": "1",
        "opt/a/only-two": "2",
        "opt/a/sub/x": "1",
        "opt/a/sub/y": "2",
        "opt/b/only-three": "3",
    }
    devices = {path.lstat().st_dev for path in [site.point, *site.point.rglob("*")]}
    assert len(devices) == 1
    assert site.ask()["clashes"] == 1
    assert "/opt/a/shared: the one of " in site.logs()
    site.umount()


def test_a_base_that_only_some_lists_have(site: Site) -> None:
    push_three(site)
    site.mount("one", "two", "three", base="/opt/a")
    assert sorted(os.listdir(site.point)) == ["only-one", "only-two", "shared", "sub"]
    assert sorted(os.listdir(site.point / "sub")) == ["x", "y"]
    assert "nothing lies below /opt/a" in site.logs()
    lists = site.ask()["lists"]
    assert isinstance(lists, list)
    assert len(lists) == 2
    site.umount()
    site.mount("one", "three", base="/opt/b")
    assert os.listdir(site.point) == ["only-three"]
    site.umount()
    site.expected.append("ERROR")
    with pytest.raises(DaemonFailed, match="nothing lies below the base /opt/c"):
        site.mount("one", "three", base="/opt/c")


# --- names ----------------------------------------------------------------------------------

ODD = ["with space", "back\\slash", "a,b=c", "ünïcödé ☃", "new\nline", "quo\"te's", "co:lon", "%#"]


@pytest.mark.parametrize("name", ODD)
def test_odd_names_of_every_folder(tmp_path: Path, tree: Path, name: str) -> None:
    site = Site(tmp_path / name, "overlay")
    site.root.mkdir()
    site.push(tree)
    for where in (site.point, site.root / f"mnt {name}"):
        site.mount(point=where)
        assert md5(where / "data") == md5(tree / "data")
        mount = find_kernel_mount(str(where))
        assert mount is not None
        assert mount.kind == "overlay"
        assert site.ask(point=where)["engine"] == "overlay"
    (tree / "data").write_text("newer")
    site.push(tree)
    assert site.ask("reload")["changed"] is True
    assert (site.point / "data").read_text() == "newer"
    aysfs(site, "status")
    aysfs(site, "umount", site.point)
    site.umount(site.root / f"mnt {name}")
    assert not [one for one in kernel_mounts() if one.point.startswith(str(site.root))]
    assert "WARNING" not in site.logs()


def test_several_mounts_share_one_daemon_and_their_blobs(site: Site, tree: Path) -> None:
    site.push(tree)
    site.push(tree / "bin", "other")
    points = [site.root / f"mnt-{number}" for number in range(10)]
    for number, point in enumerate(points):
        site.mount("other" if number % 2 else "test", point=point)
    assert len(site.children) == 1
    assert len({site.pid(point) for point in points}) == 1
    assert (points[1] / "hello").read_text() == (points[0] / "bin" / "hello").read_text()
    fetched = [site.ask(point=point)["fetched_bytes"] for point in points]
    assert sum(map(int, map(str, fetched))) == (tree / "bin" / "hello").stat().st_size
    for point in points:
        site.umount(point)
