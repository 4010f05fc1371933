"""Web servers that stop, each in one way, on real sockets."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from aysfs.errors import StoreTrouble
from tests.servers import (
    CUT,
    DRIP,
    HANG,
    Authority,
    ScriptedServer,
    answer,
    free_port,
)
from tests.t2_store.web import (
    MIDDLE,
    NAME,
    SMALL,
    get,
    of_each_size,
    of_streamed,
    opened,
    part,
    trouble,
)


@of_each_size
async def test_a_server_that_never_answers(data: bytes) -> None:
    with ScriptedServer([HANG]) as server:
        assert "no answer within 0.5 s" in str(await trouble(server, data))


async def test_a_server_that_never_speaks_tls(trusted: Authority) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}"
        async with opened(url) as store:
            with pytest.raises(StoreTrouble, match=r"no connection within 0\.5 s"):
                await get(store, SMALL)


@of_each_size
async def test_a_byte_every_now_and_then_is_no_answer(data: bytes) -> None:
    with ScriptedServer([answer(content_length=len(data)), DRIP]) as server:
        said = str(await trouble(server, b"x" * len(data)))
    assert "fewer than 1024 bytes a second" in said


async def test_a_small_body_that_breaks_off_is_asked_for_again() -> None:
    with ScriptedServer([answer(SMALL)[:-5], CUT], [answer(SMALL)]) as server:
        async with opened(server.url) as store:
            assert await get(store, SMALL) == SMALL
    assert len(server.heads) == 2


@of_streamed
async def test_a_body_that_breaks_off_goes_on_where_it_stopped(data: bytes) -> None:
    stopped = len(data) * 2 // 3
    first = answer(data, ETag='"1"')[: stopped - len(data)]
    with ScriptedServer([first, CUT], [part(data, stopped, ETag='"1"')]) as server:
        async with opened(server.url) as store:
            assert await get(store, data) == data
    assert f"Range: bytes={stopped}-" in server.heads[1]
    assert 'If-Range: "1"' in server.heads[1]


async def test_a_body_that_breaks_off_again_and_again_is_given_up() -> None:
    with ScriptedServer([answer(SMALL)[:-5], CUT]) as server:
        assert "the connection broke off, 3 times" in str(await trouble(server, SMALL))
    assert len(server.heads) == 3


@of_streamed
async def test_a_server_without_ranges_begins_again(data: bytes) -> None:
    with ScriptedServer([answer(data)[:-7000], CUT], [answer(data)]) as server:
        async with opened(server.url) as store:
            assert await get(store, data) == data
    assert "Range: " in server.heads[1]


@pytest.mark.parametrize(
    ("then", "words"),
    [
        (part(MIDDLE, 1000, ETag='"2"'), "another range"),
        (part(MIDDLE + b"x", len(MIDDLE) - 7000, ETag='"1"'), "another range"),
        (part(MIDDLE, len(MIDDLE) - 7000, ETag='"2"'), "changed on the server"),
        (answer(b"", "416 Range Not Satisfiable"), "HTTP 416"),
        (answer(b"", "404 Not Found"), "went away"),
    ],
)
async def test_what_goes_on_must_be_the_same_file(then: bytes, words: str) -> None:
    with ScriptedServer([answer(MIDDLE, ETag='"1"')[:-7000], CUT], [then]) as server:
        assert words in str(await trouble(server, MIDDLE))


async def test_a_list_that_changes_while_it_is_read_is_read_again() -> None:
    old, new = b"old " * 1000, b"new " * 500
    date = "Wed, 01 Jan 2014 00:00:00 GMT"
    with ScriptedServer([answer(old)[:-7], CUT], [answer(new, last_modified=date)]) as server:
        async with opened(server.url) as store:
            opened_list = await store.open_list(NAME)
    with opened_list.file as file:
        assert file.read() == new
    assert opened_list.mtime_ns == 1_388_534_400 * 10**9


async def test_a_server_that_is_gone() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    async with opened(url) as store:
        with pytest.raises(StoreTrouble, match="no connection: Connection refused, 3 times"):
            await get(store, SMALL)


@pytest.mark.parametrize("host", ["nowhere.invalid", "a" * 64])
async def test_a_name_that_is_nobodys(host: str) -> None:
    async with opened(f"http://{host}") as store:
        with pytest.raises(StoreTrouble, match=host) as caught:
            await get(store, SMALL)
    assert caught.value.hint is None or "DNS" in caught.value.hint


SILENT_NAME_SERVER = """
import fcntl, socket, struct, time, trio
from aysfs.digest import EMPTY
from aysfs.store.http import HttpStore
from aysfs.store.http_address import parse_http_address
from aysfs.store.http_request import Bounds

silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
fcntl.ioctl(silent, 0x8914, struct.pack("16sh14x", b"lo", 1))  # SIOCSIFFLAGS: up
silent.bind(("127.0.0.1", 53))

async def main():
    longest = 0.0

    async def tick():
        nonlocal longest
        while True:
            before = time.monotonic()
            await trio.sleep(0.01)
            longest = max(longest, time.monotonic() - before)

    store = HttpStore(parse_http_address("http://store.example"), bounds=Bounds(connect=0.5))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tick)
        try:
            await store.missing({EMPTY: 0})
        except Exception as error:
            print(error)
        await store.aclose()
        nursery.cancel_scope.cancel()
    print("held" if longest > 2 else "free")

trio.run(main)
"""


def test_a_name_server_that_never_answers_holds_nobody(tmp_path: Path) -> None:
    """In namespaces of its own, where every question goes to a socket that nobody reads."""
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    shell = 'mount --bind "$1" /etc/resolv.conf && exec "$2" -c "$3"'
    command = ["unshare", "-mn", "sh", "-c", shell, "sh", f"{tmp_path}/resolv.conf"]
    command += [sys.executable, SILENT_NAME_SERVER]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    said, loop = done.stdout.splitlines()
    assert said.endswith(": no connection within 0.5 s")
    assert (loop, done.stderr) == ("free", "")
