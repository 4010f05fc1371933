"""Small parts of the overlay engine, each against the kernel: who holds a tree, what changed."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from aysfs.kernel import mounts
from aysfs.kernel.table import device_of
from aysfs.mount.overlay.holders import Holder, holders
from aysfs.mount.overlay.watch import table_changes
from tests.t4_mount.conftest import PYTHON, run
from tests.t4_mount.overlay_site import started, told

HOLD = r"""
import mmap, os, sys
how, point = sys.argv[1:]
if how == "cwd":
    os.chdir(point)
elif how == "root":
    os.chroot(point)
elif how == "file":
    held = os.open(f"{point}/file", os.O_RDONLY)
elif how == "directory":
    held = os.open(point, os.O_PATH)
elif how == "mapping":
    descriptor = os.open(f"{point}/file", os.O_RDONLY)
    held = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    os.closerange(3, 20)  # the mapping has a descriptor of its own
print("here", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def point(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with a file in it, which is unmounted in the end."""
    top = tmp_path / "mnt"
    top.mkdir()
    assert run("mount", "-t", "tmpfs", "tmpfs", top).returncode == 0
    (top / "file").write_text("held")
    yield top
    run("umount", "-l", top)


@pytest.mark.parametrize("how", ["cwd", "root", "file", "directory", "mapping"])
def test_who_holds_a_tree_is_found(point: Path, how: str) -> None:
    device = device_of(str(point))
    with started(PYTHON, "-c", HOLD, how, point) as holder:
        assert told(holder) == "here"
        mounts.detach(str(point))
        found = by_process([device, "999:0"])
        # A chroot leaves the working directory where it was; a descriptor is a file.
        said = {"directory": "file"}.get(how, how)
        assert found == [Holder(device, holder.pid, "python", said)]
        assert by_process(["999:0"]) == []
    assert by_process([device]) == []


def by_process(devices: list[str]) -> list[Holder]:
    """Who holds something of these by more than a copy of the mount, which a container that another
    test starts has for a moment.
    """
    return [one for one in holders(devices) if one.how != "mount"]


def test_who_has_it_in_a_mount_namespace_is_found_once(point: Path) -> None:
    device = device_of(str(point))
    script = "sh -c 'echo here; read -r _; true' & echo here; read -r _; wait"
    with started("unshare", "-m", "sh", "-c", script) as holder:
        assert told(holder) == "here"
        assert told(holder) == "here"
        mounts.detach(str(point))
        found = [one for one in holders([device]) if one.name == "sh"]
        assert found == [Holder(device, holder.pid, "sh", "mount")]


def test_names_of_processes_that_mean_evil(point: Path) -> None:
    device = device_of(str(point))
    script = "import ctypes; ctypes.CDLL(None).prctl(15, b'a) b\\n(c\\xff')\n" + HOLD
    with started(PYTHON, "-c", script, "cwd", point) as holder:
        assert told(holder) == "here"
        mounts.detach(str(point))
        (found,) = by_process([device])
        assert found.pid == holder.pid


async def test_changes_of_the_mount_table_are_noticed(tmp_path: Path) -> None:
    async with table_changes() as changes:
        for _ in range(3):
            mount = mounts.create("tmpfs", [])
            try:
                mounts.attach(mount, str(tmp_path))
            finally:
                os.close(mount)
            await changes.next()
            mounts.detach(str(tmp_path))
            await changes.next()


async def test_a_change_before_the_wait_is_not_lost(tmp_path: Path) -> None:
    async with table_changes() as changes:
        mount = mounts.create("tmpfs", [])
        mounts.attach(mount, str(tmp_path))
        os.close(mount)
        mounts.detach(str(tmp_path))
        await trio.lowlevel.checkpoint()
        await changes.next()


async def test_watching_costs_nothing_while_nothing_changes() -> None:
    """The mount table is always readable: a watcher that waits for that would spin."""
    async with table_changes() as changes:
        turns = 0
        with trio.move_on_after(0.3):
            while True:
                await changes.next()
                turns += 1
        assert turns < 50  # others on this host mount as well
