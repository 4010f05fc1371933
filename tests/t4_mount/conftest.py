"""A store, a cache and real mounts, each taken down and looked over afterwards."""

import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio

from aysfs.errors import AysfsError
from aysfs.kernel.table import find_kernel_mount, kernel_mounts
from aysfs.mount import life
from aysfs.mount.client import Answer, ask
from aysfs.mount.options import MountOptions
from aysfs.mount.overlay import life as overlay
from aysfs.mount.runtime import folder_of, read_record, records
from aysfs.names import parse_name
from aysfs.publish.push import push
from aysfs.store.directory import DirectoryStore
from tests.conftest import SUSPICIOUS

every_engine = pytest.mark.parametrize("engine", ["fuse", "overlay"])
"""What every engine must pass."""


@dataclass
class Site:
    """One host's worth of folders. ``expected`` are words that the logs may hold."""

    root: Path
    engine: str = "fuse"
    expected: list[str] = field(default_factory=list)
    children: list[int] = field(default_factory=list)

    @property
    def store(self) -> DirectoryStore:
        return DirectoryStore(self.root / "store", create=True)

    @property
    def point(self) -> Path:
        return self.root / "mnt"

    def push(self, directory: Path, name: str = "test", base: str = "/opt/test") -> None:
        trio.run(
            lambda: push(directory, parse_name(name), self.store, base=os.fsencode(base)),
        )

    def options(self, *services: str, point: Path | None = None, **more: object) -> MountOptions:
        where = str(point or self.point)
        names = tuple(
            one if one.startswith("/") else str(parse_name(one)) for one in services or ("test",)
        )
        values: dict[str, object] = {
            "services": names,
            "point": where,
            "store": (str(self.root / "store"),),
            "cache": str(self.root / "cache"),
            "runtime": str(self.root / "run"),
            "log": str(self.root / f"{Path(where).name}.log"),
            "keep_free": 0,
            "deadline": 20.0,
            "engine": self.engine,
        }
        return MountOptions(**(values | more))  # type: ignore[arg-type]  # as the test says

    def mount(self, *services: str, point: Path | None = None, **more: object) -> int:
        """Mount; the process that was started for it or, where none was, that serves it."""
        options = self.options(*services, point=point, **more)
        Path(options.point).mkdir(exist_ok=True)
        life.check_point(Path(options.point))
        if options.engine == "fuse":
            self.children.append(life.start(options))
        elif (daemon := self._mount_overlay(options)) is not None:
            self.children.append(daemon)
        else:
            return self.pid(Path(options.point))
        return self.children[-1]

    def _mount_overlay(self, options: MountOptions) -> int | None:
        try:
            return overlay.mount(options)
        except AysfsError:
            if not self.children:  # the daemon that was started for it leaves
                _, status = os.wait()
                assert os.waitstatus_to_exitcode(status) == 0
            raise

    def umount(self, point: Path | None = None) -> None:
        """Unmount as an assertion: no mount, no daemon, no folder, no tmp file."""
        where = point or self.point
        pid = self.pid(where)
        life.stop(self.root / "run", where)
        assert find_kernel_mount(str(where)) is None
        assert not folder_of(self.root / "run", str(where)).exists()
        if self.engine == "overlay" and not records(self.root / "run"):
            self.daemon_has_left()
        elif pid in self.children:
            self._ended(pid)

    def daemon_has_left(self) -> None:
        """The daemon of the overlay engine left after its last mount, and nothing of it.

        It may take a while: a mount namespace that another test made meanwhile has our mounts.
        """
        for supervisor in list(self.children):
            self._ended(supervisor)
        end = time.monotonic() + 90  # of a daemon that a command started, and not we
        while os.listdir(self.root / "run") and time.monotonic() < end:
            select.select([], [], [], 0.02)
        assert os.listdir(self.root / "run") == []
        assert not [one for one in kernel_mounts() if one.point.startswith(f"{self.root}/run")]

    def _ended(self, child: int) -> None:
        self.children.remove(child)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0

    def pid(self, point: Path | None = None) -> int:
        record = read_record(folder_of(self.root / "run", str(point or self.point)))
        assert record is not None
        return record.pid

    def ask(self, operation: str = "status", point: Path | None = None) -> Answer:
        return ask(folder_of(self.root / "run", str(point or self.point)) / "control", operation)

    def blob(self, digest_hex: str) -> Path:
        return self.root / "store" / "dedupe" / digest_hex[0] / digest_hex[1] / digest_hex

    def logs(self) -> str:
        return "".join(log.read_text() for log in sorted(self.root.glob("*.log")))


@pytest.fixture
def engine() -> str:
    """The engine of a test's mounts, unless ``every_engine`` marks the test."""
    return "fuse"


@pytest.fixture
def site(tmp_path: Path, engine: str) -> Iterator[Site]:
    site = Site(tmp_path, engine)
    yield site
    for point in [path for path in tmp_path.iterdir() if path.name.startswith("mnt")]:
        if find_kernel_mount(str(point)) is not None:
            life.stop(tmp_path / "run", point, lazy=True)
    tmp = tmp_path / "cache" / "tmp"
    assert not tmp.exists() or os.listdir(tmp) == []
    lines = [line for line in site.logs().splitlines() if SUSPICIOUS.search(line)]
    unexpected = [line for line in lines if not any(word in line for word in site.expected)]
    assert not unexpected


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A directory with a little of everything that any user may make."""
    top = tmp_path / "tree"
    (top / "bin").mkdir(parents=True)
    (top / "bin" / "hello").write_text("#!/bin/sh\necho hello\n")
    (top / "bin" / "hello").chmod(0o755)
    (top / "data").write_bytes(bytes(range(256)) * 40)
    (top / "empty").touch()
    (top / "empty-dir").mkdir()
    (top / "big").write_bytes(os.urandom(1 << 20) * 3)
    (top / "link").symlink_to("bin/hello")
    (top / "dangling").symlink_to("/nowhere/at/all")
    os.link(top / "data", top / "hard")
    with open(os.fsencode(top) + b"/odd | % \n \xff name", "wb") as file:
        file.write(b"odd")
    return top


def run(*command: object) -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in command]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)


@contextmanager
def ended(process: "subprocess.Popen[Any]") -> Iterator[None]:
    """Kill a process at the end of the block: one that runs for ever must not hide a failure."""
    try:
        yield
    finally:
        process.kill()


PYTHON = sys.executable
