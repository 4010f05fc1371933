"""Reads of a large blob by its chunks, and what a store was asked for by them."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from trio.testing import wait_all_tasks_blocked

from aysfs.cache.blobs import Cache
from aysfs.chunks import Chunks
from aysfs.digest import Digest
from aysfs.fetch.chunks import Reader
from aysfs.fetch.fetcher import Fetcher, open_fetcher
from aysfs.limits import CHUNK, Limits
from aysfs.store.faults import Counts
from aysfs.store.protocol import Sink, Store
from tests.cancelling import threads_ended
from tests.large_blob import CHUNKS, DATA, DIGEST, SIZE

REQUEST = 16  # chunks


@asynccontextmanager
async def serving(
    tmp_path: Path, store: Store, limits: Limits | None = None, deadline: float = 60.0
) -> AsyncIterator[Fetcher]:
    reports: list[str] = []
    cache = Cache(tmp_path / "cache", limits or Limits(keep_free=0), reports.append)
    try:
        async with open_fetcher(cache, store, deadline=deadline) as fetcher:
            yield fetcher
            await wait_all_tasks_blocked()
            assert fetcher.in_flight() == []
            assert fetcher.large._open == {}
            assert cache.usage._pending == 0
            assert set(os.listdir(cache.usage.directory)) <= {"alive", "reserved", "synced"}
    finally:
        cache.close()


@asynccontextmanager
async def reading(
    fetcher: Fetcher, chunks: Chunks = CHUNKS, *, head: bool = False
) -> AsyncIterator[Reader]:
    reader = await fetcher.large.open(DIGEST, SIZE, chunks, "a test", head=head)
    try:
        yield reader
    finally:
        reader.close()


def asked(store: Counts) -> list[tuple[int, int]]:
    """First chunk and count of each request for parts of the blob."""
    assert all(digest == DIGEST and start % CHUNK == 0 for digest, start, _ in store.ranges)
    return [(start // CHUNK, -(-length // CHUNK)) for _, start, length in store.ranges]


async def settled() -> None:
    """Wait for a store's thread, for the hashing of the whole, and for that of each chunk."""
    for _ in range(3):
        await threads_ended()
        await wait_all_tasks_blocked()


async def complete(cache: Cache) -> None:
    """Wait until the blob is one as any other."""
    await settled()
    assert cache.has(DIGEST, SIZE)


async def read_all(reader: Reader) -> None:
    for at in range(0, SIZE, 1 << 20):
        assert await reader.read(at, 1 << 20) == DATA[at : at + (1 << 20)]


class Waits(Counts):
    """Gives parts when it is let."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.go_on = trio.Event()

    async def get_range(
        self, digest: Digest, size: int, start: int, length: int, sink: Sink
    ) -> None:
        self.ranges.append((digest, start, length))
        await self.go_on.wait()
        await self._inner.get_range(digest, size, start, length, sink)
