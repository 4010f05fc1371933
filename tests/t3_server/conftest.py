"""Servers without accounts for the tests that leave them running."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from aysfs.names import parse_name
from aysfs.publish.push import push
from aysfs.store.directory import DirectoryStore
from tests.store_server import StoreServer


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreServer]:
    with StoreServer(tmp_path_factory.mktemp("served"), "--open") as server:
        yield server


EVIL = b"<script>alert(1)</script>&'\""


@pytest.fixture(scope="session")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreServer]:
    """A store with two services, one with names that nobody should have."""
    folder = tmp_path_factory.mktemp("shown")
    tree = folder / "tree"
    (tree / "bin").mkdir(parents=True)
    (tree / "bin/redis-server").write_bytes(b"server")
    (tree / "link").symlink_to("bin/redis-server")
    evil = os.fsencode(tree) + b"/" + EVIL.replace(b"/", b"|")
    for name in (evil, os.fsencode(tree) + b"/odd\xff\n"):
        Path(os.fsdecode(name)).write_bytes(b"evil")
    (folder / "root").mkdir()

    async def fill() -> None:
        store = DirectoryStore(folder / "root")
        await push(tree, parse_name("redis"), store, base=b"/opt/redis", tag="1.2")
        await store.put_list(parse_name("broken"), [b"no list at all\n"])

    trio.run(fill)
    with StoreServer(folder) as server:
        yield server
