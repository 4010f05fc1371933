"""Verification in a real container: every way in which a tree can differ is found and named."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from aysfs.build.engine import Docker
from aysfs.build.log import BuildLog
from aysfs.build.recipe import VerifySpec
from aysfs.build.verify import Mount, Verified, verify
from aysfs.build.view import Coreutils, Entered, View
from aysfs.errors import VerifyFailed
from aysfs.load import load_tree
from aysfs.names import parse_name
from aysfs.publish.push import push
from aysfs.store.memory import MemoryStore
from tests.docker_host import unique

VIEWS: dict[str, Callable[..., View]] = {"coreutils": Coreutils, "entered": Entered}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    (top / "bin").mkdir(parents=True)
    subprocess.run(["cp", "/bin/true", top / "bin/true"], check=True)
    (top / "bin" / "setuid").write_bytes(b"#!/bin/sh\n")
    (top / "bin" / "setuid").chmod(0o4755)
    (top / "link").symlink_to("bin/true")
    (top / "odd\nname |%").write_bytes(b"odd")
    (top / "empty").touch()
    os.mkfifo(top / "fifo")
    os.link(top / "empty", top / "hard")
    return top


def mount_of(tree: Path) -> Mount:
    """The tree as it was pushed; a plain directory stands where the mount would be."""
    name = parse_name(f"test__verify-{unique()}")
    store = MemoryStore()
    trio.run(lambda: push(tree, name, store, base=b"/opt/tree"))
    loaded = trio.run(lambda: load_tree(store, [name]))
    return Mount(name, loaded.tree, tree)


def check(
    docker: Docker, image: str, mount: Mount, tmp_path: Path, spec: VerifySpec | None = None
) -> Verified:
    with BuildLog(tmp_path / "x.log", lambda _: None) as log:
        return verify(docker, image, mount, spec, log)


@pytest.fixture(params=VIEWS)
def view(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every case by either way of looking."""
    monkeypatch.setattr("aysfs.build.verify.choose_view", VIEWS[request.param])


@pytest.mark.usefixtures("view")
def test_a_tree_as_listed_is_good(
    docker: Docker, base_image: str, tree: Path, tmp_path: Path
) -> None:
    verified = check(docker, base_image, mount_of(tree), tmp_path)
    assert (verified.entries, verified.files, verified.libraries) == (9, 5, 1)


def flip(tree: Path) -> None:
    data = bytearray((tree / "bin/true").read_bytes())
    data[-1] ^= 1
    (tree / "bin/true").write_bytes(data)


def relink(tree: Path) -> None:
    (tree / "link").unlink()
    (tree / "link").symlink_to("nowhere")


def retype(tree: Path) -> None:
    (tree / "fifo").unlink()
    (tree / "fifo").touch()


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a wrong byte": (flip, "/opt/tree/bin/true: md5"),
    "another size": (lambda t: (t / "bin/setuid").write_bytes(b"#!"), "2 bytes instead of 10"),
    "a missing file": (lambda t: (t / "fifo").unlink(), "/opt/tree/fifo: missing"),
    "another mode": (lambda t: (t / "bin/setuid").chmod(0o755), "mode 755 instead of 4755"),
    "another owner": (lambda t: os.chown(t / "empty", 5, 6), "owner 5:6 instead of 0:0"),
    "another target": (relink, "/opt/tree/link: points elsewhere than to bin/true"),
    "another type": (retype, "/opt/tree/fifo: is of another type"),
}


@pytest.mark.usefixtures("view")
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_difference_is_named(
    docker: Docker, base_image: str, tree: Path, tmp_path: Path, damage: str
) -> None:
    mount = mount_of(tree)
    change, reason = DAMAGES[damage]
    change(tree)
    with pytest.raises(VerifyFailed) as caught:
        check(docker, base_image, mount, tmp_path)
    assert any(reason in finding for finding in caught.value.findings)
    assert docker.image_id(base_image)


def test_a_missing_library_is_named(
    docker: Docker, base_image: str, tree: Path, tmp_path: Path
) -> None:
    source = "void needed(void); int main(void) { needed(); }"
    (tmp_path / "n.c").write_text("void needed(void) {}")
    (tmp_path / "m.c").write_text(source)
    lib, main = tmp_path / "libneeded-here.so", tree / "bin" / "main"
    subprocess.run(["cc", "-shared", "-o", lib, tmp_path / "n.c"], check=True)
    subprocess.run(
        ["cc", "-o", main, tmp_path / "m.c", f"-L{tmp_path}", "-lneeded-here"], check=True
    )
    with pytest.raises(VerifyFailed) as caught:
        check(docker, base_image, mount_of(tree), tmp_path)
    assert caught.value.findings == (
        "/opt/tree/bin/main: needs libneeded-here.so, which is nowhere",
    )


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (VerifySpec("echo a last word; exit 7"), "ended with 7: a last word"),
        (VerifySpec("echo PANG", "PONG"), "did not say `PONG`"),
    ],
)
def test_the_own_check_counts(
    docker: Docker, base_image: str, tree: Path, tmp_path: Path, spec: VerifySpec, reason: str
) -> None:
    with pytest.raises(VerifyFailed) as caught:
        check(docker, base_image, mount_of(tree), tmp_path, spec)
    assert reason in caught.value.findings[0]


def test_who_asked_is_told_when_the_own_check_starts(
    docker: Docker, base_image: str, tree: Path, tmp_path: Path
) -> None:
    told: list[str] = []
    mount = mount_of(tree)._replace(starting=lambda: told.append("starting"))
    check(docker, base_image, mount, tmp_path)
    assert told == []
    check(docker, base_image, mount, tmp_path, VerifySpec("true"))
    assert told == ["starting"]
    flip(tree)
    with pytest.raises(VerifyFailed):
        check(docker, base_image, mount, tmp_path, VerifySpec("true"))
    assert told == ["starting"]


def test_a_good_check_is_told(docker: Docker, base_image: str, tree: Path, tmp_path: Path) -> None:
    spec = VerifySpec("/opt/tree/bin/true && echo PONG", "PONG")
    assert check(docker, base_image, mount_of(tree), tmp_path, spec).check == spec.cmd
