"""A server in front of other stores: what it lacks is asked there, verified, kept and served."""

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from aysfs import digest as digests
from aysfs.digest import Digest
from aysfs.errors import BlobMissing, Corrupt, ListMissing, StoreTrouble
from aysfs.limits import LARGE as LIMIT
from aysfs.names import parse_name
from aysfs.server.metrics import Metrics
from aysfs.server.upstream import PASSED_ON, open_upstream
from aysfs.store.directory import DirectoryStore
from aysfs.store.faults import Counts
from aysfs.store.http_address import parse_http_address
from aysfs.store.http_request import Bounds
from aysfs.store.http_served import ServedStore
from aysfs.store.memory import MemoryStore
from aysfs.store.protocol import Held, Sink, Store
from tests.servers import ScriptedServer, answer
from tests.store_server import StoreServer

NAME = parse_name("a__b")
SMALL, LARGE = b"small", os.urandom(3 << 20)


@pytest.fixture
def behind(tmp_path: Path) -> DirectoryStore:
    """The store that is asked."""
    folder = tmp_path / "behind"
    folder.mkdir()
    store = DirectoryStore(folder, create=True)

    async def fill() -> None:
        for data in (SMALL, LARGE):
            await store.put(digests.of(data), len(data), io.BytesIO(data))
        await store.put_list(NAME, [b"first"])
        await store.write_note("note", b"a note")

    trio.run(fill)
    return store


@pytest.fixture
def rack(tmp_path: Path, behind: DirectoryStore) -> Iterator[StoreServer]:
    with StoreServer(tmp_path, "--open", "--source", behind.label) as server:
        yield server


def opened(server: StoreServer) -> ServedStore:
    return ServedStore(parse_http_address(server.url), bounds=Bounds(tries=1))


async def get(store: ServedStore, data: bytes) -> bytes:
    sink = Held()
    await store.get(digests.of(data), len(data), sink)
    return sink.getvalue()


def counted(server: StoreServer, result: str) -> int:
    for line in server.web.get(f"{server.url}/metrics").text.splitlines():
        if line.startswith(f'aysfs_upstream_total{{result="{result}"}}'):
            return int(float(line.rpartition(" ")[2]))
    return 0


async def test_what_is_missed_is_fetched_once_and_kept(
    rack: StoreServer, behind: DirectoryStore
) -> None:
    store = opened(rack)
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(get, store, SMALL)
            nursery.start_soon(get, store, LARGE)
    assert counted(rack, "hit") == 2
    Path(behind.label).rename(f"{behind.label}.away")
    for data in (SMALL, LARGE):
        assert await get(store, data) == data
    assert await DirectoryStore(rack.root).missing({digests.of(SMALL): 5}) == set()
    await store.aclose()


async def test_what_nobody_has_is_missing(rack: StoreServer) -> None:
    store = opened(rack)
    with pytest.raises(BlobMissing):
        await get(store, b"never put anywhere")
    with pytest.raises(ListMissing):
        await store.open_list(parse_name("c__d"))
    assert counted(rack, "miss") == 3  # the blob in both of its places
    await store.aclose()


async def test_an_upstream_in_trouble_is_never_not_there(
    rack: StoreServer, behind: DirectoryStore
) -> None:
    Path(behind.label).rename(f"{behind.label}.away")
    store = opened(rack)
    with pytest.raises(StoreTrouble):
        await get(store, SMALL)
    with pytest.raises(StoreTrouble):
        await store.open_list(NAME)
    await store.aclose()


async def test_a_list_is_upstreams_newest_and_the_last_known_in_trouble(
    rack: StoreServer, behind: DirectoryStore
) -> None:
    store = opened(rack)

    async def read() -> bytes:
        with (await store.open_list(NAME)).file as file:
            return file.read()

    assert await read() == b"first"
    await behind.put_list(NAME, [b"second"])
    assert await read() == b"second"
    assert await store.lists() == [NAME]
    assert await store.read_note("note") == b"a note"
    Path(behind.label).rename(f"{behind.label}.away")
    assert await read() == b"second"
    assert await store.lists() == [NAME]
    await store.put_list(NAME, [b"our own"])
    assert await read() == b"our own"
    await store.aclose()


async def test_an_upstream_that_lies_is_not_believed(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        liar = stack.enter_context(ScriptedServer([answer(b"smell")]))
        server = stack.enter_context(StoreServer(tmp_path, "--open", "--source", liar.url))
        answered = server.web.get(f"{server.url}/store/dedupe/{digests.of(SMALL).hex()}")
        assert answered.status_code == 503
        assert "another md5" in answered.text
        assert counted(server, "failure") == 1
        assert [path for path in server.root.rglob("*") if path.is_file()] == []


async def test_the_next_upstream_is_asked_when_one_lies(
    tmp_path: Path, behind: DirectoryStore
) -> None:
    with ScriptedServer([answer(b"smell")]) as liar:
        sources = ("--source", liar.url, "--source", behind.label)
        with StoreServer(tmp_path, "--open", *sources) as server:
            store = opened(server)
            assert await get(store, SMALL) == SMALL
            await store.aclose()


class Waits(Counts):
    """Sends nothing until it is told to."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.asked, self.go_on = trio.Event(), trio.Event()

    async def get(self, digest: Digest, size: int, sink: Sink) -> None:
        self.asked.set()
        await self.go_on.wait()
        await super().get(digest, size, sink)


async def test_a_client_that_goes_takes_no_flight_with_it(tmp_path: Path) -> None:
    memory, target = MemoryStore(), MemoryStore()
    digest = memory.add(SMALL)
    slow = Waits(memory)
    async with open_upstream(str(tmp_path), [str(tmp_path)], Metrics()) as upstream:
        assert upstream is not None
        upstream._stores["dedupe"] = slow
        async with trio.open_nursery() as nursery:
            nursery.start_soon(upstream.fetch, "dedupe", digest, target)
            await slow.asked.wait()
            nursery.cancel_scope.cancel()
        slow.go_on.set()
        await upstream.fetch("dedupe", digest, target)
    assert target.blobs == {digest: SMALL}
    assert slow.gets == {digest: 1}


GREAT = LIMIT + 12_345  # bytes of a large blob, most of them in a hole of its file


@pytest.fixture
def great(behind: DirectoryStore) -> Digest:
    """A large blob in the store behind. Only its parts are looked at: its name is made up."""
    digest = Digest(bytes(range(16)))
    file = Path(behind.label, "dedupe", digest.hex()[0], digest.hex()[1], digest.hex())
    file.parent.mkdir(parents=True)
    with file.open("wb") as out:
        out.truncate(GREAT)
        os.pwrite(out.fileno(), LARGE, 1 << 20)
    return digest


async def test_a_part_of_a_large_blob_does_not_wait_for_the_rest(
    tmp_path: Path, behind: DirectoryStore, great: Digest
) -> None:
    slow = Waits(behind)
    async with open_upstream(str(tmp_path), [str(tmp_path)], Metrics()) as upstream:
        assert upstream is not None
        upstream._stores["dedupe"] = slow
        target = MemoryStore()
        for start, end in [(1 << 20, 2 << 20), (GREAT - 10, GREAT)]:
            found = await upstream.part("dedupe", great, target, start, end)
            assert found == ((LARGE[: end - start] if start == 1 << 20 else bytes(10)), GREAT)
        await slow.asked.wait()  # all of it is on its way as well
    assert slow.gets == {}


@pytest.mark.parametrize(
    ("data", "start", "end"),
    [(LARGE, 0, 10), (None, 0, PASSED_ON + 1), (None, GREAT - 10, GREAT + 1), (None, 10, 10)],
)
async def test_a_part_of_a_small_blob_or_no_part_waits_for_the_whole(
    tmp_path: Path,
    behind: DirectoryStore,
    great: Digest,
    data: bytes | None,
    start: int,
    end: int,
) -> None:
    slow = Waits(behind)
    async with open_upstream(str(tmp_path), [str(tmp_path)], Metrics()) as upstream:
        assert upstream is not None
        upstream._stores["dedupe"] = slow
        digest = great if data is None else digests.of(data)
        assert await upstream.part("dedupe", digest, MemoryStore(), start, end) is None
        assert slow.ranges == []


async def test_parts_come_through_the_server(rack: StoreServer, great: Digest) -> None:
    store = opened(rack)
    for size, digest, start, length in [
        (len(LARGE), digests.of(LARGE), 1000, 70_000),
        (GREAT, great, (1 << 20) + 1000, 70_000),
    ]:
        sink = Held()
        await store.get_range(digest, size, start, length, sink)
        assert sink.getvalue() == LARGE[1000:71_000]
    sink = Held()
    with pytest.raises(Corrupt):
        await store.get_range(great, GREAT + 1, 0, 10, sink)
    await store.aclose()


def test_a_source_that_is_none_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "aysfs.cli.main", "store", "serve", str(tmp_path)]
    main = "from aysfs.cli.main import main; main()"
    command[1:3] = ["-P", "-c", main]
    done = subprocess.run([*command, "--source", "gopher://x"], capture_output=True, check=False)
    assert done.returncode == 11
    assert b"no store can be opened at `gopher://`" in done.stderr


def test_no_name_of_a_namespace_is_the_keepers(rack: StoreServer) -> None:
    for path in ("/.upstream/md/a__b.flist", "/store/.upstream/about"):
        assert rack.web.get(rack.url + path).status_code == 404
