"""What web servers show of a directory."""

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aysfs.names import parse_name
from aysfs.store.http import HttpStore
from aysfs.store.http_address import parse_http_address
from aysfs.store.http_listing import names_in

HERE = "http://host/store/dedupe/md/"
APACHE = b"""<table><tr><th><a href="?C=N;O=D">Name</a></th></tr>
<tr><td><a href="/store/dedupe/">Parent Directory</a></td></tr>
<tr><td><a href="a__b.flist">a__b.flist</a></td></tr>
<tr><td><a href="a__b%401.2.flist">a__b@1.2.fl..&gt;</a></td></tr></table>"""


@pytest.mark.parametrize(
    ("page", "names"),
    [
        (APACHE, ["a__b.flist", "a__b@1.2.flist"]),
        (b'<a href="../">../</a><a href="x">x</a><a href="x">again</a>', ["x"]),
        (b'<A HREF="/store/dedupe/md/x">', ["x"]),
        (b'<a href="./x">', ["x"]),
        (b'<a href="folder/">', []),
        (b'<a href="//other/store/dedupe/md/x"><a href="/elsewhere/x"><a href="x?y">', []),
        (b'<a href="http://[x"><a href><a name="x">', []),
        (b'[{"name": "x", "type": "file"}, {"name": 7}, "y", {}]', ["x"]),
        (b'{"name": "x"}', []),
        (b"[", []),
        (b"[" * 100_000, []),
        (b'<a href="caf%E9"><a href="caf\xe8">', ["caf\udce8", "caf\udce9"]),
        (b'[{"name": "caf\xe9"}, {"name": "\\ud800"}]', ["caf\udce9"]),
        (b"", []),
        (b"\xff\xfe", []),
    ],
)
def test_a_listing(page: bytes, names: list[str]) -> None:
    assert names_in(page, HERE) == names


@given(st.binary() | st.text(alphabet='<a href="/.?%[]{}:,>x').map(str.encode))
def test_whatever_a_server_says_is_read(page: bytes) -> None:
    for name in names_in(page, HERE):
        assert "/" not in name


@pytest.fixture
def python_server(tmp_path: Path) -> Iterator[str]:
    handler = functools.partial(Silent, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


async def test_pythons_own_server_is_a_store(tmp_path: Path, python_server: str) -> None:
    names = [parse_name("a__b"), parse_name("a__b@1.2")]
    (tmp_path / "dedupe/md").mkdir(parents=True)
    for name in names:
        (tmp_path / f"dedupe/md/{name}.flist").write_text(str(name))
    store = HttpStore(parse_http_address(python_server))
    assert await store.lists() == names
    with (await store.open_list(names[1])).file as file:
        assert file.read() == b"a__b@1.2"
    await store.aclose()
