"""Images that stores have, under both engines: which are mounted, and which never are.

The store lies: for the list it has an image in which `data` is another file's bytes. An engine
that shows those has used the image.
"""

import hashlib
import json
import os
import signal
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from aysfs.cache.images import ImageCache
from aysfs.cache.list_key import OWN
from aysfs.errors import MountFailed
from aysfs.flist.text import FlistReader, write_flist
from aysfs.kernel.table import find_kernel_mount
from aysfs.mount import life
from aysfs.mount.client import NoAnswer
from aysfs.mount.overlay import trust
from aysfs.mount.overlay.life import host_of
from aysfs.mount.overlay.named import open_lists
from aysfs.mount.overlay.plan import ShownList
from aysfs.mount.runtime import folder_of, is_served
from aysfs.names import parse_name
from aysfs.publish.image import add_image
from tests.forging import forge_image
from tests.t4_mount.conftest import Site, every_engine, run

NAME = parse_name("test")
GOOD, EVIL = b"good", b"evil"


@pytest.fixture
def lying(site: Site, tmp_path: Path) -> Site:
    """A site whose store has a forged image for its list."""
    top = tmp_path / "two"
    top.mkdir()
    (top / "data").write_bytes(GOOD)
    (top / "zother").write_bytes(EVIL)
    site.push(top)
    trio.run(forge, site)
    return site


async def forge(site: Site) -> None:
    opened = await site.store.open_list(NAME)
    with opened.file:
        reader = FlistReader(opened.file, source="list", mtime_ns=0)
        entries = list(reader)
    [other] = [one for one in entries if one.path.endswith(b"/zother")]
    swapped = [
        one._replace(digest=other.digest) if one.path.endswith(b"/data") else one for one in entries
    ]
    await forge_image(site.store, NAME, b"".join(write_flist(reader.header, swapped)))


def trusting(site: Site, *more: str) -> dict[str, Any]:
    return {"trust_images": (*more, str(site.root / "store"))}


def data(site: Site) -> bytes:
    return (site.point / "data").read_bytes()


def origins(site: Site) -> set[str]:
    """Of the images in the cache: `own`, `store` or `trusted`."""
    folders = (one for one in (site.root / "cache/images").iterdir() if one.is_dir())
    return {([*one.name.split("-"), "own"])[3] for one in folders}


@pytest.mark.parametrize("engine", ["overlay"])
@pytest.mark.parametrize(
    "trust_images",
    [(), ("/elsewhere",), ("https://host/store",), ("",), ("/",)],
    ids=["nobody", "elsewhere", "far", "nothing", "root"],
)
def test_root_mounts_no_image_of_a_store_that_is_not_trusted(
    lying: Site, trust_images: tuple[str, ...]
) -> None:
    lying.mount(trust_images=trust_images)
    assert data(lying) == GOOD
    assert origins(lying) == {"own"}
    lying.umount()


def test_the_fuse_engine_takes_any_store_s_word_for_its_own_list(lying: Site) -> None:
    lying.mount()
    assert data(lying) == EVIL
    assert origins(lying) == {"store"}
    lying.umount()


@pytest.mark.parametrize("trusted", [False, True])
def test_what_the_fuse_engine_took_is_never_root_s(lying: Site, trusted: bool) -> None:
    """Both engines share the cache, and the image lies there under the same list."""
    lying.mount()
    assert data(lying) == EVIL
    lying.umount()
    trio.run(partial(add_image_anew, lying))  # the store has come to its senses
    lying.engine = "overlay"
    lying.mount(**(trusting(lying) if trusted else {}))
    assert data(lying) == GOOD
    assert origins(lying) == {"store", "trusted" if trusted else "own"}
    lying.umount()


async def add_image_anew(site: Site) -> None:
    await site.store.delete_note("jumpscale__test.image")
    await add_image(site.store, NAME)


@pytest.mark.parametrize("engine", ["overlay"])
def test_the_image_of_a_trusted_store_is_mounted(lying: Site) -> None:
    """Of one that lies, too: that is what trust means, and how we know that it was taken."""
    lying.mount(**trusting(lying, "/elsewhere"))
    assert data(lying) == EVIL
    assert origins(lying) == {"trusted"}
    answer = lying.ask("reload")
    assert (answer["changed"], data(lying)) == (False, EVIL)
    lying.umount()


@pytest.mark.parametrize("engine", ["overlay"])
def test_trust_ends_when_it_is_withdrawn(lying: Site) -> None:
    """What was taken under it stays in the cache, and is not looked at."""
    lying.mount(**trusting(lying))
    assert data(lying) == EVIL
    lying.umount()
    lying.mount()
    assert data(lying) == GOOD
    assert origins(lying) == {"trusted", "own"}
    lying.umount()


@pytest.mark.parametrize("engine", ["overlay"])
def test_trust_in_one_store_is_none_in_another(lying: Site) -> None:
    """The same list, in a second store that is trusted and has no image."""
    second = lying.root / "second"
    run("cp", "-a", lying.root / "store", second)
    (second / "dedupe/md/jumpscale__test.image").unlink()
    both: dict[str, Any] = {
        "store": (str(lying.root / "store"), str(second)),
        "trust_images": (str(second),),
    }
    lying.mount(**both)
    assert data(lying) == GOOD
    assert origins(lying) == {"own"}
    lying.umount()


@pytest.mark.parametrize("engine", ["overlay"])
def test_a_trusted_store_that_the_mount_does_not_use_is_not_asked(lying: Site) -> None:
    second = lying.root / "second"
    run("cp", "-a", lying.root / "store", second)
    lying.mount(store=(str(second),), **trusting(lying))
    assert data(lying) == GOOD
    lying.umount()


@pytest.mark.parametrize("engine", ["overlay"])
def test_a_trusted_image_that_is_damaged_is_not_mounted(lying: Site) -> None:
    """Neither in the store nor, later, in the cache."""
    note = lying.root / "store/dedupe/md/jumpscale__test.image"
    note.chmod(0o644)
    good = note.read_text()
    note.write_text(good.replace('"sha256": "', '"sha256": "00', 1).replace('00",', '",', 1))
    lying.mount(**trusting(lying))
    assert (data(lying), origins(lying)) == (GOOD, {"own"})
    lying.umount()


@pytest.mark.parametrize("engine", ["overlay"])
def test_a_taken_image_that_is_altered_in_the_cache_is_taken_again(lying: Site) -> None:
    lying.expected.append("damaged tree image")
    lying.mount(**trusting(lying))
    lying.umount()
    [image] = (lying.root / "cache/images").glob("*/tree.erofs")
    with image.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\1")
    lying.mount(**trusting(lying))
    assert (data(lying), origins(lying)) == (EVIL, {"trusted"})
    lying.umount()


@pytest.mark.parametrize("engine", ["overlay"])
def test_a_new_daemon_shows_the_image_that_was_shown(lying: Site) -> None:
    """And compiles nothing: what it mounts again is in the cache."""
    lying.expected += ["its daemon had died", "was killed by SIGKILL"]
    lying.mount(**trusting(lying))
    before = lying.pid()
    os.kill(before, signal.SIGKILL)
    assert answers_again(lying) != before
    assert (data(lying), origins(lying)) == (EVIL, {"trusted"})
    lying.umount()


def answers_again(site: Site) -> int:
    """The pid of the daemon, as soon as one answers."""
    end = time.monotonic() + 20
    while True:
        try:
            pid = site.ask()["pid"]
            assert isinstance(pid, int)
            return pid
        except NoAnswer:
            if time.monotonic() > end:
                raise
            os.sched_yield()


def shown(site: Site, origin: str) -> Sequence[ShownList]:
    file = site.root / "store/dedupe/md/jumpscale__test.flist"
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    return [ShownList("list", sha256, file.stat().st_mtime_ns, "/", origin)]


def test_the_last_gate_refuses_what_came_that_far(lying: Site) -> None:
    """Whatever a plan says: before an image is mounted its origin is looked at."""
    lying.mount()
    lying.umount()
    images = ImageCache(lying.root / "cache")
    [folder] = [one for one in images.folder.iterdir() if one.is_dir()]
    foreign = "-".join(folder.name.split("-")[3:])
    assert open_lists(images, shown(lying, OWN)) is None
    opened = open_lists(images, shown(lying, foreign))
    assert opened is not None
    nobody: dict[str, Any] = {}
    for more in (nobody, trusting(lying)):
        with pytest.raises(MountFailed, match="not trusted"):
            trust.check(opened.images, lying.options(**more))
    opened.close()


@pytest.mark.parametrize("engine", ["overlay"])
def test_what_died_with_trust_is_not_mounted_again_without(lying: Site) -> None:
    """Of a plan that names a foreign image, and whose mount trusts nobody, comes no mount."""
    lying.expected += ["cannot be mounted again: ", "not trusted for images"]
    lying.mount(**trusting(lying))
    [supervisor] = lying.children
    for pid in (supervisor, lying.pid()):
        os.kill(pid, signal.SIGKILL)
    lying.children.remove(supervisor)
    os.waitpid(supervisor, 0)
    while is_served(host_of(lying.options()).folder):  # it is about to die
        os.sched_yield()
    record = folder_of(lying.root / "run", str(lying.point)) / "mount.json"
    values = json.loads(record.read_text())
    values["plan"]["options"]["trust_images"] = []
    record.write_text(json.dumps(values))
    dead = find_kernel_mount(str(lying.point))
    lying.mount("test", point=lying.root / "mnt2")
    assert "not trusted for images" in lying.logs()
    assert find_kernel_mount(str(lying.point)) == dead
    assert (lying.root / "mnt2/data").read_bytes() == GOOD
    life.stop(lying.root / "run", lying.point, lazy=True)
    lying.umount(lying.root / "mnt2")


@every_engine
def test_an_image_that_tells_the_truth_shows_the_tree(site: Site, tree: Path) -> None:
    site.push(tree)
    trio.run(add_image, site.store, NAME)
    site.mount(**trusting(site))
    assert origins(site) == {"trusted" if site.engine == "overlay" else "store"}
    for path in tree.rglob("*"):
        there = site.point / path.relative_to(tree)
        assert there.lstat().st_mtime_ns == path.lstat().st_mtime_ns
        if path.is_file():
            assert there.read_bytes() == path.read_bytes()
    site.umount()
