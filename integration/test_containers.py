"""A tree that a container is bound to, while its mount goes on without it."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from aysfs.build.container import Container
from aysfs.build.engine import Docker, Mounted
from integration.conftest import DEBIAN, Site


@pytest.fixture
def container(site: Site, docker: Docker, point: Path, tmp_path: Path) -> Iterator[Container]:
    """A container with a tree of which nothing is cached; the host shows a newer one by now."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("first", "second"):
        (tree / name).write_bytes(os.urandom(10_000))
        (tree / name).chmod(0o644)
    site.aysfs("push", tree, "--name", "held")
    site.aysfs("mount", "held", point, "--engine", "overlay")
    bound = [Mounted(str(point), "/held")]
    running = docker.start(DEBIAN, name="aysfs-test-held", service="test", mounts=bound)
    try:
        (tree / "second").unlink()
        (tree / "third").write_text("third")
        site.aysfs("push", tree, "--name", "held")
        yield running
    finally:
        running.remove()


def status(site: Site, point: Path) -> dict[str, object]:
    answers = json.loads(site.aysfs("status", "--json"))
    (mine,) = (one for one in answers if one["point"] == str(point))
    assert isinstance(mine, dict)
    return mine


def test_a_container_keeps_its_tree_through_a_reload(
    site: Site, point: Path, container: Container, tmp_path: Path
) -> None:
    site.aysfs("reload", point)
    assert sorted(os.listdir(point)) == ["first", "third"]
    code, said = container.output(["sh", "-c", "cd /held && ls && wc -c <second"])
    assert (code, said.split()) == (0, [b"first", b"second", b"10000"])
    held = status(site, point)["held"]
    assert isinstance(held, list)
    assert {one["served"] for one in held} == {True}
    container.remove()
    assert status(site, point)["held"] == []


def test_a_container_keeps_what_is_cached_when_the_daemon_dies(
    site: Site, point: Path, container: Container
) -> None:
    assert container.output(["sh", "-c", "wc -c </held/first"])[0] == 0
    os.kill(int(str(status(site, point)["pid"])), 9)
    code, said = container.output(["sh", "-c", "wc -c </held/first"])
    assert (code, said.strip()) == (0, b"10000")
    code, said = container.output(["sh", "-c", "wc -c </held/second 2>&1"])
    assert code != 0
    assert b"No such file" not in said
    site.aysfs("status")  # has a daemon again at the latest now
    assert (point / "second").stat().st_size == len((point / "second").read_bytes()) == 10_000
    held = status(site, point)["held"]
    assert isinstance(held, list)
    assert {one["served"] for one in held} == {False}
