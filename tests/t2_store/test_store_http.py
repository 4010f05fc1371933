"""The ways to a web server: TLS, logins, proxies, listings, layouts, connections."""

import base64
import contextlib
import datetime
import io
import os
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import trio
import trustme

from aysfs import digest as digests
from aysfs.digest import Digest
from aysfs.errors import BadConfig, StoreTrouble
from aysfs.store.http import HttpStore
from aysfs.store.http_address import parse_http_address
from aysfs.store.http_served import ServedStore
from aysfs.store.protocol import BlobSource
from tests.servers import (
    LOGIN,
    Authority,
    Nginx,
    ScriptedServer,
    answer,
)
from tests.t2_store.web import NAME, QUICK, SMALL, get, opened, trouble

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
