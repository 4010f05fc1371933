"""Blobs out of packs, as a reader and a course get them from a fetcher."""

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from aysfs import digest as digests
from aysfs.cache.blobs import Cache
from aysfs.fetch.ahead import Ahead, Going
from aysfs.fetch.fetcher import Fetcher, open_fetcher
from aysfs.limits import DEADLINE, Limits
from aysfs.pack.index import PackIndex
from aysfs.store.faults import Counts
from aysfs.store.protocol import Store

ROOMY = Limits(size=1 << 30, keep_free=0)


@asynccontextmanager
async def serving(
    tmp_path: Path,
    store: Store,
    *indexes: PackIndex,
    limits: Limits = ROOMY,
    deadline: float = DEADLINE,
    parallel: int = 16,
) -> AsyncIterator[Fetcher]:
    cache = Cache(tmp_path / "cache", limits)
    try:
        async with open_fetcher(cache, store, deadline=deadline, parallel=parallel) as fetcher:
            for index in indexes:
                fetcher.crew.packs.add(index)
            yield fetcher
            while fetcher.in_flight():  # neighbours of what was read
                await trio.lowlevel.checkpoint()
            left = set(os.listdir(cache.usage.directory))
            assert left <= {"alive", "reserved", "synced"}
    finally:
        cache.close()


async def read(fetcher: Fetcher, data: bytes) -> bytes:
    with os.fdopen(await fetcher.open(digests.of(data), len(data), "a test"), "rb") as file:
        return file.read()


async def read_all(fetcher: Fetcher, blobs: Sequence[bytes]) -> None:
    for one in blobs:
        assert await read(fetcher, one) == one


def has(fetcher: Fetcher, data: bytes) -> bool:
    return fetcher.cache.has(digests.of(data), len(data))


async def follow(fetcher: Fetcher, index: PackIndex, ahead: Ahead | None = None) -> Going:
    crew, going = fetcher.crew, Going("a test")
    course = crew.packs.course(index, start_pack_only=False, wanted=crew.is_wanted)
    await (ahead or Ahead(fetcher)).follow(course, going)
    assert going.under_way == 0
    return going


def asked_bytes(store: Counts, index: PackIndex) -> list[int]:
    """How often each stored byte of the first pack was asked for."""
    counts = [0] * index.packs[0].size
    for digest, start, length in store.ranges:
        assert digest == index.packs[0].digest
        for at in range(start, start + length):
            counts[at] += 1
    return counts
