"""Web servers that misbehave, each in one way, on real sockets. What works is the conformance
suite's, with nginx.
"""

import base64
import contextlib
import datetime
import io
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import trio
import trustme

from aysfs import digest as digests
from aysfs.digest import Digest
from aysfs.errors import AysfsError, BadConfig, BlobMissing, Corrupt, StoreTrouble
from aysfs.names import parse_name
from aysfs.store.http import HttpStore
from aysfs.store.http_address import parse_http_address
from aysfs.store.http_fetch import HELD, POURED
from aysfs.store.http_request import Bounds
from aysfs.store.http_served import ServedStore
from aysfs.store.protocol import BlobSource, Held
from tests.servers import (
    CUT,
    DRIP,
    HANG,
    LOGIN,
    Authority,
    Nginx,
    ScriptedServer,
    answer,
    free_port,
)

QUICK = Bounds(connect=1.0, idle=0.5, whole=10.0, tries=3, backoff=0.01, patience=2.0)
NAME = parse_name("jumpscale__base")
HTML = b"<html><body>Sign in to this network</body></html>"

SMALL = b"held until it is whole"
MIDDLE = bytes(range(256)) * (HELD // 256 + 700)
LARGE = bytes(range(255)) * (POURED // 255 + 9000)
of_each_size = pytest.mark.parametrize(
    "data", [SMALL, MIDDLE, LARGE], ids=["held", "streamed", "poured"]
)
of_streamed = pytest.mark.parametrize("data", [MIDDLE, LARGE], ids=["streamed", "poured"])


@contextlib.asynccontextmanager
async def opened(url: str, bounds: Bounds = QUICK) -> AsyncIterator[HttpStore]:
    store = HttpStore(parse_http_address(url), bounds=bounds)
    try:
        yield store
    finally:
        await store.aclose()


async def get(store: HttpStore, data: bytes) -> bytes:
    sink = Held()
    await store.get(digests.of(data), len(data), sink)
    return sink.getvalue()


async def trouble(
    server: ScriptedServer, data: bytes, kind: type[AysfsError] = StoreTrouble
) -> AysfsError:
    """What reading a blob comes to; nothing of it reaches the sink but its own beginning."""
    sink = Held()
    async with opened(server.url) as store:
        with pytest.raises(kind) as caught:
            await store.get(digests.of(data), len(data), sink)
    assert data.startswith(sink.getvalue())
    assert server.url.removeprefix("http") in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value


def part(data: bytes, start: int, **headers: str | int) -> bytes:
    """The answer to a range request."""
    span = f"bytes {start}-{len(data) - 1}/{len(data)}"
    return answer(data[start:], "206 Partial Content", content_range=span, **headers)


# --- servers that stop -------------------------------------------------------------------


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


# --- other answers -----------------------------------------------------------------------


@of_each_size
@pytest.mark.parametrize("status", ["404 Not Found", "410 Gone"])
async def test_only_not_there_is_missing(data: bytes, status: str) -> None:
    with ScriptedServer([answer(HTML, status)]) as server:
        await trouble(server, data, BlobMissing)
    assert [head.split()[1].count("/files/") for head in server.heads] == [0, 1]


@of_each_size
@pytest.mark.parametrize(
    ("status", "words", "hint"),
    [
        ("401 Unauthorized", "wants a login", "login:password@host"),
        ("403 Forbidden", "forbids it", "may this login read it"),
        ("418 Teapot", "HTTP 418", ""),
        ("204 No Content", "HTTP 204", ""),
        ("304 Not Modified", "HTTP 304", ""),
    ],
)
async def test_other_refusals_are_trouble(data: bytes, status: str, words: str, hint: str) -> None:
    with ScriptedServer([answer(b"", status)]) as server:
        error = await trouble(server, data)
    assert words in str(error)
    assert hint in (error.hint or "")
    assert len(server.heads) == 1


@of_each_size
async def test_a_failing_server_is_asked_again(data: bytes) -> None:
    failing = [answer(HTML * 1000, "500 Oh")], [answer(b"", "503 Busy")]
    with ScriptedServer(*failing, [answer(data)]) as server:
        async with opened(server.url) as store:
            assert await get(store, data) == data


@of_each_size
async def test_a_server_that_goes_on_failing_is_trouble(data: bytes) -> None:
    with ScriptedServer([answer(HTML, "500 Oh")]) as server:
        assert "HTTP 500, 3 times" in str(await trouble(server, data))
    assert len(server.heads) == 3


async def test_a_server_is_left_alone_for_as_long_as_it_asks() -> None:
    busy = answer(b"", "429 Too Many Requests", retry_after=1)
    with ScriptedServer([busy], [answer(SMALL)]) as server:
        async with opened(server.url) as store:
            start = trio.current_time()
            assert await get(store, SMALL) == SMALL
            assert trio.current_time() - start >= 1


async def test_a_server_that_asks_for_too_long_a_time_is_trouble() -> None:
    with ScriptedServer([answer(b"", "503 Busy", retry_after=3600)]) as server:
        error = await trouble(server, SMALL)
    assert "3600 s" in str(error)
    assert len(server.heads) == 1


@of_each_size
@pytest.mark.parametrize("found", [HTML, b""])
async def test_an_error_page_with_status_200_is_no_blob(data: bytes, found: bytes) -> None:
    with ScriptedServer([answer(found, content_type="text/html")]) as server:
        assert f"has {len(found)} bytes" in str(await trouble(server, data, Corrupt))


@of_each_size
async def test_a_longer_body_is_no_blob(data: bytes) -> None:
    with ScriptedServer([answer(data + b"more")]) as server:
        assert f"has {len(data) + 4} bytes" in str(await trouble(server, data, Corrupt))


@of_each_size
async def test_a_longer_body_of_unknown_length_is_no_blob(data: bytes) -> None:
    with ScriptedServer([answer(data + b"more" * 9000, content_length=""), CUT]) as server:
        await trouble(server, data, Corrupt)


@of_each_size
async def test_a_shorter_body_of_unknown_length_is_trouble(data: bytes) -> None:
    with ScriptedServer([answer(data[:-1], content_length=""), CUT]) as server:
        await trouble(server, data)


async def test_what_is_no_http_is_trouble() -> None:
    with ScriptedServer([b"SSH-2.0-OpenSSH_9.2\r\n", CUT]) as server:
        await trouble(server, SMALL)


async def test_redirects_in_a_loop_end() -> None:
    with ScriptedServer([answer(b"", "302 Found", location="/again")]) as server:
        assert "redirected again and again" in str(await trouble(server, SMALL))
    assert len(server.heads) == 6


@of_each_size
async def test_a_redirect_is_followed_and_the_login_stays_behind(data: bytes) -> None:
    with ScriptedServer([answer(data)]) as other:
        away = answer(HTML, "302 Found", location=f"{other.url}/elsewhere")
        with ScriptedServer([away]) as server:
            url = server.url.replace("://", "://login:word@")
            async with opened(url) as store:
                assert await get(store, data) == data
    assert "Authorization: Basic" in server.heads[0]
    assert "Authorization" not in other.heads[0]


async def test_no_redirect_leads_out_of_tls(trusted: Authority) -> None:
    tls = trusted.context(trusted.ca.issue_cert("127.0.0.1"))
    with ScriptedServer([answer(SMALL)]) as plain:
        away = answer(b"", "302 Found", location=plain.url)
        with ScriptedServer([away], tls=tls) as server:
            assert "not followed" in str(await trouble(server, SMALL))
    assert plain.heads == []


# --- tls and logins ----------------------------------------------------------------------


def expired(authority: Authority) -> trustme.LeafCert:
    past = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    return authority.ca.issue_cert("127.0.0.1", not_before=past, not_after=past)


@pytest.mark.parametrize(
    "certificate",
    [
        lambda _: trustme.CA().issue_cert("127.0.0.1"),
        lambda authority: authority.ca.issue_cert("elsewhere.example"),
        expired,
    ],
    ids=["another authority's", "another host's", "expired"],
)
async def test_a_wrong_certificate_is_never_accepted(
    trusted: Authority, certificate: Callable[[Authority], trustme.LeafCert]
) -> None:
    tls = trusted.context(certificate(trusted))
    with ScriptedServer([answer(SMALL)], tls=tls) as server:
        error = await trouble(server, SMALL)
    assert "certificate" in str(error)
    assert "SSL_CERT_FILE" in (error.hint or "")
    assert server.heads == []


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """nginx that asks for a login, with one list."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "root/dedupe/md").mkdir(parents=True)
    (folder / "root/dedupe/md/jumpscale__base.flist").touch()
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)
    with Nginx(folder / "nginx", folder / "root", login=True) as server:
        yield server


async def test_a_login_is_taken_from_the_address(guarded: Nginx) -> None:
    login = LOGIN.replace(" ", "%20")
    async with opened(guarded.url.replace("://", f"://{login}@")) as store:
        assert await store.lists() == [NAME]
        assert store.label == guarded.url.replace("://", "://aladdin@")


@pytest.mark.parametrize("login", ["", "aladdin:geheim@", "aladdin@"])
async def test_no_login_or_a_wrong_one_is_trouble(guarded: Nginx, login: str) -> None:
    async with opened(guarded.url.replace("://", f"://{login}")) as store:
        with pytest.raises(StoreTrouble, match="wants a login") as caught:
            await store.lists()
    assert "geheim" not in f"{caught.value!r} {caught.value.hint} {store.label}"


async def test_a_login_may_have_any_letters() -> None:
    with ScriptedServer([answer(SMALL)]) as server:
        async with opened(server.url.replace("://", "://j\u00fcrgen:p%C3%A4ss@")) as store:
            assert await get(store, SMALL) == SMALL
    sent = base64.b64encode("j\u00fcrgen:p\u00e4ss".encode()).decode()
    assert f"Authorization: Basic {sent}" in server.heads[0]


async def test_the_file_of_authorities_may_have_any_name(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = tmp_path / "autorit\u00e4t.pem"
    named.write_bytes(authority.file.read_bytes())
    monkeypatch.setenv("SSL_CERT_FILE", str(named))
    context = authority.context(authority.ca.issue_cert("127.0.0.1"))
    with ScriptedServer([answer(SMALL)], tls=context) as server:
        async with opened(server.url) as store:
            assert await get(store, SMALL) == SMALL


@pytest.mark.parametrize("year", ["99999", "1215", "9998"])
async def test_a_list_of_an_impossible_date_is_one_without(year: str) -> None:
    date = f"Thu, 01 Jan {year} 00:00:00 GMT"
    with ScriptedServer([answer(b"#flist 2\n", last_modified=date)]) as server:
        async with opened(server.url) as store:
            found = await store.open_list(NAME)
    with found.file:
        assert (found.mtime_ns, found.file.read()) == (0, b"#flist 2\n")


async def test_a_name_that_is_no_utf8_is_a_stray(nginx: Nginx, folder: Path) -> None:
    """One that ends in `.flist` counts as a list that cannot be read."""
    (folder / "dedupe/md").mkdir(parents=True)
    (folder / os.fsdecode(b"dedupe/md/caf\xe9.flist")).write_bytes(b"x")
    async with opened(f"{nginx.url}/{folder.name}") as store:
        assert [one.path for one in await store.strays()] == [os.fsdecode(b"md/caf\xe9.flist")]


async def test_a_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedServer([answer(SMALL)]) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        async with opened("http://store.invalid/root") as store:
            assert await get(store, SMALL) == SMALL
    name = digests.of(SMALL).hex()
    path = f"{name[0]}/{name[1]}/{name}"
    assert proxy.heads[0].startswith(f"GET http://store.invalid/root/dedupe/{path} HTTP/1.1")


# --- listings, layouts, connections ------------------------------------------------------


@pytest.fixture
def folder(nginx: Nginx, tmp_path: Path) -> Path:
    """The root of a store that nginx serves, empty."""
    root = nginx.root / tmp_path.name
    (root / "dedupe").mkdir(parents=True)
    return root


def keep(root: Path, data: bytes, under: str = "") -> Digest:
    """A blob in a folder, by hand."""
    digest = digests.of(data)
    name = digest.hex()
    file = root / "dedupe" / under / name[0] / name[1] / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return digest


async def test_the_old_layout_is_remembered(nginx: Nginx, folder: Path) -> None:
    blobs = [b"%d" % number for number in range(10)]
    for blob in blobs:
        keep(folder, blob, "files")
    before = len(nginx.requests())
    async with opened(f"{nginx.url}/{folder.name}") as store:
        for blob in blobs:
            assert await get(store, blob) == blob
    assert len(nginx.requests()) - before == len(blobs) + 1


@pytest.mark.parametrize(
    ("path", "caching"),
    [
        ("md/jumpscale__base.flist", "no-cache"),
        ("", "no-cache"),
        ("8/c/8cd7ea4a1a1d0c5b0c5d8e4e9d6d2f11", "public, max-age=31536000, immutable"),
    ],
)
def test_caches_on_the_way_are_told_what_never_changes(
    nginx: Nginx, folder: Path, path: str, caching: str
) -> None:
    if path:
        (folder / "dedupe" / path).parent.mkdir(parents=True)
        (folder / "dedupe" / path).touch()
    with urllib.request.urlopen(f"{nginx.url}/{folder.name}/dedupe/{path}") as found:
        assert found.headers["Cache-Control"] == caching


async def test_a_json_listing_will_do(tmp_path: Path) -> None:
    (tmp_path / "root/dedupe/md").mkdir(parents=True)
    for name in ("jumpscale__base.flist", "jumpscale__base.record", "Foreign"):
        (tmp_path / "root/dedupe/md" / name).touch()
    server = Nginx(tmp_path / "nginx", tmp_path / "root")
    server.config = server.config.replace("autoindex on;", "autoindex on; autoindex_format json;")
    with open_to_all(tmp_path), server:
        async with opened(server.url) as store:
            assert await store.lists() == [NAME]
            assert (await store.notes()).keys() == {"jumpscale__base.record"}


async def test_without_a_listing_nothing_is_said_about_lists(tmp_path: Path) -> None:
    (tmp_path / "root/dedupe/md").mkdir(parents=True)
    server = Nginx(tmp_path / "nginx", tmp_path / "root")
    server.config = server.config.replace("autoindex on;", "")
    with open_to_all(tmp_path), server:
        for url in (server.url, f"{server.url}/not/here"):
            async with opened(url) as store:
                with pytest.raises(StoreTrouble, match="dedupe/md/: ") as caught:
                    await store.lists()
                assert "autoindex on;" in (caught.value.hint or "")


@contextlib.contextmanager
def open_to_all(folder: Path) -> Iterator[None]:
    """nginx's workers may read it even when they are somebody else's."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)
    yield


@pytest.mark.parametrize(("kind", "asked"), [(HttpStore, 0), (ServedStore, 1)])
async def test_a_web_server_takes_no_writes(kind: type[HttpStore], asked: int) -> None:
    blob = BlobSource.of(digests.of(SMALL), SMALL)
    writes: list[Callable[[HttpStore], Awaitable[None]]] = [
        lambda store: store.put(blob.digest, blob.size, io.BytesIO(SMALL)),
        lambda store: store.put_many([blob]),
        lambda store: store.put_list(NAME, [b""]),
        lambda store: store.write_note("note", b""),
        lambda store: store.delete_note("note"),
        lambda store: store.delete_list(NAME),
        lambda store: store.delete([blob.digest]),
        lambda store: store.delete_strays([".x.0123456789ab0.tmp"]),
    ]
    with ScriptedServer([answer(status="404 Not Found")]) as server:
        store = kind(parse_http_address(server.url), bounds=QUICK)
        for write in writes:
            with pytest.raises(BadConfig, match="takes no writes") as caught:
                await write(store)
            assert "folder that it serves" in (caught.value.hint or "")
        await store.aclose()
        assert len(server.heads) == asked


async def test_connections_are_used_again() -> None:
    with ScriptedServer([answer(SMALL)]) as server:
        async with opened(server.url) as store:
            for _ in range(10):
                await get(store, SMALL)
        assert server.connections == 1


async def test_connections_are_bounded(nginx: Nginx, folder: Path) -> None:
    with ScriptedServer([answer(SMALL)]) as server:
        async with opened(server.url) as store, trio.open_nursery() as nursery:
            for _ in range(200):
                nursery.start_soon(get, store, SMALL)
        assert len(server.heads) == 200
        assert server.connections <= 16
