"""Reload: the newer list is shown at once, and what holds the older one keeps it."""

import os
import subprocess
from pathlib import Path

import pytest

from aysfs.errors import MountFailed
from tests.t4_mount.conftest import PYTHON, Site, ended, every_engine


@every_engine
def test_reload_shows_the_newer_list(site: Site, tree: Path) -> None:
    site.push(tree)
    site.mount()
    held = os.open(site.point / "data", os.O_RDONLY)
    assert not (site.point / "new").exists()
    assert "data" in os.listdir(site.point)
    assert site.ask("reload")["changed"] is False
    (tree / "new").write_text("new")
    (tree / "empty-dir" / "deep").mkdir()
    (tree / "bin" / "hello").write_text("changed")
    (tree / "dangling").unlink()
    old = (tree / "data").read_bytes()
    (tree / "data").unlink()
    site.push(tree)
    assert site.ask("reload")["changed"] is True
    assert (site.point / "new").read_text() == "new"
    assert (site.point / "empty-dir" / "deep").is_dir()
    assert (site.point / "bin" / "hello").read_text() == "changed"
    assert not os.path.lexists(site.point / "dangling")
    assert sorted(os.listdir(site.point)) == sorted(os.listdir(tree))
    assert os.pread(held, len(old), 0) == old
    os.close(held)
    site.umount()


@every_engine
def test_a_reload_that_fails_keeps_what_is_shown(site: Site, tree: Path) -> None:
    site.push(tree)
    site.mount()
    (site.root / "store").rename(site.root / "away")
    with pytest.raises(MountFailed):
        site.ask("reload")
    assert "data" in os.listdir(site.point)
    (site.root / "away").rename(site.root / "store")
    site.umount()


@every_engine
def test_a_reload_is_seen_by_the_next_request(site: Site, tree: Path) -> None:
    """Every name below the root, asked for right after the answer."""
    names = [f"name-{number}" for number in range(300)]
    for name in names:
        (tree / name).write_text("first")
    site.push(tree)
    site.mount()
    for content in ("second", "third"):
        assert {(site.point / name).read_text() for name in names}
        for name in names:
            (tree / name).write_text(content)
        site.push(tree)
        assert site.ask("reload")["changed"] is True
        assert {(site.point / name).read_text() for name in reversed(names)} == {content}
    site.umount()


@every_engine
def test_a_reload_while_lookups_wait_for_us(site: Site, tree: Path) -> None:
    """The kernel locks a directory until a lookup is answered; reload must not wait for itself."""
    site.push(tree)
    site.mount()
    asking = (
        "import itertools, os, sys\n"
        "for number in itertools.count():\n"
        "    os.path.exists(f'{sys.argv[1]}/nothing-{number}')\n"
        "    os.listdir(sys.argv[1])\n"
    )
    with subprocess.Popen([PYTHON, "-c", asking, site.point]) as reader, ended(reader):
        for number in range(5):
            (tree / "data").write_text(f"content {number}")
            site.push(tree)
            assert site.ask("reload")["changed"] is True
            assert (site.point / "data").read_text() == f"content {number}"
    site.umount()


@every_engine
def test_a_listing_begun_before_a_reload_brings_nothing_old_back(site: Site, tree: Path) -> None:
    """A listing carries attributes, which the kernel would keep for as long as it is told."""
    site.push(tree)
    site.mount()
    begun = os.open(site.point, os.O_RDONLY | os.O_DIRECTORY)
    (tree / "data").write_text("new")
    (tree / "link").unlink()
    site.push(tree)
    assert site.ask("reload")["changed"] is True
    assert "link" in os.listdir(begun)
    os.close(begun)
    assert (site.point / "data").read_text() == "new"
    assert not os.path.lexists(site.point / "link")
    site.umount()


def test_a_reload_says_when_xattrs_need_another_mount(site: Site, tree: Path) -> None:
    site.push(tree)
    site.mount()
    with pytest.raises(OSError, match="not supported"):
        os.getxattr(site.point / "data", "user.note")
    os.setxattr(tree / "data", "user.note", b"new")
    site.push(tree)
    assert site.ask("reload")["xattrs"] == "mount again to see extended attributes"
    site.umount()
    site.mount()
    assert os.getxattr(site.point / "data", "user.note") == b"new"
    site.umount()
