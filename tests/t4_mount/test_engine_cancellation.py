"""Handlers cut short at any await: the engine, its tree and its cache are as before.

The handlers are called as pyfuse3 calls them, on an engine without a kernel behind it.
"""

import io
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pyfuse3
import pytest
import trio
from pyfuse3 import FileInfo, FUSEError, InodeT, RequestContext
from trio.testing import wait_all_tasks_blocked

from aysfs import digest
from aysfs.cache.blobs import Cache
from aysfs.fetch.fetcher import Fetcher, open_fetcher
from aysfs.flist import Entry, FlistReader, Kind, write_flist
from aysfs.load import load_tree
from aysfs.mount.fuse import FuseEngine
from aysfs.names import ServiceName
from aysfs.store.memory import MemoryStore
from aysfs.store.protocol import Store
from aysfs.tree import Tree, TreeBuilder
from tests.cancelling import (
    CASES,
    SMALL,
    BlobCase,
    Cut,
    Traces,
    assert_nothing_left,
    at_every_await,
    threads_ended,
)
from tests.conftest import ExpectOutput, open_descriptors

ROOT = pyfuse3.ROOT_INODE
CONTEXT = RequestContext()
READING = pyfuse3.FlagT(os.O_RDONLY)


def special(path: bytes, kind: Kind, *ext: tuple[bytes, bytes]) -> Entry:
    return Entry(path, kind, 0o755, 0, 0, 0, digest.ZERO, 1, ext)


def written(data: bytes) -> bytes:
    """A list with one file of these bytes and a little of everything else."""
    note = ((b"xattr.user.note", b"x"),)
    entries = [
        special(b"/empty", Kind.DIRECTORY),
        Entry(b"/file", Kind.REGULAR, 0o644, 0, 0, len(data), digest.of(data), 1, note),
        special(b"/link", Kind.SYMLINK, (b"target", b"file")),
        Entry(b"/nothing", Kind.REGULAR, 0o644, 0, 0, 0, digest.of(b""), 1),
    ]
    return b"".join(write_flist(None, entries))


def tree_of(data: bytes) -> Tree:
    builder = TreeBuilder()
    builder.add(FlistReader(io.BytesIO(written(data)), source="test.flist", mtime_ns=0))
    return builder.build()


@asynccontextmanager
async def mounted(cache: Cache, store: Store, tree: Tree) -> AsyncIterator[FuseEngine]:
    async with open_fetcher(cache, store) as fetcher:
        yield FuseEngine(tree, fetcher)


async def read_file(engine: FuseEngine, size: int) -> bytes:
    """A program that reads the file from its beginning to its end."""
    inode = (await engine.lookup(ROOT, pyfuse3.FileNameT(b"file"), CONTEXT)).st_ino
    info: FileInfo | None = None
    try:
        info = await engine.open(inode, READING, CONTEXT)
        got = b""
        while data := await engine.read(info.fh, len(got), 100_000):
            got += data
        return got
    finally:
        if info is not None:
            await engine.release(info.fh)
        await engine.forget([(inode, 1)])


async def landed(fetcher: Fetcher) -> None:
    while fetcher.in_flight():
        await threads_ended()
        await wait_all_tasks_blocked()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_a_program_cut_anywhere_keeps_nothing_open(tmp_path: Path, case: BlobCase) -> None:
    tree = tree_of(case.data)

    async def attempt(cut: Cut) -> None:
        cache, store = case.cache(tmp_path / str(cut.number)), case.store()
        before = Traces.of(cache)
        async with open_fetcher(cache, store) as fetcher:
            engine = FuseEngine(tree, fetcher)
            await cut.during(lambda: read_file(engine, len(case.data)))
            await landed(fetcher)
            assert engine.counters.open_files == 0
            assert store.gets[case.digest] <= 1
            assert await read_file(engine, len(case.data)) == case.data
            assert fetcher.counters.failures == 0
        assert_nothing_left(cache, before)
        cache.close()

    cuts = await at_every_await(attempt)
    assert cuts >= (0 if case.name == "present" else 2)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_an_engine_whose_service_is_cut_anywhere_leaves_nothing(
    tmp_path: Path, case: BlobCase
) -> None:
    tree = tree_of(case.data)

    async def attempt(cut: Cut) -> None:
        cache, store = case.cache(tmp_path / str(cut.number)), case.store()
        before = Traces.of(cache)
        engines: list[FuseEngine] = []

        async def serve() -> None:
            async with mounted(cache, store, tree) as engine, trio.open_nursery() as nursery:
                engines.append(engine)
                for _ in range(3):
                    nursery.start_soon(read_file, engine, len(case.data))

        await cut.during(serve)
        await threads_ended()
        assert [engine.counters.open_files for engine in engines] == [0]
        assert_nothing_left(cache, before)
        async with mounted(cache, store, tree) as engine:
            assert await read_file(engine, len(case.data)) == case.data
        assert_nothing_left(cache, before)
        cache.close()

    assert await at_every_await(attempt) > 2


async def test_an_open_that_fails_is_answered_after_any_cut(
    tmp_path: Path, expected_output: ExpectOutput
) -> None:
    """A blob that no store has: EIO, and neither a descriptor nor a flight more."""
    expected_output(r"^WARNING +aysfs\.fetch\.flights:.*has no blob.*$")
    case, tree = CASES[0], tree_of(CASES[0].data)

    async def attempt(cut: Cut) -> None:
        cache = case.cache(tmp_path / str(cut.number))
        before = Traces.of(cache)

        async def refused(engine: FuseEngine) -> None:
            with pytest.raises(FUSEError, match="Input/output"):
                await read_file(engine, len(case.data))

        async with open_fetcher(cache, MemoryStore()) as fetcher:
            engine = FuseEngine(tree, fetcher)
            await cut.during(lambda: refused(engine))
            await landed(fetcher)
            await refused(engine)
            assert engine.counters.open_files == 0
        assert_nothing_left(cache, before)
        cache.close()

    assert await at_every_await(attempt) >= 2


async def everything_but_open(engine: FuseEngine) -> None:
    """Each handler that a read-only mount answers, references given back."""
    inodes = {}
    try:
        for name in (b"empty", b"file", b"link", b"nothing", b"not there"):
            inodes[name] = (await engine.lookup(ROOT, pyfuse3.FileNameT(name), CONTEXT)).st_ino
        await engine.getattr(inodes[b"file"], CONTEXT)
        assert await engine.readlink(inodes[b"link"], CONTEXT) == b"file"
        handle = await engine.opendir(inodes[b"empty"], CONTEXT)
        try:
            await engine.readdir(handle, 0, cast(pyfuse3.ReaddirToken, None))  # has no entry
        finally:
            await engine.releasedir(handle)
        info = await engine.open(inodes[b"nothing"], READING, CONTEXT)
        assert await engine.read(info.fh, 0, 100) == b""
        await engine.release(info.fh)
        await engine.statfs(CONTEXT)
        await engine.access(inodes[b"file"], pyfuse3.ModeT(os.R_OK), CONTEXT)
        names = await engine.listxattr(inodes[b"file"], CONTEXT)
        assert await engine.getxattr(inodes[b"file"], names[0], CONTEXT) == b"x"
    finally:
        held: list[InodeT] = [inode for inode in inodes.values() if inode]
        await engine.forget([(inode, 1) for inode in held])


async def test_no_other_handler_waits_for_anything(tmp_path: Path, no_leaks: None) -> None:
    """So that a cut cannot come between taking a reference and giving it back."""
    cache, store = CASES[0].cache(tmp_path / "cache"), CASES[0].store()
    async with mounted(cache, store, tree_of(SMALL)) as engine:

        async def attempt(cut: Cut) -> None:
            with trio.CancelScope() as cancelled:
                cancelled.cancel()  # whatever awaits at all ends here
                await cut.during(lambda: everything_but_open(engine))
            assert not cancelled.cancelled_caught

        assert await at_every_await(attempt) == 0
        engine.replace(tree_of(b""))
        await engine.forget([])
        assert engine.generations == 1
    cache.close()


async def test_the_reading_of_lists_cut_anywhere_keeps_none_open(tmp_path: Path) -> None:
    """What a reload awaits; threads that it gives up close what they opened."""
    service, memory = ServiceName("jumpscale", "test", None), MemoryStore()
    await memory.put_list(service, [written(SMALL)])
    path = tmp_path / "local.flist"
    path.write_bytes(written(SMALL))

    async def attempt(cut: Cut) -> None:
        before = open_descriptors()
        await cut.during(lambda: load_tree(memory, [service, path, path]))
        await threads_ended()
        assert open_descriptors() == before
        assert len((await load_tree(memory, [path, service])).tree) == 5

    assert await at_every_await(attempt) >= 3
