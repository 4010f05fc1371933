"""One host for all of a process: what is built by one test is there for the next.

A module for each template, since a host builds a service once at a time.
The rules of tests/conftest.py hold here too; they are loaded by name (``-p tests.conftest``).
"""

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from aysfs.build.engine import Docker

ROOT = Path(__file__).resolve().parent.parent
DEBIAN = "debian:12"  # what the shipped templates build in
MAIN = "from aysfs.cli.main import main; main()"


@dataclass
class Site:
    """A host's folders below ``root``."""

    root: Path

    @property
    def environment(self) -> dict[str, str]:
        names = ("STORE", "CACHE", "RUNTIME", "LOGS", "SERVICES", "BUILDS")
        return {
            **os.environ,
            **{f"AYSFS_{name}": str(self.root / name.lower()) for name in names},
            "AYSFS_CONFIG": os.devnull,
            "AYSFS_KEEP_FREE": "0",
        }

    def aysfs(self, *arguments: object, **environment: str) -> str:
        """A command that must succeed; what it printed."""
        done = subprocess.run(
            [sys.executable, "-P", "-c", MAIN, *map(str, arguments)],
            cwd=self.root,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-5000:]
        return done.stdout

    def run(self, *command: object, **environment: str) -> str:
        """Any program, with nothing of the test's environment but a PATH."""
        words: Sequence[str] = [str(word) for word in command]
        done = subprocess.run(
            words,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def context(dockerfile: str) -> io.BytesIO:
    """What an image of one Dockerfile is built from."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        item = tarfile.TarInfo("Dockerfile")
        item.size = len(dockerfile)
        tar.addfile(item, io.BytesIO(dockerfile.encode()))
    out.seek(0)
    return out


@pytest.fixture(scope="session")
def docker() -> Iterator[Docker]:
    """This host's Docker, with the image that the shipped templates name."""
    subprocess.run([ROOT / "scripts/docker.sh"], check=True)
    subprocess.run([ROOT / "scripts/base_image.sh", DEBIAN], check=True)
    engine = Docker()
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory, docker: Docker) -> Site:
    return Site(tmp_path_factory.mktemp("site"))


@pytest.fixture
def point(tmp_path: Path, site: Site) -> Iterator[Path]:
    """A mount point that is not the path the service was built for."""
    place = tmp_path / "somewhere else"
    place.mkdir()
    yield place
    if os.path.ismount(place):
        site.aysfs("umount", place)
