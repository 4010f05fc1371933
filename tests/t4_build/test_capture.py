"""What leaves a build container: everything of a path, or a plain word why not."""

import io
import os
import shlex
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aysfs import digest as digests
from aysfs.build.capture import capture
from aysfs.build.container import Container
from aysfs.build.engine import Docker, Mounted
from aysfs.errors import BuildFailed, ServerTrouble
from aysfs.flist.entry import Entry, Kind
from aysfs.flist.text import write_flist
from aysfs.names import parse_name
from aysfs.publish.push import push
from aysfs.publish.stream import TarTree
from aysfs.store.memory import MemoryStore
from tests.docker_host import unique

HIDE_TAR = (
    "printf '#!/bin/sh\\necho busybox tar\\n' >/usr/local/bin/tar; chmod +x /usr/local/bin/tar"
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the host that the container sees as /from."""
    return tmp_path_factory.mktemp("from")


@pytest.fixture(scope="module")
def container(docker: Docker, base_image: str, source: Path) -> Iterator[Container]:
    mounts = [Mounted(str(source), "/from")]
    name = f"aysfs-test-{unique()}"
    made = docker.start(base_image, name=name, service="test", mounts=mounts, network="none")
    yield made
    made.remove()


def sh(container: Container, script: str) -> None:
    said: list[bytes] = []
    assert container.run(script, said.append) == 0, said


def entries(container: Container, path: str, notes: list[str] | None = None) -> list[Entry]:
    tree = TarTree(lambda batch: None)
    capture(container, path, tree, ([] if notes is None else notes).append)
    return tree.finish()[1]


def failure(container: Container, path: str) -> BuildFailed:
    with pytest.raises(BuildFailed) as caught:
        entries(container, path)
    return caught.value


async def test_a_path_gives_the_list_of_a_push_of_the_same_tree(
    container: Container, source: Path
) -> None:
    sh(
        container,
        """
        mkdir -p /srv/x/dir && cd /srv/x
        echo a >file; ln file hard; ln -s file symlink; mkfifo fifo; mknod device c 1 3
        chmod 6755 file; chown 1234:2345 dir; printf '' >"$(printf 'n\\377\\n|%%')"
        touch -d '2001-02-03 04:05:06.123456789' file dir
        """,
    )
    # The same tree on this host: the container's own, read through its mount namespace.
    inside = Path(f"/proc/{container.pid()}/root/srv/x")
    memory = MemoryStore()
    await push(inside, parse_name("a__b"), memory, base=b"/srv/x")
    tree = TarTree(lambda batch: None)
    capture(container, "/srv/x/", tree, print)
    assert b"".join(write_flist(*tree.finish())) == memory.published[parse_name("a__b")][0]


def test_extended_attributes_arrive(container: Container) -> None:
    sh(container, "mkdir -p /srv/attributes; : >/srv/attributes/file")
    os.setxattr(f"/proc/{container.pid()}/root/srv/attributes/file", "user.note", b"a\0\xff")
    _, file = entries(container, "/srv/attributes")
    assert file.xattrs == {b"user.note": b"a\0\xff"}


def test_a_single_file(container: Container) -> None:
    sh(container, "mkdir -p /srv/single; echo a >/srv/single/file")
    (one,) = entries(container, "/srv/single/file")
    assert (one.path, one.digest) == (b"/srv/single/file", digests.of(b"a\n"))


@pytest.mark.parametrize("name", ["a b; $(touch /srv/oops) '\"", "-C", "*", "--x\n"])
def test_names_reach_tar_as_they_are(container: Container, name: str) -> None:
    sh(container, f"mkdir -p -- /srv/odd/{shlex.quote(name)}")
    (one,) = entries(container, f"/srv/odd/{name}")
    assert one.path == f"/srv/odd/{name}".encode()
    assert container.output(["test", "-e", "/srv/oops"])[0] == 1


def test_a_symlink_that_is_asked_for_is_followed(container: Container) -> None:
    sh(
        container,
        "mkdir -p /srv/l/real; cd /srv/l; echo a >real/f; ln -s real link; ln -s f real/g",
    )
    found = entries(container, "/srv/l/link")
    assert [(one.path, one.kind) for one in found] == [
        (b"/srv/l/link", Kind.DIRECTORY),
        (b"/srv/l/link/f", Kind.REGULAR),
        (b"/srv/l/link/g", Kind.SYMLINK),
    ]
    (one,) = entries(container, "/srv/l/link/g")
    assert (one.path, one.kind) == (b"/srv/l/link/g", Kind.REGULAR)


def test_what_is_not_there(container: Container) -> None:
    sh(container, "mkdir -p /srv/dangling; ln -sf nowhere /srv/dangling/link")
    assert str(failure(container, "/srv/none")) == "there is no /srv/none in the container"
    assert "there is no /srv/dangling/link" in str(failure(container, "/srv/dangling/link"))


def test_sockets_are_left_out_and_counted(container: Container) -> None:
    sh(container, "mkdir -p /srv/sockets")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"/proc/{container.pid()}/root/srv/sockets/one")
    notes: list[str] = []
    assert len(entries(container, "/srv/sockets", notes)) == 1
    assert notes == ["/srv/sockets: 1 sockets were left out, a tar holds none"]


def test_a_file_that_changes_meanwhile(container: Container) -> None:
    sh(container, "mkdir -p /srv/changing; truncate -s 64M /srv/changing/file")
    log = f"/proc/{container.pid()}/root/srv/changing/file"

    class Growing(TarTree):
        """Lets the file grow when its first bytes have come."""

        def add(self, read: Callable[[int], bytes], top: bytes, root: bytes | None = None) -> None:
            def late(size: int) -> bytes:
                data = read(size)
                with open(log, "ab") as file:
                    file.write(b"x")
                return data

            super().add(late, top, root)

    with pytest.raises(BuildFailed, match="/srv/changing changed while it was uploaded") as caught:
        capture(container, "/srv/changing", Growing(lambda batch: None), print)
    assert "file changed as we read it" in caught.value.output


def test_a_container_that_is_killed_meanwhile(docker: Docker, base_image: str) -> None:
    name = f"aysfs-test-{unique()}"
    container = docker.start(base_image, name=name, service="test", network="none")
    try:
        sh(container, "mkdir /srv/x; truncate -s 64M /srv/x/file")

        class Killing(TarTree):
            """Lets the container die when its first bytes have come."""

            def add(
                self, read: Callable[[int], bytes], top: bytes, root: bytes | None = None
            ) -> None:
                first = read(1 << 20)
                container.remove()
                rest = io.BytesIO(first)
                super().add(lambda size: rest.read(size) or read(size), top, root)

        with pytest.raises((BuildFailed, ServerTrouble)):
            capture(container, "/srv/x", Killing(lambda batch: None), print)
    finally:
        container.remove()


def test_without_gnu_tar_docker_packs_and_the_loss_is_told(docker: Docker, base_image: str) -> None:
    name = f"aysfs-test-{unique()}"
    container = docker.start(base_image, name=name, service="test", network="none")
    try:
        sh(container, HIDE_TAR)
        sh(
            container,
            "mkdir -p /srv/x/real; cd /srv/x; echo a >real/f; ln real/f real/g; ln -s real link;"
            " touch -d '2001-02-03 04:05:06.5Z' real/f",
        )
        for asked in ("/srv/x/real", "/srv/x/link"):
            notes: list[str] = []
            top, first, second = entries(container, asked, notes)
            assert [top.path, first.path] == [asked.encode(), f"{asked}/f".encode()]
            assert second.hardlink == first.path
            assert first.mtime_ns == 981_173_106_000_000_000
            assert notes == [
                f"there is no GNU tar in the image: Docker packs {asked}, without user.* extended"
                " attributes and the nanoseconds of times"
            ]
        assert "there is no /srv/none" in str(failure(container, "/srv/none"))
        assert "only be uploaded with GNU tar" in str(failure(container, "/"))
    finally:
        container.remove()
