"""What clients, crashes and disks do to a server, and what of it anybody sees."""

import contextlib
import io
import os
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest
import trio

from aysfs import digest as digests
from aysfs.digest import Digest
from aysfs.errors import AysfsError, BadConfig, BlobMissing, Corrupt, StoreTrouble
from aysfs.names import parse_name
from aysfs.publish.push import push
from aysfs.server.serve import STALLED, listen
from aysfs.store.directory import DirectoryStore
from aysfs.store.frames import FRAME_LIMIT, frame_head
from aysfs.store.http import HttpStore
from aysfs.store.http_address import parse_http_address
from aysfs.store.http_request import Bounds
from aysfs.store.protocol import BlobSource, Held
from aysfs.upkeep.check import check
from aysfs.upkeep.gc import gc
from tests.servers import CUT, HANG, Authority, ScriptedServer, answer
from tests.store_server import StoreServer

NAME = parse_name("a__b")
DATA = os.urandom(3 << 20)
DIGEST = digests.of(DATA)
SMALL = b"small"


@contextlib.asynccontextmanager
async def opened(server: StoreServer, namespace: str = "dedupe") -> AsyncIterator[HttpStore]:
    address = parse_http_address(server.url)
    store = HttpStore(address, namespace, bounds=Bounds(tries=2, backoff=0.01))
    try:
        yield store
    finally:
        await store.aclose()


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


# --- two at once -----------------------------------------------------------------------------


def make_tree(folder: Path, text: str) -> Path:
    folder.mkdir()
    for number in range(300):
        (folder / str(number)).write_text(f"{text if number % 2 else ''}{number}")
    return folder


async def test_two_pushes_of_one_service_leave_one_of_both(
    server: StoreServer, tmp_path: Path
) -> None:
    trees = [make_tree(tmp_path / text, text) for text in ("one", "two")]
    async with opened(server, "pushes") as store, trio.open_nursery() as nursery:
        for tree in trees:
            nursery.start_soon(partial(push, base=b"/x"), tree, NAME, store)
    async with opened(server, "pushes") as store:
        report = await check(store, deep=True)
        assert [one.name for one in report.lists] == [NAME]
        assert (report.wrong, report.blobs) == ({}, 300)
        assert await store.notes() == {}
        assert await store.strays() == []


async def test_a_gc_beside_a_push_takes_nothing_that_it_needs(
    server: StoreServer, tmp_path: Path
) -> None:
    tree = make_tree(tmp_path / "tree", "tree")
    async with opened(server, "swept") as store:
        garbage = os.urandom(100)
        await store.put(digests.of(garbage), 100, io.BytesIO(garbage))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(gc, grace=0, delete=True, settle=0.2), store)
            nursery.start_soon(partial(push, base=b"/x"), tree, NAME, store)
        report = await check(store, deep=True)
        assert [one.name for one in report.lists] == [NAME]
        assert (report.wrong, report.blobs) == ({}, 300)
        assert await store.missing({digests.of(garbage): 100}) == {digests.of(garbage)}
        assert await store.notes() == {}


# --- the rest --------------------------------------------------------------------------------


async def test_a_store_is_written_to_over_tls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path / "authority")
    certificate = authority.ca.issue_cert("127.0.0.1")
    key, chain = tmp_path / "key", tmp_path / "chain"
    certificate.private_key_pem.write_to_path(str(key))
    for pem in certificate.cert_chain_pems:
        pem.write_to_path(str(chain), append=True)
    options = ("--open", "--tls-cert", str(chain), "--tls-key", str(key))
    with StoreServer(tmp_path, *options) as server:
        assert server.url.startswith("https://")
        async with opened(server) as store:
            with pytest.raises(StoreTrouble, match="certificate"):
                await store.put(DIGEST, len(DATA), io.BytesIO(DATA))
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
        async with opened(server) as store:
            await store.put(DIGEST, len(DATA), io.BytesIO(DATA))
            sink = Held()
            await store.get(DIGEST, len(DATA), sink)
            assert sink.getvalue() == DATA


def test_the_lineage_finds_its_api(tmp_path: Path) -> None:
    with StoreServer(tmp_path, "--open") as server:
        with httpx.Client(base_url=f"{server.url}/store", timeout=20) as client:
            name = digests.of(SMALL).hex()
            for _ in range(2):
                answer = client.post("dedupe", content=SMALL)
                assert (answer.status_code, answer.json()) == (201, {"Hash": name})
            got = client.get(f"dedupe/{name}")
            assert (got.content, got.headers["content-length"]) == (SMALL, "5")
            assert client.head(f"dedupe/{name}").status_code == 200
            asked = client.post("dedupe/exists", json={"Hashes": [name, DIGEST.hex()]})
            assert asked.json() == {name: True, DIGEST.hex(): False}
            client.post("dedupe", content=DATA)
            lines = client.get("dedupe", params={"compress": "true"}).text.splitlines()
            expected = sorted([[name, "5"], [DIGEST.hex(), str(len(DATA))]])
            assert [line.split("|")[:2] for line in lines] == expected
            assert all(abs(int(line.split("|")[2]) - time.time()) < 60 for line in lines)
            assert client.delete(f"dedupe/{name}").status_code == 200
            assert client.delete(f"dedupe/{name}").status_code == 404
            assert client.head(f"dedupe/{name}").status_code == 404
        for data in (b"first", b"second", DATA):
            assert httpx.post(f"{server.url}/static/jsnet", content=data).status_code == 201
            assert httpx.get(f"{server.url}/static/jsnet").content == data


def test_files_go_out_as_a_web_server_sends_them(server: StoreServer) -> None:
    url = f"{server.url}/dedupe/{DIGEST.hex()[0]}/{DIGEST.hex()[1]}/{DIGEST.hex()}"
    httpx.post(f"{server.url}/store/dedupe", content=DATA)
    whole = httpx.get(url)
    assert whole.content == DATA
    assert "immutable" in whole.headers["cache-control"]
    head = httpx.head(url)
    assert head.content == b""
    for name in ("etag", "last-modified", "content-length", "accept-ranges"):
        assert head.headers[name] == whole.headers[name]
    part = httpx.get(url, headers={"Range": "bytes=1000000-", "If-Range": head.headers["etag"]})
    assert (part.status_code, part.content) == (206, DATA[1_000_000:])
    assert part.headers["content-range"] == f"bytes 1000000-{len(DATA) - 1}/{len(DATA)}"
    beyond = httpx.get(url, headers={"Range": f"bytes={len(DATA)}-"})
    assert beyond.status_code == 416
    known = httpx.get(url, headers={"If-None-Match": head.headers["etag"]})
    assert (known.status_code, known.content) == (304, b"")


def test_what_the_server_counts(tmp_path: Path) -> None:
    with StoreServer(tmp_path, "--open") as server:
        httpx.post(f"{server.url}/store/dedupe", content=DATA)
        httpx.get(f"{server.url}/store/dedupe/{DIGEST.hex()}")
        httpx.get(f"{server.url}/store/dedupe/{digests.of(SMALL).hex()}")
        server.logged(" 404 ")
        lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    for line in (
        'aysfs_requests_total{kind="upload",status="201"} 1.0',
        'aysfs_requests_total{kind="blob",status="200"} 1.0',
        'aysfs_requests_total{kind="blob",status="404"} 1.0',
        'aysfs_blobs_total{what="kept"} 1.0',
        "aysfs_received_bytes_total 3.145728e+06",
        "aysfs_requests_in_flight 1.0",
    ):
        assert line in lines


async def test_requests_under_way_are_answered_before_the_end(tmp_path: Path) -> None:
    with StoreServer(tmp_path, "--open") as server:
        async with opened(server) as store:
            await store.put(DIGEST, len(DATA), io.BytesIO(DATA))
        assert server.stop() == 0
    assert (await DirectoryStore(server.root).missing({DIGEST: len(DATA)})) == set()
    assert "ending" in server.log.read_text()


async def test_uploads_that_are_given_up_cost_no_connection(server: StoreServer) -> None:
    many = [BlobSource.of(digests.of(one), one) for one in map(os.urandom, [2 << 20] * 20)]
    async with opened(server, "given-up") as store:
        for tenths in range(30):
            with trio.move_on_after(tenths / 1000):
                await store.put_many(many)
        with trio.fail_after(20):
            await store.put_many(many)
            assert await store.missing({one.digest: one.size for one in many}) == set()


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ([HANG], "no answer in time"),
        ([CUT], "the connection broke off"),
        ([answer(status="500 No")], "HTTP 500"),
        ([answer(status="429 Wait", retry_after="3600")], "HTTP 429"),
        ([answer(status="401 No")], "HTTP 401"),
    ],
)
async def test_a_server_that_fails_a_write_is_trouble(
    script: list[bytes | str], words: str
) -> None:
    with ScriptedServer(script) as server:
        address = parse_http_address(server.url)
        store = HttpStore(address, bounds=Bounds(tries=2, backoff=0.01, idle=0.2))
        with pytest.raises(StoreTrouble, match=words):
            await store.put_list(NAME, [b"x"])
        await store.aclose()


@pytest.mark.parametrize(
    "said",
    [b"", b"no json", b"[]", b'{"aysfs-store": 2}', b"<html>welcome</html>"],
)
async def test_who_says_something_else_takes_no_writes(said: bytes) -> None:
    with ScriptedServer([answer(said)]) as server:
        store = HttpStore(parse_http_address(server.url))
        with pytest.raises(BadConfig, match="takes no writes"):
            await store.put_list(NAME, [b"x"])
        await store.aclose()


async def test_wrong_bytes_of_a_source_reach_nobody(server: StoreServer) -> None:
    wrong: list[tuple[Digest, int, bytes]] = [
        (DIGEST, len(DATA), DATA[:-1]),
        (DIGEST, len(DATA), DATA + b"x"),
        (digests.of(SMALL), 5, b"smal"),
    ]
    async with opened(server, "wrong") as store:
        for digest, size, data in wrong:
            with pytest.raises(Corrupt):
                await store.put(digest, size, io.BytesIO(data))
            with pytest.raises(AysfsError):
                await store.put_many([BlobSource(digest, size, partial(io.BytesIO, data))])
            assert await store.missing({digest: size}) == {digest}
