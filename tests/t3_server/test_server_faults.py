"""What clients, crashes and disks do to a server, and what of it anybody sees."""

import contextlib
import io
import os
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest
import trio

from aysfs import digest as digests
from aysfs.errors import BlobMissing, StoreTrouble
from aysfs.names import parse_name
from aysfs.server.serve import STALLED, listen
from aysfs.store.frames import FRAME_LIMIT, frame_head
from aysfs.store.protocol import BlobSource, Held
from tests.store_server import StoreServer, opened

NAME = parse_name("a__b")
DATA = os.urandom(3 << 20)
DIGEST = digests.of(DATA)
SMALL = b"small"


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def until(condition: partial[bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        os.sched_yield()


# --- bodies that are not what they should be -----------------------------------------------


@pytest.mark.parametrize("size", [5, 3 << 20])
def test_a_body_that_is_not_its_hash_is_refused(tmp_path: Path, size: int) -> None:
    with StoreServer(tmp_path, "--open") as server, httpx.Client(timeout=20) as client:
        body = os.urandom(size)
        for chunked in (False, True):
            content = iter([body]) if chunked else body
            answer = client.post(f"{server.url}/store/dedupe/{DIGEST.hex()}", content=content)
            assert answer.status_code == 422, answer.text
            assert digests.of(body).hex() in answer.json()["error"]
        frames = frame_head(DIGEST, size) + body
        assert client.post(f"{server.url}/store/dedupe/blobs", content=frames).status_code == 422
        assert files(server.root) == []


@pytest.mark.parametrize(
    "stream",
    [
        b"x",
        frame_head(digests.of(SMALL), 5) + b"smal",
        frame_head(digests.of(SMALL), FRAME_LIMIT + 1),
        frame_head(digests.of(SMALL), (1 << 64) - 1),
    ],
)
def test_a_stream_that_is_none_is_refused(tmp_path: Path, stream: bytes) -> None:
    with StoreServer(tmp_path, "--open") as server:
        answer = httpx.post(f"{server.url}/store/dedupe/blobs", content=stream, timeout=20)
        assert answer.status_code == 400
        assert files(server.root) == []


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("exists", b"no json"),
        ("exists", b"[]"),
        ("exists", b"{}"),
        ("exists", b'{"Hashes": [3]}'),
        ("exists", b'{"Hashes": ["../../../etc/passwd"]}'),
        ("exists", b'{"Hashes": [], "Sizes": [1]}'),
        ("exists", b'{"Hashes": ["d41d8cd98f00b204e9800998ecf8427e"], "Sizes": [-1]}'),
        ("exists", b'{"Hashes": ["d41d8cd98f00b204e9800998ecf8427e"], "Sizes": [true]}'),
        ("delete", b'{"Hashes": "d41d8cd98f00b204e9800998ecf8427e"}'),
        ("delete", b'{"Hashes": ["D41D8CD98F00B204E9800998ECF8427E"]}'),
        ("strays/delete", b'{"Paths": ["../x"]}'),
        ("strays/delete", b'{"Paths": [3]}'),
    ],
)
def test_a_question_that_is_none_is_refused(server: StoreServer, path: str, body: bytes) -> None:
    answer = httpx.post(f"{server.url}/store/dedupe/{path}", content=body, timeout=20)
    assert answer.status_code == 400
    assert answer.json()["error"]


def test_an_upload_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    with StoreServer(tmp_path, "--open") as server:
        for path in (f"/store/dedupe/{DIGEST.hex()}", "/dedupe/md/a__b.flist", "/static/x"):
            method = "POST" if path.startswith("/st") else "PUT"
            head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(DATA)}\r\n\r\n"
            with socket.create_connection(("127.0.0.1", server.port)) as connection:
                connection.sendall(head.encode() + DATA[: 2 << 20])
                until(partial(has_under_way, server, 1))
            until(partial(has_under_way, server, 0))
            assert files(server.root) == []


def has_under_way(server: StoreServer, count: int) -> bool:
    """Whether so many requests are under way, but for the one that asks."""
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    return f"aysfs_requests_in_flight {count + 1.0}" in lines


def test_a_server_killed_in_an_upload_shows_nothing_of_it(tmp_path: Path) -> None:
    server = StoreServer(tmp_path, "--open").start()
    head = f"POST /store/dedupe/{DIGEST.hex()} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(DATA)}"
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(f"{head}\r\n\r\n".encode() + DATA[: 2 << 20])
        until(partial(has_under_way, server, 1))
        server.kill()

    async def look() -> None:
        async with opened(server) as store:
            with pytest.raises(BlobMissing):
                await store.get(DIGEST, len(DATA), Held())
            assert await store.missing({DIGEST: len(DATA)}) == {DIGEST}
            assert await store.shelf(DIGEST[0]) == []
            assert await store.strays() == []
            await store.put(DIGEST, len(DATA), io.BytesIO(DATA))
            sink = Held()
            await store.get(DIGEST, len(DATA), sink)
            assert sink.getvalue() == DATA

    with server:
        trio.run(look)
    assert [name.rpartition("/")[2] for name in files(server.root)] == [DIGEST.hex()]


# --- disks ---------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    root = tmp_path / "disk"
    root.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(root)]
    subprocess.run(mount, check=True)
    yield root
    subprocess.run(["umount", "-l", str(root)], check=True)


async def test_a_full_disk_is_trouble_that_says_so(small_disk: Path, tmp_path: Path) -> None:
    with StoreServer(tmp_path, "--open", root=small_disk) as server:
        async with opened(server) as store:
            many = [BlobSource.of(digests.of(one), one) for one in map(os.urandom, [200_000] * 8)]
            attempts: list[Callable[[], Awaitable[None]]] = [
                lambda: store.put(DIGEST, len(DATA), io.BytesIO(DATA)),
                lambda: store.put_many(many),
                lambda: store.put_list(NAME, [DATA]),
            ]
            for attempt in attempts:
                with pytest.raises(StoreTrouble, match="No space left on device") as caught:
                    await attempt()
                assert caught.value.hint == "the disk of the server is full"
            assert await store.strays() == []
            assert await store.lists() == []
            assert await store.missing({DIGEST: len(DATA)}) == {DIGEST}
            kept = [one for first in range(256) for one in await store.shelf(first)]
            await store.delete([one.digest for one in kept])
            await store.put(digests.of(SMALL), 5, io.BytesIO(SMALL))


def test_a_root_that_has_gone_is_never_not_there(tmp_path: Path) -> None:
    with StoreServer(tmp_path, "--open") as server:
        url = f"{server.url}/store/dedupe/{DIGEST.hex()}"
        assert httpx.get(url).status_code == 404
        server.root.rename(tmp_path / "elsewhere")
        assert httpx.get(url).status_code == 503
        assert httpx.get(f"{server.url}/health").status_code == 503
        server.root.mkdir()  # as the place looks where a disk is mounted no more
        assert httpx.get(url).status_code == 503
        assert httpx.get(f"{server.url}/dedupe/md/a__b.flist").status_code == 503


# --- clients -------------------------------------------------------------------------------


async def test_connections_that_send_nothing_stop_nobody(tmp_path: Path) -> None:
    with StoreServer(tmp_path, "--open") as server, contextlib.ExitStack() as stack:
        for number in range(200):
            silent = socket.create_connection(("127.0.0.1", server.port))
            stack.enter_context(silent)
            if number % 4 == 1:
                silent.sendall(b"GET / HT")
            if number % 4 == 2:
                silent.sendall(b"POST /store/dedupe HTTP/1.1\r\nHost: x\r\n")
                silent.sendall(b"Content-Length: 9\r\n\r\n")
        with trio.fail_after(20):
            async with opened(server) as store:
                await store.put(DIGEST, len(DATA), io.BytesIO(DATA))
                sink = Held()
                await store.get(DIGEST, len(DATA), sink)
        assert sink.getvalue() == DATA


def test_a_client_that_reads_nothing_is_ended_by_the_kernel() -> None:
    with listen("127.0.0.1:0") as made:
        made.listen()
        with socket.create_connection(made.getsockname()):
            connection, _ = made.accept()
            with connection:
                found = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
    assert found == STALLED * 1000


def test_what_is_larger_than_allowed_is_refused(tmp_path: Path) -> None:
    with StoreServer(tmp_path, "--open", "--max-blob", "1M") as server:
        with httpx.Client(timeout=20) as client:
            frame = frame_head(DIGEST, len(DATA)) + DATA
            for path, body in (
                (f"store/dedupe/{DIGEST.hex()}", DATA),
                ("store/dedupe", DATA),
                ("store/dedupe/blobs", frame),
            ):
                for content in (body, iter([body])):
                    answered = client.post(f"{server.url}/{path}", content=content)
                    assert answered.status_code == 413
            many = b"".join(
                frame_head(digests.of(one), len(one)) + one for one in map(os.urandom, [9999] * 300)
            )
            sent = client.post(f"{server.url}/store/dedupe/blobs", content=many)
            assert sent.json() == {"Kept": 300}
            note = client.put(f"{server.url}/dedupe/md/note", content=DATA)
            assert note.status_code == 413
        assert len(files(server.root)) == 300


def test_who_asks_too_often_is_told_to_wait(tmp_path: Path) -> None:
    with StoreServer(tmp_path, "--open", "--rate", "2") as server, httpx.Client() as client:
        answers = [client.get(f"{server.url}/health") for _ in range(8)]
        assert answers[0].status_code == 200
        assert answers[-1].status_code == 429
        assert answers[-1].headers["retry-after"] == "1"
