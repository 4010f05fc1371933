"""Cancelled at any await, a request leaves no handle, transfer or connection under way behind."""

from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from aysfs import digest as digests
from aysfs.errors import StoreTrouble
from aysfs.names import parse_name
from aysfs.store.http import HttpStore
from aysfs.store.http_address import parse_http_address
from aysfs.store.http_fetch import HELD, POURED
from aysfs.store.http_request import Bounds
from aysfs.store.protocol import Held
from tests.cancelling import Cut, at_every_await, threads_ended
from tests.conftest import ExpectOutput
from tests.servers import HANG, Nginx, ScriptedServer

NAME = parse_name("jumpscale__base")
BLOBS = {
    "held": b"x" * 100,
    "streamed": bytes(range(256)) * (HELD // 256 + 300),
    "poured": bytes(range(255)) * (POURED // 255 + 20_000),
}


@pytest.fixture(scope="module")
def served(nginx: Nginx) -> str:
    """A store with the three blobs and a list, the blobs in the old layout."""
    folder = nginx.root / "cancelled/dedupe"
    (folder / "md").mkdir(parents=True)
    (folder / "md/jumpscale__base.flist").write_bytes(b"#flist 2\n" * 10_000)
    for data in BLOBS.values():
        name = digests.of(data).hex()
        (folder / "files" / name[0] / name[1]).mkdir(parents=True, exist_ok=True)
        (folder / "files" / name[0] / name[1] / name).write_bytes(data)
    return f"{nginx.url}/cancelled"


async def read(store: HttpStore, data: bytes) -> None:
    sink = Held()
    await store.get(digests.of(data), len(data), sink)
    assert sink.getvalue() == data


async def read_part(store: HttpStore, length: int) -> None:
    data, sink = BLOBS["poured"], Held()
    await store.get_range(digests.of(data), len(data), 1000, length, sink)
    assert sink.getvalue() == data[1000 : 1000 + length]


async def read_list(store: HttpStore) -> None:
    (await store.open_list(NAME)).file.close()


async def ask(store: HttpStore) -> None:
    held = {digests.of(data): len(data) for data in BLOBS.values()}
    assert await store.missing({**held, digests.EMPTY: 0}) == {digests.EMPTY}


OPERATIONS: dict[str, Callable[[HttpStore], Awaitable[object]]] = {
    "held": lambda store: read(store, BLOBS["held"]),
    "streamed": lambda store: read(store, BLOBS["streamed"]),
    "poured": lambda store: read(store, BLOBS["poured"]),
    "part": lambda store: read_part(store, 300_000),
    "poured part": lambda store: read_part(store, len(BLOBS["poured"]) - 1000),
    "list": read_list,
    "listing": lambda store: store.lists(),
    "missing": ask,
}


def assert_nothing_under_way(store: HttpStore) -> None:
    client = store._client
    assert client._turn.value == client._turn.max_value
    if client._loop is not None:
        assert client._loop._transfers == {}


@pytest.mark.parametrize("name", OPERATIONS)
async def test_cut_anywhere_nothing_is_left(served: str, name: str, no_leaks: None) -> None:
    async def attempt(cut: Cut) -> None:
        store = HttpStore(parse_http_address(served))
        await cut.during(lambda: OPERATIONS[name](store))
        assert_nothing_under_way(store)
        await OPERATIONS[name](store)
        assert_nothing_under_way(store)
        await store.aclose()
        await threads_ended()

    assert await at_every_await(attempt) >= 1


@pytest.mark.parametrize("name", ["held", "streamed", "poured"])
async def test_the_others_go_on_when_one_is_cut(served: str, name: str, no_leaks: None) -> None:
    async def attempt(cut: Cut) -> None:
        store = HttpStore(parse_http_address(served))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cut.during, lambda: OPERATIONS[name](store))
            for other in BLOBS.values():
                nursery.start_soon(read, store, other)
        assert_nothing_under_way(store)
        await store.aclose()
        await threads_ended()

    assert await at_every_await(attempt) >= 1


async def test_a_thousand_requests_of_which_most_are_given_up(nginx: Nginx, served: str) -> None:
    """More than there are connections: those that wait for their turn are cancelled as well."""
    store = HttpStore(parse_http_address(served))

    async def given_up(number: int) -> None:
        with trio.move_on_after(number % 7 / 1000):
            await read(store, BLOBS["streamed" if number % 3 else "held"])

    for _ in range(10):
        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(given_up, number)
        assert_nothing_under_way(store)
    await read(store, BLOBS["held"])
    await store.aclose()


async def test_a_store_that_is_closed_ends_what_is_under_way(no_leaks: None) -> None:
    with ScriptedServer([HANG]) as server:
        store = HttpStore(parse_http_address(server.url))
        closed = 0

        async def asks() -> None:
            nonlocal closed
            with pytest.raises(StoreTrouble, match="the store was closed"):
                await read(store, b"never")
            closed += 1

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(asks)
            await wait_all_tasks_blocked()
            await store.aclose()
        assert closed == 20
        with pytest.raises(StoreTrouble, match="the store was closed"):
            await read(store, b"never")


async def test_every_transfer_has_a_bound_of_its_own() -> None:
    """Also those that begin while another one is waited for, and never see a byte."""
    bounds = Bounds(idle=0.5, tries=1)
    with ScriptedServer([HANG]) as server:
        store = HttpStore(parse_http_address(server.url), bounds=bounds)

        async def silent() -> None:
            with pytest.raises(StoreTrouble, match=r"no answer within 0\.5 s"):
                await read(store, b"never")

        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                for _ in range(40):
                    nursery.start_soon(silent)
                    await wait_all_tasks_blocked(0.01)
        await store.aclose()


async def test_a_bug_where_all_wait_fails_what_is_under_way(
    served: str, no_leaks: None, monkeypatch: pytest.MonkeyPatch, expected_output: ExpectOutput
) -> None:
    """The task that serves all of them is trio's own: what it raised would end the process."""
    expected_output(r"(?s)^ERROR +aysfs\.store\.curl:.*?^ZeroDivisionError: a bug$")

    def buggy(_events: int) -> int:
        raise ZeroDivisionError("a bug")

    store = HttpStore(parse_http_address(served))
    monkeypatch.setattr("aysfs.store.curl._meaning", buggy)
    async with trio.open_nursery() as nursery:

        async def asks() -> None:
            with pytest.raises(StoreTrouble, match="the store was closed"):
                await read(store, BLOBS["held"])

        for _ in range(3):
            nursery.start_soon(asks)
    await store.aclose()
