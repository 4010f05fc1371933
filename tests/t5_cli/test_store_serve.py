"""The commands on a store that `aysfs store serve` serves."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.store_server import StoreServer
from tests.t5_cli.conftest import MAIN, Host

WORD = "pw"


@pytest.fixture
def served(host: Host) -> Iterator[StoreServer]:
    """A server with one account that may all, made with the commands."""
    hashed = passwd(host, f"{WORD}\n")
    accounts = host.root / "accounts.toml"
    accounts.write_text(
        f'[[accounts]]\nlogin = "login"\npassword = "{hashed}"\n'
        "read = true\nwrite = true\ndelete = true\n"
    )
    with StoreServer(host.root / "far", "--accounts", str(accounts)) as server:
        host.environment["AYSFS_STORE"] = server.url.replace("://", f"://login:{WORD}@")
        yield server


def passwd(host: Host, typed: str) -> str:
    done = subprocess.run(
        [sys.executable, "-P", "-c", MAIN, "store", "passwd"],
        input=typed,
        capture_output=True,
        text=True,
        check=True,
        env=host.environment,
    )
    return done.stdout.strip()


def make_tree(root: Path) -> dict[str, bytes]:
    (root / "bin").mkdir(parents=True)
    (root / "empty").touch()
    for number in range(300):
        (root / f"bin/{number}").write_bytes(b"%d" % number * number)
    (root / "large").write_bytes(os.urandom(3 << 20))
    return contents(root)


def contents(below: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(below)): path.read_bytes()
        for path in below.rglob("*")
        if path.is_file()
    }


def test_a_service_is_pushed_over_http_and_mounted_again(host: Host, served: StoreServer) -> None:
    tree = make_tree(host.root / "tree")
    url = host.environment.pop("AYSFS_STORE")
    host.ok("push", host.root / "tree", "--name", "far", "--tag", "1", "--store", url)
    point = host.root / "mnt"
    point.mkdir()
    host.ok("mount", "far@1", point, "--store", url)
    try:
        assert contents(point) == tree
    finally:
        host.ok("umount", point)
    assert "0 blobs" in host.ok("push", host.root / "tree", "--name", "far", "--store", url)
    assert WORD not in served.log.read_text()


def test_a_store_is_looked_after_over_http(host: Host, served: StoreServer) -> None:
    host.ok("store", "init")
    make_tree(host.root / "tree")
    host.ok("push", host.root / "tree", "--name", "far")
    host.ok("store", "tag", "far", "1")
    host.ok("store", "rm", "far")
    assert "jumpscale__far@1" in host.ok("store", "ls")
    assert "are right to the byte" in host.ok("store", "check", "--deep")
    copy = host.root / "copy"
    copy.mkdir()
    host.ok("store", "copy", "--all", "--to", copy)
    host.ok("store", "untag", "far@1")
    gone = host.ok("store", "gc", "--grace", "0", "--settle", "0.1", "--delete")
    assert gone.startswith("deleted 301 blobs ")
    host.ok("store", "copy", "--all", "--to", host.environment["AYSFS_STORE"], "--store", copy)
    assert "blobs        301," in host.ok("store", "info")


def test_packs_are_made_over_http(host: Host, served: StoreServer) -> None:
    host.ok("store", "init")
    make_tree(host.root / "tree")
    told = host.ok("push", host.root / "tree", "--name", "far", "--packs").splitlines()[1]
    assert "301 blobs (" in told
    assert "were new" in told
    assert "; 0 packs (0 B) were new" in host.ok("store", "pack", "far")
    assert "; 0 packs (" not in host.ok("store", "pack", "far", "--anew")
    assert "are right to the byte" in host.ok("store", "check", "--deep")
    host.ok("store", "rm", "far")
    assert "packs        of 0 lists, 0 B" in host.ok("store", "info").splitlines()


def test_a_wrong_password_is_refused_without_being_shown(host: Host, served: StoreServer) -> None:
    make_tree(host.root / "tree")
    url = served.url.replace("://", "://login:geheim@")
    line = host.refused(5, "push", host.root / "tree", "--name", "far", "--store", url)
    assert "the server wants a login, or another one (HTTP 401)" in line
    assert "geheim" not in line


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--listen", "nowhere"], 11, "no address to listen at"),
        (["--listen", "192.0.2.1:0"], 11, "cannot listen at"),
        (["--tls-cert", "a"], 2, "belong together"),
        (["--tls-cert", "a", "--tls-key", "b"], 11, "a, b: No such file"),
        (["--open", "--accounts", "a"], 2, "exclude each other"),
        (["--accounts", "a"], 11, "a: No such file"),
        (["--source", "gopher://x"], 11, "no store can be opened"),
        (["--max-blob", "much"], 11, "must be a size"),
    ],
)
def test_what_cannot_be_served_is_refused(
    host: Host, options: list[str], code: int, words: str
) -> None:
    done = host.run("store", "serve", host.root, "--listen", "127.0.0.1:0", *options)
    assert (done.code, done.raw) == (code, b"")
    assert words in done.err
    assert "Traceback" not in done.err


def test_a_root_that_is_not_there_is_refused(host: Host) -> None:
    line = host.refused(5, "store", "serve", host.root / "none")
    assert line == f"{host.root}/none: No such file or directory"


def test_an_empty_password_has_no_hash(host: Host) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        passwd(host, "\n")
    assert caught.value.returncode == 11
