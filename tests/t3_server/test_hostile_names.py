"""No name that a request can hold leads out of the store."""

import http.client
import os
from pathlib import Path

import pytest

from tests.store_server import StoreServer

SECRET = b"not for anybody"
MD5 = "0123456789abcdef0123456789abcdef"
PLACES = [
    "/static/{}",
    "/{}/",
    "/{}/md/",
    "/{}/md/a__b.flist",
    "/dedupe/md/{}",
    "/dedupe/{}/1/" + MD5,
    "/dedupe/0/{}/" + MD5,
    "/dedupe/0/1/{}",
    "/dedupe/files/0/1/{}",
    "/{}/0/1/" + MD5,
    "/store/{}",
    "/store/{}/" + MD5,
    "/store/{}/about",
    "/store/{}/exists",
    "/store/{}/blobs",
    "/store/dedupe/{}",
    "/store/dedupe/shelf/{}",
]
NAMES = [
    "..",
    "../secret",
    "../../secret",
    "%2e%2e",
    "%2e%2e/secret",
    "%2e%2e%2fsecret",
    "..%2f..%2fsecret",
    "..%5csecret",
    "%2fetc%2fpasswd",
    "//etc/passwd",
    "secret%00",
    "%00",
    ".",
    "%c0%ae%c0%ae",
    "link",
    "outside",
    "a" * 300,
    "%ff",
    "%0d%0aX: y",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What lies around a store, and links in it that lead out."""
    root = tmp_path / "root"
    (root / "dedupe/md").mkdir(parents=True)
    (root / "dedupe/0/1").mkdir(parents=True)
    (root / "static").mkdir()
    (tmp_path / "secret").write_bytes(SECRET)
    other = tmp_path / "other"
    for name in ("md", "0/1", "files/0/1"):
        (other / name).mkdir(parents=True)
        (other / name / MD5).write_bytes(SECRET)
    (other / "md/a__b.flist").write_bytes(SECRET)
    (root / "outside").symlink_to(other)
    for place in ("static/link", "dedupe/md/link", f"dedupe/0/1/{MD5}", "dedupe/md/l__k.flist"):
        (root / place).symlink_to(tmp_path / "secret")
    (root / "dedupe/files").symlink_to(other / "files")
    return tmp_path


def around(folder: Path) -> set[tuple[str, bytes]]:
    """All that is not the store's."""
    found = set()
    for path in folder.rglob("*"):
        if path.is_file() and folder / "root" not in path.parents and path.name != "serve.log":
            found.add((str(path), path.read_bytes()))
    return found


def test_no_name_leaves_the_root(folder: Path) -> None:
    before = around(folder)
    with StoreServer(folder, "--open") as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        for place in PLACES:
            for name in [*NAMES, f"0/1/{MD5}", "l__k.flist"]:
                for method in ("GET", "HEAD", "PUT", "POST", "DELETE"):
                    path = place.format(name).replace(" ", "%20")
                    connection.request(method, path, b"x" if method[0] == "P" else None)
                    answer = connection.getresponse()
                    body = answer.read()
                    assert SECRET not in body, (method, path)
                    assert answer.status < 500, (method, path, body)
                    assert around(folder) == before, (method, path)
        connection.close()
        log = server.log.read_text()
    assert "internal" not in log
    assert "Traceback" not in log
    assert all(line.startswith("20") for line in log.splitlines())  # nobody writes lines of his own


def test_what_a_name_makes_lies_in_the_store(folder: Path) -> None:
    with StoreServer(folder, "--open") as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        for name in ("store", "static", "health", "metrics", "..", ".hidden", "a%2fb", "a..b"):
            for path in (f"/store/{name}", f"/{name}/md/a__b.flist"):
                connection.request("POST" if path[1] == "s" else "PUT", path, b"x")
                answer = connection.getresponse()
                answer.read()
                assert answer.status in (400, 403, 404, 405), path
        connection.close()
    assert sorted(os.listdir(folder / "root")) == ["dedupe", "outside", "static"]
