"""One SSH, one web and one S3 server for all tests of the stores that leave them running."""

import os
from collections.abc import Iterator
from pathlib import Path

import obstore
import pytest
from obstore.store import MemoryStore

from tests.conftest import same_descriptors
from tests.servers import Authority, Nginx, Sshd
from tests.store_server import StoreServer
from tests.swift import Swift


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    server = Sshd(tmp_path_factory.mktemp("ssh") / "sshd").start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def trusted(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """The authority, trusted by every store that the test opens."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    return authority


@pytest.fixture(scope="session")
def nginx(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Nginx]:
    """Serves ``folder/served``: every test has a store of its own below that."""
    folder = tmp_path_factory.mktemp("web")
    (folder / "served").mkdir()
    server = Nginx(folder / "nginx", folder / "served", authority=authority).start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def obstore_runtime() -> None:
    """obstore's threads have descriptors of their own from its first call on."""
    obstore.list(MemoryStore()).collect()


@pytest.fixture(scope="session")
def swift(tmp_path_factory: pytest.TempPathFactory, obstore_runtime: None) -> Iterator[Swift]:
    server = Swift(tmp_path_factory.mktemp("swift")).start()
    yield server
    server.stop()


@pytest.fixture
def s3(swift: Swift, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Swift:
    """The S3 server, whose key every store has that the test opens."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in swift.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HOME", str(tmp_path))  # with no files of the AWS tools
    return swift


@pytest.fixture(scope="session")
def store_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreServer]:
    """`aysfs store serve`: every test has a namespace of its own."""
    with StoreServer(tmp_path_factory.mktemp("served"), "--open") as server:
        yield server


@pytest.fixture
def no_connections(swift: Swift) -> Iterator[None]:
    """obstore closes connections in a thread of its own: in time for the next test."""
    with same_descriptors():
        yield
