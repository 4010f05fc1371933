"""Addresses of stores."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
import trio

from aysfs import digest as digests
from aysfs.errors import BadConfig, StoreTrouble
from aysfs.names import parse_name
from aysfs.store import open_to_write
from aysfs.store.chain import members
from aysfs.store.http import HttpStore
from aysfs.store.http_address import parse_http_address
from aysfs.store.http_served import ServedStore
from aysfs.store.open import open_store, open_stores, side_by_side
from aysfs.store.protocol import BlobSource, Held
from tests.servers import Sshd


@pytest.mark.parametrize("form", ["{}", "file://{}", "file://localhost{}", "{}/"])
def test_a_directory(form: str, tmp_path: Path) -> None:
    assert open_store(form.format(tmp_path)).label == str(tmp_path)


def test_a_url_is_decoded_and_a_path_is_not() -> None:
    assert open_store("file:///a%20b").label == "/a b"
    assert open_store("/a%20b").label == "/a%20b"


@pytest.mark.parametrize(
    "url", ["", "gopher://host/x", "file://host/x", "file://", "file:///x?namespace=y"]
)
def test_what_is_no_store(url: str) -> None:
    with pytest.raises(BadConfig) as caught:
        open_store(url)
    assert "file:///path" in (caught.value.hint or "")


async def test_namespace_and_creation(tmp_path: Path) -> None:
    with pytest.raises(StoreTrouble):
        await open_store(str(tmp_path / "new")).missing({})
    store = open_store(str(tmp_path / "new"), namespace="mine", create=True)
    await store.put_list(parse_name("a__b"), [b"x"])
    assert (tmp_path / "new/mine/md/a__b.flist").read_bytes() == b"x"


@pytest.mark.parametrize(
    ("url", "label", "asked"),
    [
        ("http://host", "http://host", "http://host"),
        ("HTTPS://Host:8443/a%20b/", "https://host:8443/a%20b", "https://host:8443/a%20b"),
        ("http://[::1]:80/ü", "http://[::1]:80/%C3%BC", "http://[::1]:80/%C3%BC"),
        (
            "http://b\u00fccher.example",
            "http://xn--bcher-kva.example",
            "http://xn--bcher-kva.example",
        ),
        ("https://me:geheim@host/x", "https://me@host/x", "https://host/x"),
        ("https://me:ge%20heim@host", "https://me@host", "https://host"),
    ],
)
def test_a_web_server(url: str, label: str, asked: str) -> None:
    assert open_store(url).label == label
    address = parse_http_address(url)
    assert (str(address), address.url) == (label, asked)
    assert "geheim" not in f"{address!r}"


@pytest.mark.parametrize(
    "rest",
    [
        "",
        "/x",
        "me:geheim@",
        "me:geheim@h:port",
        "me:geheim@h/x?y",
        "me:geheim@h/\0",
        "h h/x",
        "me:geheim@\u00fc..b",
    ],
)
def test_what_is_no_web_server(rest: str) -> None:
    with pytest.raises(BadConfig) as caught:
        open_store(f"https://{rest}")
    assert "geheim" not in str(caught.value)
    assert "https://login:password@host:port/path" in (caught.value.hint or "")


class Meets(Held):
    """Takes its first byte when as many others do."""

    def __init__(self, barrier: threading.Barrier) -> None:
        super().__init__()
        self._barrier = barrier

    def write(self, data: bytes | memoryview, /) -> int:  # type: ignore[override]  # BytesIO takes more
        self._barrier.wait(30)
        return super().write(data)


@pytest.mark.parametrize("kinds", [["path"], ["ssh"], ["path", "ssh"]], ids="+".join)
async def test_no_blob_waits_inside_a_store_until_others_are_there(
    kinds: list[str], tmp_path: Path, sshd: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow store of large blobs would look like one that is silent to those who wait."""
    monkeypatch.setenv("HOME", str(sshd.make_home(tmp_path / "home")))
    data = b"x" * 1000
    addresses = {"path": str(tmp_path / "store"), "ssh": sshd.url(tmp_path / "store")}
    await open_store(addresses["path"], create=True).put_many(
        [BlobSource.of(digests.of(data), data)]
    )
    store = open_stores([addresses[kind] for kind in kinds])
    count = side_by_side(store)
    assert count >= 8
    barrier = threading.Barrier(count)
    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(store.get, digests.of(data), len(data), Meets(barrier))
    await store.aclose()


def test_who_writes_has_the_api_of_our_server() -> None:
    assert type(open_store("http://host")) is HttpStore
    assert type(open_to_write.open_store("http://host")) is ServedStore
    chain = open_to_write.open_stores(["http://host", "http://other"])
    assert [type(one) for one in members(chain)] == [ServedStore, ServedStore]


@pytest.mark.parametrize("module", ["aysfs.store.open", "aysfs.cli.reading", "aysfs.mount.daemon"])
def test_who_reads_does_not_import_the_client_of_the_api(module: str) -> None:
    code = f"import sys, {module}; sys.exit('httpx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
