"""The commands on a store that is on a host with sshd and nothing else."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import Sshd
from tests.t5_cli.conftest import Host

SECRET = "geheim"  # never needed: the key is enough, and never to be seen


@pytest.fixture
def far(host: Host) -> Iterator[Host]:
    """A host whose store is reached over SSH, with a password in the address."""
    server = Sshd(host.root / "sshd").start()
    server.make_home(host.root)
    url = server.url(host.root / "far").replace("root@", f"root:{SECRET}@")
    host.environment["AYSFS_STORE"] = url
    yield host
    server.stop()


def make_tree(host: Host) -> Path:
    tree = host.root / "tree"
    (tree / "bin").mkdir(parents=True)
    (tree / "empty").touch()
    (tree / "link").symlink_to("bin/0")
    for number in range(200):
        (tree / f"bin/{number}").write_bytes(b"%d" % number * number)
    (tree / "large").write_bytes(os.urandom(3 << 20))
    return tree


def contents(below: Path) -> dict[str, str]:
    files = (path for path in below.rglob("*") if path.is_file() and not path.is_symlink())
    return {
        str(path.relative_to(below)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def test_what_was_pushed_over_ssh_is_mounted_from_there(far: Host) -> None:
    tree = make_tree(far)
    assert "202 files" in far.ok("push", tree, "--name", "far")
    assert "0 blobs" in far.ok("push", tree, "--name", "far")
    point = far.root / "mnt"
    point.mkdir()
    far.ok("mount", "far", point)
    try:
        assert contents(point) == contents(tree)
        status = far.ok("status", "--json")
        (mount,) = (one for one in json.loads(status) if one["point"] == str(point))
        assert mount["store"].startswith("ssh://root@127.0.0.1:")
        shown = status + far.ok("status")
    finally:
        far.ok("umount", point)
    logs = b"".join(path.read_bytes() for path in (far.root / "logs").iterdir())
    assert SECRET not in shown + logs.decode()


def test_unpack_and_fetch_read_over_ssh(far: Host) -> None:
    tree = make_tree(far)
    far.ok("push", tree, "--name", "far")
    far.ok("fetch", "far")
    far.ok("cache", "clear")
    far.ok("unpack", "far", far.root / "out")
    assert contents(far.root / "out") == contents(tree)


def test_a_password_is_in_no_message(far: Host) -> None:
    for store in ("ssh://a:geheim@127.0.0.1:1/x", "ssh://a:geheim@host:port/x", "ftp://a:geheim@h/x",
                  "file://a:geheim@h/x"):  # fmt: skip
        done = far.run("ls", "far", "--store", store)
        assert done.code in (5, 11)
        assert SECRET not in done.err + done.out
