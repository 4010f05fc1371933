"""The commands on a store that a web server serves."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from aysfs.digest import EMPTY
from tests.servers import LOGIN, Authority, Nginx
from tests.t5_cli.conftest import Host

SECRET = LOGIN.partition(":")[2].replace(" ", "%20")


@pytest.fixture
def far(host: Host) -> Iterator[Host]:
    """A host whose store was pushed into a folder, and is read from nginx over TLS with a login."""
    tree = host.root / "tree"
    (tree / "bin").mkdir(parents=True)
    (tree / "empty").touch()
    (tree / "link").symlink_to("bin/0")
    for number in range(200):
        (tree / f"bin/{number}").write_bytes(b"%d" % number * number)
    (tree / "middle").write_bytes(os.urandom(300_000))
    (tree / "large").write_bytes(os.urandom(3 << 20))
    host.ok("push", tree, "--name", "far")
    authority = Authority(host.root / "authority")
    server = Nginx(host.root / "nginx", host.root / "store", authority=authority, login=True)
    host.environment["SSL_CERT_FILE"] = str(authority.file)
    host.environment["AYSFS_STORE"] = server.tls_url.replace("://", f"://aladdin:{SECRET}@")
    with server:
        yield host


def contents(below: Path) -> dict[str, str]:
    files = (path for path in below.rglob("*") if path.is_file() and not path.is_symlink())
    return {
        str(path.relative_to(below)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def test_a_service_is_mounted_over_https(far: Host) -> None:
    point = far.root / "mnt"
    point.mkdir()
    far.ok("mount", "far", point)
    try:
        assert contents(point) == contents(far.root / "tree")
        status = far.ok("status", "--json")
        (mount,) = (one for one in json.loads(status) if one["point"] == str(point))
        assert mount["store"].startswith("https://aladdin@127.0.0.1:")
        shown = status + far.ok("status")
    finally:
        far.ok("umount", point)
    logs = b"".join(path.read_bytes() for path in (far.root / "logs").iterdir())
    assert SECRET not in shown + logs.decode()


def test_fetch_and_unpack_read_over_https(far: Host) -> None:
    far.ok("fetch", "far")
    brought = {path.name for path in far.cached()}
    assert brought == {path.name for path in far.blobs()} - {EMPTY.hex()}
    far.ok("cache", "clear")
    far.ok("unpack", "far", far.root / "out")
    assert contents(far.root / "out") == contents(far.root / "tree")


def test_pushing_to_a_web_server_says_where_to_push(far: Host) -> None:
    (far.root / "tree/new").write_bytes(b"new")
    line = far.refused(11, "push", far.root / "tree", "--name", "far")
    assert "takes no writes" in line
    assert SECRET not in line


def test_a_web_server_that_is_gone_is_trouble(host: Host) -> None:
    line = host.refused(5, "ls", "far", "--store", "http://a:geheim@127.0.0.1:1/x")
    assert line.startswith("http://a@127.0.0.1:1/x/dedupe/md/jumpscale__far.flist: no connection")
