"""Which engine a host gets: a clear line with ``--engine overlay``, else fuse and its reason."""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from aysfs.kernel import mounts
from aysfs.kernel.mounts import Refused
from aysfs.kernel.table import find_kernel_mount
from aysfs.mount.overlay import choice
from tests.t4_mount.conftest import Site, run
from tests.t4_mount.overlay_site import aysfs, command, is_overlay, mounts_below, refused, until


@pytest.fixture
def engine() -> str:
    return "fuse"


@pytest.fixture
def pushed(site: Site, tree: Path) -> Site:
    site.push(tree)
    site.point.mkdir()
    return site


def engine_of(site: Site) -> tuple[str, str]:
    """The engine of the one mount, and why it is that."""
    (answer,) = [one for one in json.loads(aysfs(site, "status", "--json")) if "engine" in one]
    return answer["engine"], answer["why"]


def test_auto_takes_overlay_here(pushed: Site, tree: Path) -> None:
    aysfs(pushed, "mount", "test", pushed.point)
    assert is_overlay(pushed.point)
    assert engine_of(pushed) == ("overlay", "this host can")
    assert f"engine overlay (this host can), pid {pushed.pid()}" in aysfs(pushed, "status")
    aysfs(pushed, "umount", pushed.point)
    aysfs(pushed, "mount", "test", pushed.point, "--engine", "overlay")
    assert engine_of(pushed) == ("overlay", "asked for")
    aysfs(pushed, "umount", pushed.point)
    aysfs(pushed, "mount", "test", pushed.point, "--engine", "fuse")
    assert engine_of(pushed) == ("fuse", "asked for")
    aysfs(pushed, "umount", pushed.point)
    until(lambda: os.listdir(pushed.root / "run") == [])


def test_a_kernel_that_is_too_old(pushed: Site, tree: Path) -> None:
    old = ("setarch", "--uname-2.6")
    release = run(*old, "uname", "-r").stdout.strip()
    words = f"the overlay engine needs Linux 6.8, and this is {release}"
    said = refused(pushed, "mount", "test", pushed.point, "--engine", "overlay", inside=old)
    assert said == f"aysfs: {words}\n  --engine fuse works anywhere\n"
    aysfs(pushed, "mount", "test", pushed.point, inside=old)
    assert engine_of(pushed) == ("fuse", words)
    assert (pushed.point / "data").read_bytes() == (tree / "data").read_bytes()
    aysfs(pushed, "umount", pushed.point)


def test_root_that_may_not_mount(pushed: Site) -> None:
    """As in a container; nor can it have a fuse mount, and that is said."""
    powerless = ("setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin")
    said = refused(pushed, "mount", "test", pushed.point, "--engine", "overlay", inside=powerless)
    assert said.startswith(
        "aysfs: the overlay engine cannot be used: erofs: Operation not permitted"
    )
    pushed.expected += ["ERROR aysfs:", "fusermount3"]
    said = refused(pushed, "mount", "test", pushed.point, inside=powerless)
    assert "cannot be mounted" in said
    assert find_kernel_mount(str(pushed.point)) is None
    assert os.listdir(pushed.root / "run") == []


def test_a_host_without_dev_fuse(pushed: Site) -> None:
    inside = (
        *("unshare", "-m", "sh", "-c"),
        "mount -t tmpfs tmpfs /dev && mknod /dev/null c 1 3 && mknod /dev/urandom c 1 9"
        ' && exec "$@"',
        "sh",
    )
    said = refused(pushed, "mount", "test", pushed.point, "--engine", "overlay", inside=inside)
    assert said.startswith("aysfs: the overlay engine needs /dev/fuse\n")
    pushed.expected += ["ERROR aysfs:", "fuse: device not found"]
    said = refused(pushed, "mount", "test", pushed.point, inside=inside)
    assert "cannot be mounted" in said
    assert os.listdir(pushed.root / "run") == []


def test_a_dev_fuse_that_is_none(pushed: Site) -> None:
    inside = ("unshare", "-m", "sh", "-c", 'mount --bind /dev/null /dev/fuse && exec "$@"', "sh")
    pushed.expected += ["ERROR aysfs:", "fuse: mount failed"]
    said = refused(pushed, "mount", "test", pushed.point, "--engine", "overlay", inside=inside)
    assert "the fault layer cannot be mounted at" in said
    assert os.listdir(pushed.root / "run") == []


@pytest.mark.parametrize("missing", ["erofs", "overlay"])
def test_a_kernel_without_a_file_system(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    def has_no(kind: str) -> None:
        if kind == missing:
            raise Refused(kind, errno.ENODEV)

    assert choice.obstacle() is None
    monkeypatch.setattr(choice, "probe", has_no)
    assert choice.obstacle() == f"the overlay engine cannot be used: {missing}: No such device"


def test_the_kernel_is_really_asked() -> None:
    with pytest.raises(Refused, match="nosuchfs: No such device"):
        mounts.probe("nosuchfs")


@contextmanager
def cache_on_overlays(site: Site, depth: int) -> Iterator[None]:
    """The folder of the cache on as many overlays, as containers in containers have it."""
    with ExitStack() as undo:
        lower = site.root / "lower"
        lower.mkdir()
        for level in range(depth):
            top = site.root / "cache" if level == depth - 1 else site.root / f"level-{level}"
            upper = site.root / f"upper-{level}"
            for folder in (top, upper):
                folder.mkdir()
            assert run("mount", "-t", "tmpfs", "tmpfs", upper).returncode == 0
            undo.callback(run, "umount", "-l", upper)
            (upper / "up").mkdir()
            (upper / "work").mkdir()
            options = f"lowerdir={lower},upperdir={upper}/up,workdir={upper}/work"
            assert run("mount", "-t", "overlay", "overlay", "-o", options, top).returncode == 0
            undo.callback(run, "umount", "-l", top)
            lower = top
        yield


def test_a_cache_on_an_overlay(pushed: Site, tree: Path) -> None:
    """As in a container without a volume."""
    with cache_on_overlays(pushed, 1):
        aysfs(pushed, "mount", "test", pushed.point, "--engine", "overlay")
        assert is_overlay(pushed.point)
        for name in ("data", "big"):
            assert (pushed.point / name).read_bytes() == (tree / name).read_bytes()
        aysfs(pushed, "umount", pushed.point)
        until(lambda: os.listdir(pushed.root / "run") == [])


def test_a_cache_that_cannot_be_a_lower_layer(pushed: Site, tree: Path) -> None:
    with cache_on_overlays(pushed, 2):
        pushed.expected += ["ERROR", "WARNING"]
        said = refused(pushed, "mount", "test", pushed.point, "--engine", "overlay")
        until(lambda: os.listdir(pushed.root / "run") == [])
        assert mounts_below(pushed.root / "run") == []
        mounted = run(*command(pushed, "mount", "test", pushed.point))
        engine, why = engine_of(pushed)
        assert engine == "fuse"
        assert mounted.stderr == f"aysfs: not with the overlay engine: {why}\n"
        assert (
            why
            == f"overlayfs does not take {pushed.root}/cache/objects as a layer: Invalid argument"
        )
        assert why in said
        assert (pushed.point / "big").read_bytes() == (tree / "big").read_bytes()
        aysfs(pushed, "umount", pushed.point)
