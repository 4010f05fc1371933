"""One SSH server for all tests of the stores that leave it running, and a tree to push."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from aysfs.publish import send
from tests.servers import Sshd


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    server = Sshd(tmp_path_factory.mktemp("ssh") / "sshd").start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four files of one byte."""
    top = tmp_path_factory.mktemp("tree")
    for number in range(4):
        (top / f"f{number}").write_bytes(b"%d" % number)
    return top


@pytest.fixture(scope="module")
def small_batches() -> Iterator[None]:
    """Two blobs at a time are sent."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(send, "BATCH_FILES", 2)
        yield
