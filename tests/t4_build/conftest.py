"""Real parts for the tests of builds: see tests/docker_host.py."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from aysfs.build.container import Container
from aysfs.build.engine import Docker
from tests import docker_host
from tests.docker_host import GitRepository, Sshd


@pytest.fixture(scope="session")
def docker() -> Iterator[Docker]:
    engine = docker_host.docker()
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def base_image(docker: Docker) -> str:
    return docker_host.base_image(docker)


@pytest.fixture
def container(docker: Docker, base_image: str) -> Iterator[Container]:
    """A container of the base image without a network."""
    name = f"aysfs-test-{docker_host.unique()}"
    made = docker.start(base_image, name=name, service="test", network="none")
    yield made
    made.remove()


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with docker_host.registry(tmp_path_factory.mktemp("registry")) as address:
        yield address


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    """A build server: sshd on loopback; the Docker behind it is this host's."""
    with Sshd(tmp_path / "sshd") as server:
        yield server


@pytest.fixture
def repository(tmp_path: Path) -> GitRepository:
    return GitRepository(tmp_path / "srv" / "acme" / "tools")
