"""kill -9 with a large blob half here: who comes next goes on from there."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from aysfs.cache.blobs import Cache
from aysfs.fetch.fetcher import open_fetcher
from aysfs.limits import CHUNK, Limits
from aysfs.store.directory import DirectoryStore
from aysfs.store.faults import Counts
from aysfs.store.layout import blob
from tests import large_blob as large

KILLED = """
import os, sys, trio
from pathlib import Path
from aysfs.cache.blobs import Cache
from aysfs.fetch.fetcher import open_fetcher
from aysfs.limits import CHUNK
from aysfs.store.directory import DirectoryStore
from tests.large_blob import CHUNKS, DIGEST, SIZE

async def main(store, cache):
    cache = Cache(Path(cache))
    async with open_fetcher(cache, DirectoryStore(Path(store))) as fetcher:
        reader = await fetcher.large.open(DIGEST, SIZE, CHUNKS)
        print("open", flush=True)
        for at in range(0, SIZE, CHUNK):
            await reader.read(at, CHUNK)
            print(at // CHUNK, flush=True)

trio.run(main, *sys.argv[1:])
"""


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory store with a large blob."""
    root = tmp_path_factory.mktemp("store")
    for digest, data in ((large.DIGEST, large.DATA), (large.CHUNKS.digest, large.INDEX)):
        file = root / blob("dedupe", digest)
        file.parent.mkdir(parents=True)
        file.write_bytes(data)
    return root


@pytest.mark.parametrize("reads", [0, 1, 20, 90, 200])
def test_killed_with_an_entry_half_filled_the_next_goes_on(
    filled: Path, tmp_path: Path, reads: int
) -> None:
    command = [sys.executable, "-c", KILLED, str(filled), str(tmp_path / "cache")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    ) as process:
        assert process.stdout is not None
        for _ in range(reads + 1):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL

    async def go_on() -> None:
        cache = Cache(tmp_path / "cache", Limits(keep_free=0))
        store = Counts(DirectoryStore(filled))
        async with open_fetcher(cache, store) as fetcher:
            reader = await fetcher.large.open(large.DIGEST, large.SIZE, large.CHUNKS)
            for at in range(0, large.SIZE, 1 << 20):
                assert await reader.read(at, 1 << 20) == large.DATA[at : at + (1 << 20)]
            reader.close()
        fetched = [n // CHUNK for _, n, _ in store.ranges]
        assert all(number >= reads for number in fetched)
        cache.recount()
        used = cache.usage.used
        cache.close()
        assert used >= large.SIZE

    trio.run(go_on)
