"""The kernel's mount table and mount API, asked for real."""

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from aysfs.errors import MountFailed
from aysfs.kernel import mounts
from aysfs.kernel.fuse import tune
from aysfs.kernel.loop import open_loop
from aysfs.kernel.mounts import Refused
from aysfs.kernel.table import KernelMount, device_of, find_kernel_mount, kernel_mounts

NAMES = [
    "plain",
    "a b",
    "tab\tin",
    "new\nline",
    "back\\slash",
    "\\040",
    "#hash",
    "ü☃",
    "b\udcffytes",
]


@contextmanager
def mounted(point: Path, source: str = "here") -> Iterator[None]:
    mount = mounts.create("tmpfs", [("source", source)])
    try:
        mounts.attach(mount, str(point))
    finally:
        os.close(mount)
    try:
        yield
    finally:
        with suppress(Refused):
            mounts.detach(str(point))


@pytest.mark.parametrize("name", NAMES)
def test_the_table_names_points_and_sources_as_they_are(tmp_path: Path, name: str) -> None:
    point = tmp_path / name
    point.mkdir()
    assert find_kernel_mount(str(point)) is None
    with mounted(point, f"source {name}"):
        found = find_kernel_mount(str(point))
        assert found is not None
        device = device_of(str(point))
        assert found[:4] == (str(point), device, "tmpfs", f"source {name}")
        assert "ro" in found.options.split(",")
    assert find_kernel_mount(str(point)) is None


def test_the_topmost_mount_is_found(tmp_path: Path) -> None:
    with mounted(tmp_path, "below"), mounted(tmp_path, "above"):
        both = [one for one in kernel_mounts() if one.point == str(tmp_path)]
        assert [one.source for one in both] == ["below", "above"]
        assert find_kernel_mount(str(tmp_path)) == both[1]
    assert find_kernel_mount(str(tmp_path)) is None


def test_a_mount_put_beneath_shows_when_the_one_above_goes(tmp_path: Path) -> None:
    with mounted(tmp_path, "old"):
        old = device_of(str(tmp_path))
        new = mounts.create("tmpfs", [("source", "new")])
        try:
            mounts.attach(new, str(tmp_path), beneath=True)
            assert device_of(str(tmp_path)) == old
            mounts.detach(str(tmp_path))
            assert device_of(str(tmp_path)) != old
            shown = find_kernel_mount(str(tmp_path))
            assert isinstance(shown, KernelMount)
            assert shown.source == "new"
        finally:
            os.close(new)


def test_the_table_of_another_process() -> None:
    assert kernel_mounts(str(os.getpid())) == kernel_mounts()
    with pytest.raises(FileNotFoundError):
        kernel_mounts("0")


def test_a_mount_that_was_never_attached_leaves_nothing(tmp_path: Path) -> None:
    before = kernel_mounts()
    mount = mounts.create("tmpfs", [])
    Path(f"/proc/self/fd/{mount}").stat()
    os.close(mount)
    assert kernel_mounts() == before


def test_what_the_kernel_says_about_an_option_is_told(tmp_path: Path) -> None:
    with pytest.raises(Refused) as refused:
        mounts.create("tmpfs", [("nosuch", "x")])
    assert "Unknown parameter 'nosuch'" in str(refused.value)
    assert str(refused.value).startswith("tmpfs: ")
    assert refused.value.errno == errno.EINVAL
    with pytest.raises(Refused, match="nosuchfs: No such device") as refused:
        mounts.create("nosuchfs", [])
    assert refused.value.errno == errno.ENODEV
    with pytest.raises(Refused, match=f"{tmp_path}/nowhere: No such file"):
        mounts.detach(f"{tmp_path}/nowhere")
    with pytest.raises(Refused, match=f"{tmp_path}: Invalid argument"):
        mounts.detach(str(tmp_path))
    mount = mounts.create("tmpfs", [])
    try:
        with pytest.raises(Refused, match=f"{tmp_path}/nowhere: No such file"):
            mounts.attach(mount, f"{tmp_path}/nowhere")
    finally:
        os.close(mount)


def test_a_mount_is_read_only_and_as_its_attributes_say(tmp_path: Path) -> None:
    with mounted(tmp_path):
        assert os.statvfs(tmp_path).f_flag & (os.ST_NOSUID | os.ST_NODEV)
        with pytest.raises(OSError, match="Read-only"):
            (tmp_path / "new").touch()
        mounts.reconfigure(str(tmp_path))
        with pytest.raises(OSError, match="Read-only"):
            (tmp_path / "new").touch()


def test_a_link_at_the_point_is_not_followed_when_unmounting(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with mounted(tmp_path / "real"):
        with pytest.raises(Refused):
            mounts.detach(str(tmp_path / "link"))
        assert find_kernel_mount(str(tmp_path / "real")) is not None


@pytest.mark.usefixtures("no_leaks")
def test_a_loop_device_goes_with_its_last_user(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(os.urandom(8192))
    with open(image, "rb") as file:
        device, path = open_loop(file.fileno())
    backing = Path("/sys/block", Path(path).name, "loop", "backing_file")
    try:
        assert backing.read_text().strip() == str(image)
        assert os.pread(device, 8192, 0) == image.read_bytes()
        assert backing.parents[1].joinpath("ro").read_text() == "1\n"
    finally:
        os.close(device)
    end = time.monotonic() + 10  # somebody who looks at new devices may have it open
    while backing.exists():
        assert time.monotonic() < end
        os.sched_yield()


@pytest.mark.usefixtures("no_leaks")
def test_a_loop_device_of_no_file_is_refused(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(MountFailed, match="no loop device: Invalid argument"):
            open_loop(folder)
    finally:
        os.close(folder)


def test_what_is_no_fuse_mount_is_left_alone(tmp_path: Path) -> None:
    with mounted(tmp_path):
        tune(str(tmp_path), 1 << 20)
    tune(str(tmp_path), 1 << 20)
