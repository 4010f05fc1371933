"""Large blobs by chunks: what a read fetches."""

from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from aysfs.digest import Digest
from aysfs.fetch.chunks import Reader
from aysfs.fetch.fetcher import Fetcher
from aysfs.limits import CHUNK, LARGE
from aysfs.store.chain import Chain
from aysfs.store.faults import Counts, Passes, WithoutRanges
from aysfs.store.protocol import Sink, Store
from tests.large_blob import CHUNKS, COUNT, DATA, DIGEST, INDEX, SIZE, flipped, large_store
from tests.t3_fetch.large_reads import REQUEST, Waits, asked, complete, reading, serving

pytestmark = pytest.mark.usefixtures("failures_are_logged")


def test_the_bound_is_what_the_tests_think() -> None:
    assert SIZE > LARGE
    assert CHUNKS.are_used(SIZE)


async def test_a_read_in_the_middle_fetches_its_chunk(tmp_path: Path, no_leaks: None) -> None:
    store = Counts(large_store())
    async with serving(tmp_path, store) as fetcher, reading(fetcher) as reader:
        at = 100 * CHUNK + 5
        assert await reader.read(at, 4096) == DATA[at : at + 4096]
        assert asked(store) == [(100, 1)]
        assert await reader.read(at, 4096) == DATA[at : at + 4096]
        across = 200 * CHUNK - 10
        assert await reader.read(across, 20) == DATA[across : across + 20]
        assert asked(store) == [(100, 1), (199, 2)]
        assert store.gets == {CHUNKS.digest: 1}
        await wait_all_tasks_blocked()
        assert fetcher.counters.fetched_bytes == 3 * CHUNK + len(INDEX)
        assert fetcher.counters.misses == 2  # the blob and its index


async def test_the_beginning_comes_in_one_request(tmp_path: Path, no_leaks: None) -> None:
    store = Counts(large_store())
    async with serving(tmp_path, store) as fetcher, reading(fetcher) as reader:
        for at in range(0, 1 << 20, 128 << 10):
            assert await reader.read(at, 128 << 10) == DATA[at : at + (128 << 10)]
        await wait_all_tasks_blocked()
        assert asked(store)[0] == (0, 4)
        assert sum(count for _, count in asked(store)) <= 8  # no more ahead than was read


class Slow(Passes):
    """Gives the index of chunks when it is let."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.go_on = trio.Event()

    async def get(self, digest: Digest, size: int, sink: Sink) -> None:
        await self.go_on.wait()
        await self._inner.get(digest, size, sink)


async def test_the_beginning_is_asked_for_together_with_the_index(
    tmp_path: Path, no_leaks: None
) -> None:
    counts = Counts(large_store())
    store = Slow(counts)
    got: list[bytes] = []

    async def use(fetcher: Fetcher) -> None:
        async with reading(fetcher, head=True) as reader:
            got.append(await reader.read(0, 1 << 20))

    async with serving(tmp_path, store) as fetcher:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(use, fetcher)
            await wait_all_tasks_blocked()
            assert asked(counts) == [(0, 4)]
            assert list(fetcher.cache.scan_partial()) == []  # nothing verifies it yet
            store.go_on.set()
        assert got == [DATA[: 1 << 20]]
        assert asked(counts)[1:] in ([], [(4, 4)])
        async with reading(fetcher, head=True) as reader:  # the index is here: nothing is guessed
            await reader.read(200 * CHUNK, 10)
        assert asked(counts)[-1] == (200, 1)


@pytest.mark.parametrize("wrong", [0, 2])
async def test_a_beginning_that_came_wrong_is_asked_for_again(
    tmp_path: Path, wrong: int, no_leaks: None
) -> None:
    chain = Chain([large_store(data=flipped(wrong)), large_store()])
    async with serving(tmp_path, chain) as fetcher, reading(fetcher, head=True) as reader:
        assert await reader.read(0, 1 << 20) == DATA[: 1 << 20]


async def test_a_beginning_of_a_blob_without_an_index_is_given_up(
    tmp_path: Path, no_leaks: None
) -> None:
    memory = large_store()
    del memory.blobs[CHUNKS.digest]
    async with serving(tmp_path, memory) as fetcher, reading(fetcher, head=True) as reader:
        assert await reader.read(0, 10) == DATA[:10]


async def test_a_store_without_ranges_gives_no_beginning_either(
    tmp_path: Path, no_leaks: None
) -> None:
    store = Counts(WithoutRanges(large_store()))
    async with serving(tmp_path, store) as fetcher, reading(fetcher, head=True) as reader:
        assert await reader.read(77, 10) == DATA[77:87]
        assert store.gets[DIGEST] == 1


async def test_the_end_and_what_lies_behind_it(tmp_path: Path, no_leaks: None) -> None:
    async with serving(tmp_path, large_store()) as fetcher, reading(fetcher) as reader:
        assert await reader.read(SIZE - 10, 4096) == DATA[-10:]
        assert await reader.read(SIZE, 10) == b""
        assert await reader.read(SIZE + CHUNK, 10) == b""


async def test_a_sequential_read_asks_in_few_requests_and_for_nothing_twice(
    tmp_path: Path, no_leaks: None
) -> None:
    store = Counts(large_store())
    async with serving(tmp_path, store) as fetcher:
        async with reading(fetcher) as reader:
            for at in range(0, SIZE, 128 << 10):
                assert await reader.read(at, 128 << 10) == DATA[at : at + (128 << 10)]
        requests = asked(store)
        assert sorted(n for at, count in requests for n in range(at, at + count)) == list(
            range(COUNT)
        )
        assert len(requests) <= COUNT // REQUEST + 12
        await complete(fetcher.cache)


async def test_out_of_order_reads_of_one_line_are_one_line(tmp_path: Path) -> None:
    store = Counts(large_store())
    async with serving(tmp_path, store) as fetcher, reading(fetcher) as reader:
        for at in range(0, 32 * CHUNK, 2 * CHUNK):
            await reader.read(at + CHUNK, CHUNK)
            await reader.read(at, CHUNK)
        assert len(asked(store)) < 12


async def test_random_reads_fetch_nothing_ahead(tmp_path: Path) -> None:
    store = Counts(large_store())
    async with serving(tmp_path, store) as fetcher, reading(fetcher) as reader:
        for number in (200, 3, 150, 77, 240, 30):
            await reader.read(number * CHUNK + 9000, 4096)
        assert asked(store) == [(number, 1) for number in (200, 3, 150, 77, 240, 30)]


async def test_a_chunk_flies_once_whoever_asks(tmp_path: Path, no_leaks: None) -> None:
    store = Waits(large_store())
    async with serving(tmp_path, store) as fetcher:
        readers = [await fetcher.large.open(DIGEST, SIZE, CHUNKS, "", head=False) for _ in range(5)]
        got: list[bytes] = []

        async def read(reader: Reader) -> None:
            got.append(await reader.read(50 * CHUNK, CHUNK))

        async with trio.open_nursery() as nursery:
            for reader in readers * 4:
                nursery.start_soon(read, reader)
            await wait_all_tasks_blocked()
            assert [(one.size, one.waiting) for one in fetcher.in_flight()] == [(CHUNK, 20)]
            store.go_on.set()
        assert got == [DATA[50 * CHUNK : 51 * CHUNK]] * 20
        assert asked(store) == [(50, 1)]
        for reader in readers:
            reader.close()


async def test_what_is_here_is_not_asked_for_by_the_next_process(
    tmp_path: Path, no_leaks: None
) -> None:
    async with serving(tmp_path, large_store()) as fetcher, reading(fetcher) as reader:
        await reader.read(7 * CHUNK, 3 * CHUNK)
    store = Counts(large_store())
    async with serving(tmp_path, store) as fetcher, reading(fetcher) as reader:
        assert await reader.read(7 * CHUNK, 3 * CHUNK) == DATA[7 * CHUNK : 10 * CHUNK]
        assert store.calls == {}
        assert await reader.read(6 * CHUNK, 5 * CHUNK) == DATA[6 * CHUNK : 11 * CHUNK]
        fetched = [n for at, count in asked(store) for n in range(at, at + count)]
        assert {6, 10} <= set(fetched)
        assert not {7, 8, 9} & set(fetched)


async def test_two_processes_fill_one_entry(tmp_path: Path) -> None:
    one, other = Counts(large_store()), Counts(large_store())
    async with serving(tmp_path, one) as first, serving(tmp_path, other) as second:
        async with reading(first) as here, reading(second) as there:
            await here.read(0, CHUNK)
            await wait_all_tasks_blocked()
            assert await there.read(0, CHUNK) == DATA[:CHUNK]
            for at in range(0, SIZE // 2, CHUNK):
                await here.read(at, CHUNK)
                await there.read(SIZE - at - CHUNK, CHUNK)
            for at in range(0, SIZE, CHUNK):
                assert await here.read(at, CHUNK) == DATA[at : at + CHUNK]
                assert await there.read(at, CHUNK) == DATA[at : at + CHUNK]
        await complete(first.cache)
    requests = [*asked(one), *asked(other)]
    assert sum(count for _, count in requests) < COUNT * 1.2
