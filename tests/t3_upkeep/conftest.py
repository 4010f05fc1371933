"""One SSH server for all tests of the stores that leave it running."""

from collections.abc import Iterator

import pytest

from tests.servers import Sshd


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    server = Sshd(tmp_path_factory.mktemp("ssh") / "sshd").start()
    yield server
    server.stop()
