"""One server without accounts for the tests that leave it running."""

from collections.abc import Iterator

import pytest

from tests.store_server import StoreServer


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreServer]:
    with StoreServer(tmp_path_factory.mktemp("served"), "--open") as server:
        yield server
