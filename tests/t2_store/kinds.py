"""Every kind of store that keeps the same promises, with a real server where it has one."""

import contextlib
import itertools
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

import pytest

from aysfs import digest as digests
from aysfs.digest import Digest
from aysfs.errors import BlobMissing
from aysfs.names import ServiceName, parse_name
from aysfs.store.chain import Chain
from aysfs.store.directory import DirectoryStore
from aysfs.store.faults import Counts, Passes
from aysfs.store.http import HttpStore
from aysfs.store.http_address import parse_http_address
from aysfs.store.memory import MemoryStore
from aysfs.store.objects import ObjectsStore
from aysfs.store.open_to_write import open_store
from aysfs.store.protocol import BlobSource, Held, Sink, Store
from aysfs.store.ssh_address import SshCredentials
from tests.servers import Nginx, Sshd
from tests.store_server import StoreServer
from tests.swift import Swift

BIG = bytes(range(256)) * 12_345  # three chunks of a directory store, and a rest
ABSENT = digests.of(b"never put anywhere")
NAME = parse_name("jumpscale__base")
NUMBERS = itertools.count()


class OldLayout(Passes):
    """A directory store whose every blob is moved to where the older layout has it."""

    def __init__(self, root: Path) -> None:
        super().__init__(DirectoryStore(root))
        self._namespace = root / "dedupe"

    async def get(self, digest: Digest, size: int, sink: Sink) -> None:
        self._move()
        await super().get(digest, size, sink)

    async def get_range(
        self, digest: Digest, size: int, start: int, length: int, sink: Sink
    ) -> None:
        self._move()
        await super().get_range(digest, size, start, length, sink)

    def _move(self) -> None:
        for old in [path for path in self._namespace.glob("?") if path.is_dir()]:
            shutil.copytree(old, self._namespace / "files" / old.name, dirs_exist_ok=True)
            shutil.rmtree(old)


def directory(root: Path) -> Path:
    (root / "dedupe").mkdir(parents=True)
    return root


def far(root: Path) -> Store:
    """A directory store as it is on a network's file system."""
    store = DirectoryStore(directory(root))
    store._local = False
    return store


MAKERS: dict[str, Callable[[Path], Store]] = {
    "memory": lambda _: MemoryStore(),
    "directory": lambda path: DirectoryStore(directory(path)),
    "far-directory": lambda path: far(path),
    "old-layout": lambda path: OldLayout(directory(path)),
    "passes": lambda path: Passes(DirectoryStore(directory(path))),
    "counts": lambda _: Counts(MemoryStore()),
    "chain": lambda path: Chain([MemoryStore(), DirectoryStore(directory(path))]),
}


def over_ssh(root: Path, sshd: Sshd) -> Store:
    credentials = SshCredentials(sshd.key, sshd.known_hosts)
    return open_store(sshd.url(directory(root)), credentials=credentials)


class Served(Passes):
    """Read over HTTP from nginx; written, as it has to be, into the folder that is served."""

    def __init__(self, root: Path, url: str) -> None:
        super().__init__(HttpStore(parse_http_address(url), connections=1))
        self._folder = DirectoryStore(directory(root))

    async def put(self, digest: Digest, size: int, source: BinaryIO) -> None:
        await self._folder.put(digest, size, source)

    async def put_many(self, sources: Sequence[BlobSource]) -> None:
        await self._folder.put_many(sources)

    async def put_list(self, name: ServiceName, chunks: Iterable[bytes]) -> None:
        await self._folder.put_list(name, chunks)

    async def write_note(self, name: str, data: bytes) -> None:
        await self._folder.write_note(name, data)

    async def delete_note(self, name: str) -> None:
        await self._folder.delete_note(name)

    async def delete_list(self, name: ServiceName) -> None:
        await self._folder.delete_list(name)

    async def delete(self, digests: Sequence[Digest]) -> None:
        await self._folder.delete(digests)


def over_http(nginx: Nginx, url: str) -> Store:
    root = Path(tempfile.mkdtemp(dir=nginx.root))
    root.chmod(0o755)
    return Served(root, f"{url}/{root.name}")


def over_s3(swift: Swift, *, signed: bool) -> Store:
    """A bucket of its own for every test, and a prefix in it. Unsigned: as without keys at hand."""
    store = open_store(f"{swift.bucket(f'store-{next(NUMBERS)}')}/some/where")
    assert isinstance(store, ObjectsStore)
    assert store._signed is not None
    if not signed:
        store._signed = None
    return store


def make(kind: str, root: Path, request: pytest.FixtureRequest) -> Store:
    if kind == "ssh":
        return over_ssh(root, request.getfixturevalue("sshd"))
    if kind in ON_THE_WEB:
        nginx: Nginx = request.getfixturevalue("nginx")
        request.getfixturevalue("trusted")
        return over_http(nginx, nginx.url if kind == "http" else nginx.tls_url)
    if kind in ("s3", "s3-unsigned"):
        return over_s3(request.getfixturevalue("s3"), signed=kind == "s3")
    if kind == "serve":
        server: StoreServer = request.getfixturevalue("store_server")
        return open_store(server.url, namespace=f"n{secrets.token_hex(6)}")
    return MAKERS[kind](root)


async def _connect(store: Store) -> None:
    """Connections are not the test's: it starts and ends with the same descriptors."""
    await store.lists()
    await store.missing({ABSENT: 3})
    with contextlib.suppress(BlobMissing):
        await store.get(ABSENT, 3, Held())


ON_THE_WEB = ("http", "https")  # what only reads
SERVERS = {
    "ssh": "sshd",
    "http": "nginx",
    "https": "nginx",
    "serve": "store_server",
    "s3": "s3",
}
