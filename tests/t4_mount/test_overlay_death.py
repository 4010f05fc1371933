"""The daemon of the overlay engine dies: cached files go on, misses are trouble, repair comes."""

import hashlib
import os
import resource
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest

from aysfs.cache.blobs import Cache
from aysfs.kernel.table import device_of, find_kernel_mount
from aysfs.mount import life
from aysfs.mount.overlay import life as overlay
from aysfs.mount.overlay.life import abandoned
from tests.t4_mount.conftest import PYTHON, Site, run
from tests.t4_mount.overlay_site import (
    TROUBLE,
    aysfs,
    error_of,
    is_overlay,
    kill_both,
    kill_worker,
    mounts_below,
    nobody_repairs,
    started,
    told,
    until,
    wait_for_another,
    worker_of,
)

# Reads the file that a line names, in its working directory or below a held one.
READER = r"""
import hashlib, mmap, os, sys
os.chdir(sys.argv[1])
held = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECTORY)
with open("mapped", "rb") as file:
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
print("here", flush=True)
for line in sys.stdin:
    how, name = line.split()
    try:
        if how == "mapped":
            data = bytes(mapped)
        else:
            descriptor = os.open(name, os.O_RDONLY, dir_fd=held if how == "held" else None)
            with open(descriptor, "rb") as file:
                data = file.read()
        print(hashlib.md5(data).hexdigest(), flush=True)
    except OSError as error:
        print("errno", error.errno, flush=True)
"""


@pytest.fixture
def engine() -> str:
    return "overlay"


@pytest.fixture
def served(site: Site, tree: Path) -> Site:
    (tree / "mapped").write_bytes(os.urandom(300_000))
    for number in range(6):
        (tree / f"miss-{number}").write_bytes(os.urandom(5_000 + number))
    site.push(tree)
    site.mount()
    site.expected += ["the daemon was killed by SIGKILL", "is mounted again: its daemon had died"]
    return site


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def test_the_supervisor_starts_another_daemon(served: Site, tree: Path) -> None:
    assert md5(served.point / "data") == md5(tree / "data")
    for _ in range(3):
        before = find_kernel_mount(str(served.point))
        worker = kill_worker(served)
        wait_for_another(served, worker)
        after = find_kernel_mount(str(served.point))
        assert before is not None
        assert after is not None
        assert after.device != before.device
        assert md5(served.point / "big") == md5(tree / "big")
        assert served.ask()["engine"] == "overlay"
    served.umount()


def test_without_a_daemon_cached_files_work_and_a_miss_is_trouble(served: Site, tree: Path) -> None:
    names = sorted(str(path.relative_to(tree)) for path in tree.rglob("*"))
    assert md5(served.point / "data") == md5(tree / "data")
    with nobody_repairs(served):
        worker = kill_worker(served)
        until(lambda: worker_of(served) is None)
        assert md5(served.point / "data") == md5(tree / "data")
        assert md5(served.point / "hard") == md5(tree / "data")
        assert (served.point / "empty").read_bytes() == b""
        assert (
            sorted(str(one.relative_to(served.point)) for one in served.point.rglob("*")) == names
        )
        assert {error_of(served.point / f"miss-{number}") for number in range(6)} <= TROUBLE
        assert (served.point / "miss-0").stat().st_size == 5_000
    wait_for_another(served, worker)
    for number in range(6):
        assert md5(served.point / f"miss-{number}") == md5(tree / f"miss-{number}")
    served.umount()


@pytest.mark.parametrize("by", ["status", "mount"])
def test_the_next_command_repairs_when_the_supervisor_died_too(
    served: Site, tree: Path, by: str
) -> None:
    other = served.root / "mnt-other"
    other.mkdir()
    assert md5(served.point / "data") == md5(tree / "data")
    worker = kill_both(served)
    assert error_of(served.point / "miss-0") in TROUBLE
    if by == "status":
        assert "(serving)" in aysfs(served, "status")
    else:
        aysfs(served, "mount", "test", other)
        assert is_overlay(other)
    assert worker_of(served) not in (None, worker)
    assert md5(served.point / "miss-0") == md5(tree / "miss-0")
    for point in [served.point, *([other] if by == "mount" else [])]:
        aysfs(served, "umount", point)
    served.daemon_has_left()


def test_several_mounts_come_back_together(served: Site, tree: Path) -> None:
    points = [served.root / f"mnt-{number}" for number in range(4)]
    for point in points:
        served.mount(point=point)
    worker = kill_worker(served)
    for point in [served.point, *points]:
        wait_for_another(served, worker, point)
        assert md5(point / "miss-1") == md5(tree / "miss-1")
    for point in points:
        served.umount(point)
    served.umount()


def test_a_repair_shows_the_list_that_was_mounted(served: Site, tree: Path) -> None:
    """Not the newer one that the store has by then."""
    was = md5(tree / "miss-2")
    (tree / "miss-2").write_text("newer")
    served.push(tree)
    wait_for_another(served, kill_worker(served))
    assert md5(served.point / "miss-2") == was
    assert served.ask("reload")["changed"] is True
    assert (served.point / "miss-2").read_text() == "newer"
    served.umount()


def test_who_holds_the_old_tree_keeps_its_cached_files(served: Site, tree: Path) -> None:
    good = md5(tree / "data")
    assert md5(served.point / "data") == good
    with started(PYTHON, "-c", READER, served.point) as holder:
        assert told(holder) == "here"
        wait_for_another(served, kill_worker(served))
        for how in ("cwd", "held"):
            assert told(holder, f"{how} data") == good
            kind, number = told(holder, f"{how} miss-3").split()
            assert (kind, int(number) in TROUBLE) == ("errno", True)
        assert told(holder, "mapped mapped") == md5(tree / "mapped")
        assert served.ask()["held"] == [
            {"pid": holder.pid, "name": "python", "how": "cwd", "served": False}
        ]
        assert md5(served.point / "miss-3") == md5(tree / "miss-3")
        # A blob that is cached meanwhile is found; the miss before it is not remembered.
        assert told(holder, "cwd miss-3") == md5(tree / "miss-3")
    with started(PYTHON, "-c", READER, served.point) as restarted:
        assert told(restarted) == "here"
        assert told(restarted, "cwd miss-4") == md5(tree / "miss-4")
    served.umount()


def test_a_device_number_that_is_given_away_again_names_nobody(served: Site, tree: Path) -> None:
    """What uses the file system that has the number of the lost tree does not hold that tree."""
    device = device_of(str(served.point))
    wait_for_another(served, kill_worker(served))
    with ExitStack() as undo:
        for number in range(30):
            other = served.root / f"other-{number}"
            other.mkdir()
            assert run("mount", "-t", "tmpfs", "tmpfs", other).returncode == 0
            undo.callback(run, "umount", other)
            user = undo.enter_context(started("sh", "-c", 'cd "$1"; pwd; read -r _', "sh", other))
            assert told(user) == str(other)
            if device_of(str(other)) == device:
                break
        assert served.ask()["held"] == []
    served.umount()


def test_another_mount_namespace_keeps_its_cached_files(served: Site, tree: Path) -> None:
    good = md5(tree / "data")
    assert md5(served.point / "data") == good
    with started("unshare", "-m", PYTHON, "-c", READER, served.point) as inside:
        assert told(inside) == "here"
        beside = served.root / "mnt-beside"
        served.mount(point=beside)
        worker = kill_worker(served)
        wait_for_another(served, worker)
        wait_for_another(served, worker, beside)
        assert told(inside, "cwd data") == good
        assert told(inside, "cwd miss-5").startswith("errno ")
        served.umount(beside)
        served.umount()
        assert told(inside, "cwd data") == good


def test_the_old_tree_of_a_reload_is_served_until_it_is_let_go(served: Site, tree: Path) -> None:
    was = md5(tree / "miss-0")
    with started(PYTHON, "-c", READER, served.point) as holder:
        assert told(holder) == "here"
        (tree / "miss-0").write_text("newer")
        served.push(tree)
        assert served.ask("reload")["changed"] is True
        status = served.ask()
        assert status["generations"] == 2
        assert status["held"] == [
            {"pid": holder.pid, "name": "python", "how": "cwd", "served": True}
        ]
        assert told(holder, "cwd miss-0") == was
        life.stop(served.root / "run", served.point)
        assert abandoned(served.root / "run") == [
            {
                "point": str(served.point),
                "held": [{"pid": holder.pid, "name": "python", "how": "cwd", "served": True}],
            }
        ]
        assert told(holder, "cwd miss-1") == md5(tree / "miss-1")
    served.daemon_has_left()


# Holds a library of a tree and nothing else: neither a descriptor nor a directory.
MAPS = r"""
import mmap, sys
with open(sys.argv[1], "rb") as file:
    held = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
import ctypes, os
os.close(int(max(name for name in os.listdir("/proc/self/fd")
                 if os.path.realpath(f"/proc/self/fd/{name}") == sys.argv[1])))
print("here", flush=True)
sys.stdin.read()
"""


def test_who_maps_a_file_of_the_old_tree_is_named(served: Site, tree: Path) -> None:
    with started(PYTHON, "-c", MAPS, served.point / "mapped") as holder:
        assert told(holder) == "here"
        (tree / "data").write_text("newer")
        served.push(tree)
        assert served.ask("reload")["changed"] is True
        held = [{"pid": holder.pid, "name": "python", "how": "mapping", "served": True}]
        assert served.ask()["held"] == held
    until(lambda: served.ask()["generations"] == 1)
    assert served.ask()["held"] == []
    served.umount()


@pytest.mark.parametrize("lazy", [False, True])
def test_a_mount_whose_daemon_is_dead_can_be_unmounted(
    served: Site, tree: Path, *, lazy: bool
) -> None:
    assert md5(served.point / "data") == md5(tree / "data")
    kill_both(served)
    life.stop(served.root / "run", served.point, lazy=lazy)
    assert find_kernel_mount(str(served.point)) is None
    assert mounts_below(served.root) == []
    assert os.listdir(served.root / "run") == []
    assert str(served.point) not in aysfs(served, "status")
    served.mount()
    assert md5(served.point / "miss-0") == md5(tree / "miss-0")
    served.umount()


def test_a_mount_that_was_unmounted_meanwhile_is_not_put_back(served: Site, tree: Path) -> None:
    with nobody_repairs(served):
        kill_worker(served)
        until(lambda: worker_of(served) is None)
        life.stop(served.root / "run", served.point)
    os.waitpid(served.children.pop(), 0)
    assert find_kernel_mount(str(served.point)) is None
    assert os.listdir(served.root / "run") == []


def test_a_mount_that_umount_8_took_while_nobody_served_is_not_put_back(
    served: Site, tree: Path
) -> None:
    with nobody_repairs(served):
        kill_worker(served)
        until(lambda: worker_of(served) is None)
        life.unmount_kernel(str(served.point))
    os.waitpid(served.children.pop(), 0)
    assert find_kernel_mount(str(served.point)) is None
    overlay.repair(served.root / "run")
    assert find_kernel_mount(str(served.point)) is None
    assert os.listdir(served.root / "run") == []


def test_a_daemon_that_ends_in_an_error_is_replaced(served: Site, tree: Path) -> None:
    """Without a descriptor left it cannot look at the mount table, which is fatal to it."""
    assert md5(served.point / "data") == md5(tree / "data")
    worker = served.pid()
    hard = resource.prlimit(worker, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(worker, resource.RLIMIT_NOFILE, (3, hard))
    assert run("mount", "--bind", served.root, served.root).returncode == 0
    assert run("umount", served.root).returncode == 0
    wait_for_another(served, worker)
    served.expected += ["Traceback", "exception", "the daemon ended in an error"]
    assert "the daemon ended in an error" in served.logs()
    assert md5(served.point / "miss-0") == md5(tree / "miss-0")
    assert mounts_below(served.root / "run") == [str(next(served.root.glob("run/host-*/fault")))]
    served.umount()


def test_a_supervisor_that_is_told_to_stop_between_two_daemons_starts_no_other(
    served: Site, tree: Path
) -> None:
    supervisor = served.children.pop()
    for _ in range(3):  # until it waits before it starts the next
        worker = served.pid()
        os.kill(worker, signal.SIGKILL)
        wait_for_another(served, worker)
    os.kill(served.pid(), signal.SIGKILL)
    os.kill(supervisor, signal.SIGTERM)
    assert os.waitpid(supervisor, 0) == (supervisor, 0)
    assert worker_of(served) is None
    life.stop(served.root / "run", served.point)
    assert os.listdir(served.root / "run") == []
    Cache(served.root / "cache").close()  # which sweeps what the dead left
