"""What a served store does for those who ask: two at once, TLS, the old API, counters, its end."""

import io
import os
import time
from functools import partial
from pathlib import Path

import httpx
import pytest
import trio

from aysfs import digest as digests
from aysfs.digest import Digest
from aysfs.errors import AysfsError, BadConfig, Corrupt, StoreTrouble
from aysfs.names import parse_name
from aysfs.publish.push import push
from aysfs.store.directory import DirectoryStore
from aysfs.store.http_address import parse_http_address
from aysfs.store.http_request import Bounds
from aysfs.store.http_served import ServedStore
from aysfs.store.protocol import BlobSource, Held
from aysfs.upkeep.check import check
from aysfs.upkeep.gc import gc
from tests.servers import CUT, HANG, Authority, ScriptedServer, answer
from tests.store_server import StoreServer, opened

NAME = parse_name("a__b")
DATA = os.urandom(3 << 20)
DIGEST = digests.of(DATA)
SMALL = b"small"


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


@pytest.mark.parametrize("size", [1000, len(DATA)], ids=["with others", "alone"])
async def test_a_damaged_blob_that_is_sent_again_is_whole_again(
    server: StoreServer, size: int
) -> None:
    data = DATA[:size]
    digest = digests.of(data)
    async with opened(server, "damaged") as store:
        await store.put_many([BlobSource.of(digest, data)])
        (path,) = (server.root / "damaged").rglob(digest.hex())
        path.chmod(0o600)
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        await store.put_many([BlobSource.of(digest, data)])
        held = Held()
        await store.get(digest, size, held)
        assert held.getvalue() == data


# --- lists and parts ---------------------------------------------------------------------------


async def test_lists_go_out_compressed_to_who_takes_them_so(server: StoreServer) -> None:
    text = b"".join(b"/opt/%d|%032x|%d\n" % (n, n * 7919, n) for n in range(20_000))
    async with opened(server, "compressed") as store:
        await store.put_list(NAME, [text])
        with (await store.open_list(NAME)).file as file:
            assert file.read() == text
        await store.write_note("note", text[:1000])
        await store.put(DIGEST, len(DATA), io.BytesIO(DATA))
    url = f"{server.url}/compressed/md/a__b.flist"
    takes, plain = {"accept-encoding": "gzip"}, {"accept-encoding": "identity"}
    packed, whole = server.web.get(url, headers=takes), server.web.get(url, headers=plain)
    assert packed.content == whole.content == text
    assert packed.headers["content-encoding"] == "gzip"
    assert int(packed.headers.get("content-length", 0)) < len(text) // 3
    assert packed.headers["etag"] == f"W/{whole.headers['etag']}"
    assert "accept-encoding" in packed.headers["vary"].lower()
    assert "content-encoding" not in whole.headers
    name = DIGEST.hex()
    for path in ("md/note", f"{name[0]}/{name[1]}/{name}"):
        found = server.web.get(f"{server.url}/compressed/{path}", headers=takes)
        assert "content-encoding" not in found.headers
    part = server.web.get(url, headers={**takes, "range": "bytes=5-14"})
    assert (part.status_code, part.content) == (206, text[5:15])
    assert "content-encoding" not in part.headers


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
        store = ServedStore(address, bounds=Bounds(tries=2, backoff=0.01, idle=0.2))
        with pytest.raises(StoreTrouble, match=words):
            await store.put_list(NAME, [b"x"])
        await store.aclose()


@pytest.mark.parametrize(
    "said",
    [b"", b"no json", b"[]", b'{"aysfs-store": 2}', b"<html>welcome</html>"],
)
async def test_who_says_something_else_takes_no_writes(said: bytes) -> None:
    with ScriptedServer([answer(said)]) as server:
        store = ServedStore(parse_http_address(server.url))
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
