"""Faults that only the overlay engine meets: races with the cache, slow stores, lost folders."""

import errno
import hashlib
import mmap
import os
import shutil
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from aysfs.errors import ExitCode
from aysfs.kernel.table import device_of, find_kernel_mount
from aysfs.mount import life
from aysfs.mount.client import DaemonFailed
from aysfs.mount.overlay import life as overlay
from aysfs.mount.runtime import records
from tests.t4_mount.conftest import Site, ended, run
from tests.t4_mount.overlay_site import (
    aysfs,
    command,
    error_of,
    is_overlay,
    mounts_below,
    own_daemon,
    told,
    until,
)


@pytest.fixture
def engine() -> str:
    return "overlay"


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


EVICTING = """
import os
real = Incoming.link
def link(self, digest):
    real(self, digest)
    os.unlink(self._cache.path(digest))
    os.unlink(self._cache.arrival_path(digest))
Incoming.link = link
"""


def test_a_blob_evicted_before_the_kernel_came_for_it_is_served(site: Site, tree: Path) -> None:
    site.push(tree)
    with own_daemon(site, EVICTING):
        assert site.mount()
        for _ in range(2):
            assert md5(site.point / "data") == md5(tree / "data")
        with open(site.point / "big", "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        assert hashlib.md5(mapped).hexdigest() == md5(tree / "big")
        mapped.close()
        assert run(site.point / "bin" / "hello").stdout == "hello\n"
        assert site.ask()["failures"] == 0
        assert "is served past the cache" in site.logs()
        life.stop(site.root / "run", site.point)


LINKS_FAIL = """
def link(self, digest):
    raise OSError(28, "No space left on device")
Incoming.link = link
"""


def test_a_link_that_cannot_be_made_is_trouble_and_said(site: Site, tree: Path) -> None:
    site.push(tree)
    with own_daemon(site, LINKS_FAIL):
        site.mount()
        assert error_of(site.point / "data") == errno.EIO
        site.expected.append("the cache cannot be written")
        assert "the cache cannot be written: [Errno 28]" in site.logs()
        assert md5(site.point / "data") == md5(tree / "data")  # it is in ``objects`` meanwhile
        life.stop(site.root / "run", site.point)


STALLING = """
from aysfs.store.faults import Stalls
real = sources.open_stores
sources.open_stores = lambda *a, **k: Stalls(real(*a, **k), after=100)
"""


def test_a_stalled_store_is_eio_and_a_killed_reader_is_gone(site: Site, tree: Path) -> None:
    site.push(tree)
    site.expected.append("no progress")
    with own_daemon(site, STALLING):
        site.mount(deadline=5.0)
        reader = subprocess.Popen(["cat", site.point / "data"], stderr=subprocess.DEVNULL)
        with ended(reader), ThreadPoolExecutor(1) as pool:
            until(lambda: site.ask()["in_flight"])
            flights = site.ask()["in_flight"]
            assert isinstance(flights, list)
            assert flights[0]["why"] in (
                "jumpscale__test: /opt/test/data",
                "jumpscale__test: /opt/test/hard",
            )
            other = pool.submit(error_of, site.point / "data")
            reader.kill()
            assert len(site.ask()["in_flight"]) == 1  # type: ignore[arg-type]  # a list, as above
            reader.wait(30)
            assert other.result(30) == errno.EIO
        # What needs no store is there meanwhile.
        assert (site.point / "data").stat().st_size == 10240
        assert (site.point / "empty").read_bytes() == b""
        life.stop(site.root / "run", site.point)


def test_sigterm_while_a_store_stalls_ends_the_readers(site: Site, tree: Path) -> None:
    site.push(tree)
    site.expected += ["no progress", "fetch service has ended"]
    with own_daemon(site, STALLING) as daemon:
        site.mount(deadline=120.0)
        with ThreadPoolExecutor(2) as pool:
            readers = [pool.submit(error_of, site.point / name) for name in ("data", "big")]
            until(lambda: len(site.ask()["in_flight"]) == 2)  # type: ignore[arg-type]  # a list
            daemon.send_signal(signal.SIGTERM)
            assert {one.result(30) for one in readers} <= {errno.EIO, errno.ENOTCONN}
        assert find_kernel_mount(str(site.point)) is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_with_open_files_ends_the_daemon_and_not_the_readers(
    site: Site, tree: Path, number: signal.Signals
) -> None:
    site.push(tree)
    supervisor = site.mount()
    with open(site.point / "big", "rb") as file:
        assert file.read(1)
        os.kill(supervisor, number)
        assert os.waitpid(site.children.pop(), 0) == (supervisor, 0)
        assert find_kernel_mount(str(site.point)) is None
        assert os.listdir(site.root / "run") == []
        file.seek(0)
        assert hashlib.md5(file.read()).hexdigest() == md5(tree / "big")
    assert mounts_below(site.root) == []


def test_the_cache_deleted_under_a_mount(site: Site, tree: Path) -> None:
    site.push(tree)
    site.mount()
    site.expected += ["cannot be flushed", "aysfs.fetch", "cannot be written"]
    with open(site.point / "data", "rb") as held:
        shutil.rmtree(site.root / "cache")
        assert hashlib.md5(held.read()).hexdigest() == md5(tree / "data")
        assert error_of(site.point / "big") == errno.EIO
        assert sorted(os.listdir(site.point)) == sorted(os.listdir(tree))
        assert (site.point / "empty").read_bytes() == b""
        assert "(serving)" in aysfs(site, "status")
    site.umount()
    site.mount()
    assert md5(site.point / "big") == md5(tree / "big")
    site.umount()


def test_a_read_only_cache_is_said_before_the_mount(site: Site, tree: Path) -> None:
    cache = site.root / "cache"
    cache.mkdir()
    assert run("mount", "-t", "tmpfs", "-o", "ro", "tmpfs", cache).returncode == 0
    try:
        site.push(tree)
        site.expected.append("ERROR aysfs:")
        site.point.mkdir()
        with pytest.raises(DaemonFailed, match="Read-only") as failed:
            overlay.mount(site.options())
        assert failed.value.code == ExitCode.CACHE
        assert os.listdir(site.root / "run") == []
    finally:
        run("umount", cache)


def test_a_disk_that_turns_read_only_under_the_cache(site: Site, tree: Path) -> None:
    """As ext4 does when it finds an error: what is cached goes on, a miss is trouble."""
    cache, disk = site.root / "cache", site.root / "disk"
    cache.mkdir()
    assert run("truncate", "-s", "40M", disk).returncode == 0
    assert run("mkfs.ext4", "-q", disk).returncode == 0
    assert run("mount", "-o", "loop,errors=remount-ro", disk, cache).returncode == 0
    try:
        (cache / "lost+found").rmdir()
        site.push(tree)
        site.mount()
        site.expected += ["aysfs.fetch", "cannot be written", "cannot be flushed"]
        assert md5(site.point / "data") == md5(tree / "data")
        device = Path(os.path.realpath(f"/sys/dev/block/{device_of(str(cache))}")).name
        Path(f"/sys/fs/ext4/{device}/trigger_fs_error").write_text("a test")
        assert md5(site.point / "data") == md5(tree / "data")
        assert error_of(site.point / "big") == errno.EIO
        assert (site.point / "empty").read_bytes() == b""
        site.umount()
    finally:
        run("umount", "-l", cache)


# --- commands that are interrupted, and many at once ----------------------------------------


def test_ctrl_c_while_the_list_does_not_come(site: Site) -> None:
    site.point.mkdir()
    pipe = site.root / "waits.flist"
    os.mkfifo(pipe)
    words = command(site, "mount", pipe, site.point, "--engine", "overlay")
    with subprocess.Popen(words, stderr=subprocess.PIPE) as mounting, ended(mounting):
        with open(pipe, "wb"):  # both ends are open: the daemon is there
            mounting.send_signal(signal.SIGINT)
            _, complaint = mounting.communicate(timeout=30)
        assert complaint.splitlines()[-1:] == [b"aysfs: interrupted"]
        assert mounting.returncode == 130
    assert find_kernel_mount(str(site.point)) is None
    until(lambda: os.listdir(site.root / "run") == [])


SLOW = """
import threading
real = trees.Trees._put
def put(self, tree, images, again):
    print("putting", flush=True)
    device = real(self, tree, images, again)
    sys.stdin.readline()
    return device
trees.Trees._put = put
"""


def test_who_leaves_while_the_kernel_mounts_leaves_no_mount(site: Site, tree: Path) -> None:
    site.push(tree)
    site.point.mkdir()
    words = command(site, "mount", "test", site.point, "--engine", "overlay")
    with own_daemon(site, SLOW) as daemon:
        with subprocess.Popen(words, stderr=subprocess.PIPE) as mounting, ended(mounting):
            assert told(daemon) == "putting"
            mounting.send_signal(signal.SIGINT)
            mounting.communicate(timeout=30)
        until(lambda: is_overlay(site.point))
        assert daemon.stdin is not None
        daemon.stdin.write("go on\n")
        daemon.stdin.flush()
        assert daemon.wait(30) == 0
        assert find_kernel_mount(str(site.point)) is None
        assert records(site.root / "run") == []


def test_many_mounts_at_once_start_one_daemon(site: Site, tree: Path) -> None:
    site.push(tree)
    points = [site.root / f"mnt-{number}" for number in range(6)]
    for point in points:
        point.mkdir()
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda point: aysfs(site, "mount", "test", point), points))
    assert {str(site.ask(point=point)["engine"]) for point in points} == {"overlay"}
    assert len({site.pid(point) for point in points}) == 1
    assert len(list((site.root / "run").glob("host-*"))) == 1
    assert {md5(point / "big") for point in points} == {md5(tree / "big")}
    assert site.ask(point=points[0])["entries"] == site.ask(point=points[5])["entries"]
    total = sum(int(str(site.ask(point=point)["fetched_bytes"])) for point in points)
    assert total == (tree / "big").stat().st_size
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda point: aysfs(site, "umount", point), points))
    until(lambda: os.listdir(site.root / "run") == [])


def test_mounting_and_unmounting_in_a_loop(site: Site, tree: Path) -> None:
    """The daemon that leaves after its last mount, and the one that the next mount needs."""
    site.push(tree)
    site.point.mkdir()
    for number in range(12):
        site.mount()
        assert md5(site.point / "data") == md5(tree / "data")
        if number % 3:
            life.unmount_kernel(str(site.point))  # which does not wait for the daemon
        else:
            life.stop(site.root / "run", site.point)
    until(lambda: os.listdir(site.root / "run") == [])
    for daemon in site.children:
        assert os.waitpid(daemon, 0) == (daemon, 0)
    site.children.clear()


def test_an_unmount_is_noticed_when_its_device_number_is_anothers(site: Site, tree: Path) -> None:
    site.push(tree)
    site.mount(point=site.root / "mnt-stays")
    rounds = (
        20  # in which another test may have the number, or a namespace with a copy of our mount
    )
    assert any(unmounted_for_another(site, number) for number in range(rounds))
    site.umount(site.root / "mnt-stays")


def unmounted_for_another(site: Site, number: int) -> bool:
    """Unmount while the daemon cannot see it; whether another mount had the number when it could.

    Either way it is noticed.
    """
    site.mount()
    device, worker = device_of(str(site.point)), site.pid()
    others = [site.root / f"other-{number}-{more}" for more in range(40)]
    os.kill(worker, signal.SIGSTOP)
    try:
        assert run("umount", "-i", site.point).returncode == 0
        for other in others:
            other.mkdir()
            assert run("mount", "-t", "tmpfs", "tmpfs", other).returncode == 0
            if device_of(str(other)) == device:
                break
        os.kill(worker, signal.SIGCONT)
        until(lambda: len(records(site.root / "run")) == 1)
        return device_of(str(other)) == device
    finally:
        os.kill(worker, signal.SIGCONT)
        for other in others:
            run("umount", other)


def test_what_is_mounted_over_a_tree_stays(site: Site, tree: Path) -> None:
    site.push(tree)
    site.mount()
    assert run("mount", "-t", "tmpfs", "over", site.point).returncode == 0
    (site.point / "mine").write_text("mine")
    (tree / "data").write_text("newer")
    site.push(tree)
    with pytest.raises(
        DaemonFailed, match=f"tree at {site.point} cannot be replaced: over is over"
    ):
        site.ask("reload")
    assert (site.point / "mine").read_text() == "mine"
    assert run("umount", site.point).returncode == 0
    assert site.ask("reload")["changed"] is True
    assert (site.point / "data").read_text() == "newer"
    site.umount()


def test_a_failed_overlay_ends_the_daemon_that_was_started_for_it(site: Site, tree: Path) -> None:
    site.push(tree)
    site.expected.append("ERROR")
    with pytest.raises(DaemonFailed, match="-o bogus: not with the overlay engine"):
        site.mount(fuse_options=("bogus",))
    assert os.listdir(site.root / "run") == []
    assert not mounts_below(site.root)
