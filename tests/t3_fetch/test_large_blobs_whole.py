"""Large blobs by chunks: how the whole comes of them, and when it comes at once."""

import os
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from aysfs.cache.blobs import Cache
from aysfs.fetch.bulk import Wanted, fetch_all
from aysfs.limits import CHUNK
from aysfs.store.faults import Counts, WithoutRanges
from tests.large_blob import CHUNKS, COUNT, DATA, DIGEST, INDEX, SIZE, flipped, large_store
from tests.t3_fetch.large_reads import REQUEST, asked, complete, read_all, reading, serving

pytestmark = pytest.mark.usefixtures("failures_are_logged")


async def test_what_is_complete_is_a_blob_as_any_other(tmp_path: Path, no_leaks: None) -> None:
    done: list[Cache] = []
    async with serving(tmp_path, large_store()) as fetcher:
        cache = fetcher.cache

        async def note(cache: Cache) -> None:
            done.append(cache)

        fetcher.large.completed = note
        async with reading(fetcher) as reader:
            await read_all(reader)
            await complete(cache)
            assert await reader.read(5, 10) == DATA[5:15]
            assert done == []
        await wait_all_tasks_blocked()
        assert done == [cache]
        assert list(cache.scan_partial()) == []
        assert [name for _, _, names in os.walk(tmp_path / "cache/partial") for name in names] == [
            "lock"
        ]
        descriptor = cache.open(DIGEST, SIZE)
        assert descriptor is not None
        assert os.fstat(descriptor).st_mode & 0o777 == 0o400
        os.close(descriptor)
        assert fetcher.counters.failures == 0
        async with reading(fetcher) as reader:
            await read_all(reader)
        counted = cache.usage.used
        cache.recount()
        assert cache.usage.used == counted


async def test_a_bulk_fetch_completes_what_was_begun(tmp_path: Path, no_leaks: None) -> None:
    store = Counts(large_store())
    wanted = [Wanted(DIGEST, SIZE, "large"), Wanted(CHUNKS.digest, len(INDEX), "index")]
    async with serving(tmp_path, store) as fetcher:
        async with reading(fetcher) as reader:
            await reader.read(100 * CHUNK, 10)
            await reader.read(30 * CHUNK, 10)
        report = await fetch_all(fetcher, wanted, lambda *_: None)
        assert (report.blobs, report.failed) == (2, 0)
        assert fetcher.cache.has(DIGEST, SIZE)
        requests = asked(store)
        assert sum(count for _, count in requests) == COUNT
        assert len(requests) < COUNT // REQUEST + 10
        assert DIGEST not in store.gets
        await wait_all_tasks_blocked()
        assert fetcher.large._open == {}


async def test_a_bulk_fetch_of_what_was_not_begun_is_one_request(tmp_path: Path) -> None:
    store = Counts(large_store())
    async with serving(tmp_path, store) as fetcher:
        await fetch_all(fetcher, [Wanted(DIGEST, SIZE, "large")], lambda *_: None)
        assert (store.gets, store.ranges) == ({DIGEST: 1}, [])


async def test_a_bulk_fetch_tells_of_a_wrong_chunk(tmp_path: Path, no_leaks: None) -> None:
    async with serving(tmp_path, large_store(data=flipped(200))) as fetcher:
        async with reading(fetcher) as reader:
            await reader.read(0, 10)
        report = await fetch_all(fetcher, [Wanted(DIGEST, SIZE, "large")], lambda *_: None)
        assert report.failed == 1
        assert "chunk 200" in report.failures[0]


async def test_a_blob_that_came_whole_leaves_no_part(tmp_path: Path, no_leaks: None) -> None:
    async with serving(tmp_path, large_store()) as fetcher:
        cache = fetcher.cache
        async with reading(fetcher) as reader:
            await reader.read(100 * CHUNK, 10)
            os.close(await fetcher.open(DIGEST, SIZE))
            assert list(cache.scan_partial()) == []
            assert await reader.read(50 * CHUNK, 10) == DATA[50 * CHUNK :][:10]
        used = cache.usage.used
        cache.recount()
        assert cache.usage.used == used


async def test_a_blob_that_is_here_whole_needs_no_index(tmp_path: Path) -> None:
    memory = large_store()
    async with serving(tmp_path, memory) as fetcher:
        os.close(await fetcher.open(DIGEST, SIZE))
        del memory.blobs[CHUNKS.digest]
        async with reading(fetcher) as reader:
            assert await reader.read(9, 9) == DATA[9:18]


@pytest.mark.parametrize(
    "index", [None, INDEX[:-16], bytes(len(INDEX))], ids=["no", "short", "bad"]
)
async def test_without_a_right_index_the_blob_is_read_whole(
    tmp_path: Path, index: bytes | None, no_leaks: None
) -> None:
    memory = large_store(index=index or b"")
    if index is None:
        del memory.blobs[CHUNKS.digest]
    store = Counts(memory)
    async with serving(tmp_path, store) as fetcher, reading(fetcher) as reader:
        assert await reader.read(9, 9) == DATA[9:18]
        assert store.gets[DIGEST] == 1
        assert store.ranges == []


async def test_a_store_without_ranges_gives_the_whole(tmp_path: Path, no_leaks: None) -> None:
    store = Counts(WithoutRanges(large_store()))
    async with serving(tmp_path, store) as fetcher:
        async with reading(fetcher) as reader, trio.open_nursery() as nursery:
            for at in (0, 5 * CHUNK, SIZE - 10, 77 * CHUNK):
                nursery.start_soon(reader.read, at, 10)
        async with reading(fetcher) as reader:
            await read_all(reader)
        assert store.gets == {CHUNKS.digest: 1, DIGEST: 1}
        assert list(fetcher.cache.scan_partial()) == []
        assert fetcher.counters.failures == 0
