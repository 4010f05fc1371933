"""The real command in its own process, with every folder of a host below one directory."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

MAIN = "from aysfs.cli.main import main; main()"

# What work says that takes longer than a few seconds, which it does on a busy machine.
PROGRESS = re.compile(r"^(push|fetch|unpack|verify): (\w+ )?\d.*\n", re.MULTILINE)


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    raw: bytes
    err: str

    @property
    def out(self) -> str:
        return self.raw.decode()


@dataclass
class Host:
    """A host's folders below ``root``, where commands run. ``environment`` is theirs."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)

    def run(self, *arguments: str | bytes | Path, **environment: str) -> Done:
        """Run ``aysfs``; keywords are environment variables. Progress is not shown."""
        done = subprocess.run(
            [sys.executable, "-P", "-c", MAIN, *arguments],
            cwd=self.root,
            env={**self.environment, **environment},
            capture_output=True,
            check=False,
            timeout=100,
        )
        return Done(done.returncode, done.stdout, PROGRESS.sub("", done.stderr.decode()))

    def ok(self, *arguments: str | bytes | Path, **environment: str) -> str:
        """Run what must succeed and say nothing on stderr; its output."""
        done = self.run(*arguments, **environment)
        assert (done.code, done.err) == (0, "")
        return done.out

    def refused(self, code: int, *arguments: str | bytes | Path, **environment: str) -> str:
        """Run what must fail with one line and at most a hint; the line."""
        done = self.run(*arguments, **environment)
        assert "Traceback" not in done.err
        line, *hint = done.err.splitlines()
        assert line.startswith("aysfs: ")
        assert "internal error" not in line
        assert len(hint) <= 1
        assert all(one.startswith("  ") for one in hint)
        assert done.code == code, done.err
        assert done.raw == b""
        return line.removeprefix("aysfs: ")

    def blobs(self) -> list[Path]:
        """The blobs of the store."""
        return sorted((self.root / "store" / "dedupe").glob("?/?/*"))

    def cached(self) -> list[Path]:
        """The objects of the cache."""
        return sorted((self.root / "cache" / "objects").glob("?/?/*"))


def command_lines() -> bytes:
    """Those of every process of this host."""
    found = b""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found += path.read_bytes()
    return found


def host_below(root: Path) -> Host:
    folders = {"STORE": "store", "CACHE": "cache", "RUNTIME": "run", "LOGS": "logs"}
    folders |= {"SERVICES": "services", "BUILDS": "builds"}
    environment = {f"AYSFS_{name}": str(root / folder) for name, folder in folders.items()}
    environment["AYSFS_CONFIG"] = str(root / "config.toml")
    environment["AYSFS_KEEP_FREE"] = "0"
    environment["HOME"] = str(root)
    environment["PATH"] = os.environ["PATH"]
    (root / "config.toml").touch()
    return Host(root, environment)


def make_tree(tree: Path) -> None:
    """What ``jumpscale__test`` is made of."""
    (tree / "bin").mkdir(parents=True)
    (tree / "bin" / "hello").write_text("#!/bin/sh\necho hello\n")
    (tree / "bin" / "hello").chmod(0o755)
    (tree / "data").write_bytes(bytes(range(256)))
    os.link(tree / "data", tree / "hard")
    (tree / "empty").touch()
    (tree / "link").symlink_to("bin/hello")
    (tree / "dangling").symlink_to("/nowhere")
    Path(os.fsdecode(os.fsencode(tree) + b"/odd\xff")).write_bytes(b"odd")
    for path in (tree / "bin", tree):
        path.chmod(0o755)
    for path in (*tree.rglob("*"), tree):
        os.utime(path, ns=(0, 1_400_000_000_123_456_789), follow_symlinks=False)


@pytest.fixture(scope="session")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that holds ``jumpscale__test``, for copies of it: a push is half a second."""
    host = host_below(tmp_path_factory.mktemp("pushed"))
    make_tree(host.root / "tree")
    host.ok("push", "tree", "--name", "test", "--base", "/opt/test")
    return host.root / "store"


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return host_below(tmp_path)


@pytest.fixture
def service(host: Host, pushed: Path) -> Host:
    """A host whose store holds ``jumpscale__test`` with base /opt/test, of its ``tree``."""
    make_tree(host.root / "tree")
    shutil.copytree(pushed, host.root / "store", symlinks=True)
    return host
