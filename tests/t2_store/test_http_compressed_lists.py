"""Lists may come compressed over the wire, and nothing else does."""

import gzip
from pathlib import Path

import pytest

from aysfs.names import parse_name
from aysfs.store.http import HttpStore
from tests.servers import CUT, Nginx, ScriptedServer, answer
from tests.t2_store.web import opened

NAME = parse_name("jumpscale__base")
LIST = b"".join(b"/opt/%d|%032x|%d\n" % (n, n * 7919, n) for n in range(50_000))
PACKED = gzip.compress(LIST, 1)
ZIPPED = answer(PACKED, content_encoding="gzip", etag='W/"1"')


async def read(store: HttpStore) -> bytes:
    with (await store.open_list(NAME)).file as file:
        return file.read()


async def test_a_compressed_list_is_expanded() -> None:
    with ScriptedServer([ZIPPED]) as server:
        async with opened(server.url) as store:
            assert await read(store) == LIST
    assert "Accept-Encoding: gzip" in server.heads[0]


@pytest.mark.parametrize("again", [ZIPPED, answer(LIST)], ids=["compressed", "plain"])
async def test_a_compressed_list_that_breaks_off_begins_again(again: bytes) -> None:
    with ScriptedServer([ZIPPED[: -len(PACKED) // 3], CUT], [again]) as server:
        async with opened(server.url) as store:
            assert await read(store) == LIST
    assert len(server.heads) == 2
    assert "Range: " not in server.heads[1]


async def test_a_plain_list_that_breaks_off_goes_on() -> None:
    stop = len(LIST) * 2 // 3
    rest = answer(
        LIST[stop:],
        "206 Partial Content",
        content_range=f"bytes {stop}-{len(LIST) - 1}/{len(LIST)}",
        etag='"1"',
    )
    first = answer(LIST, etag='"1"')[: stop - len(LIST)]
    with ScriptedServer([first, CUT], [rest]) as server:
        async with opened(server.url) as store:
            assert await read(store) == LIST
    assert f"Range: bytes={stop}-" in server.heads[1]
    assert "Accept-Encoding" not in server.heads[1]


async def test_nginx_as_documented_compresses_lists(nginx: Nginx, tmp_path: Path) -> None:
    folder = nginx.root / tmp_path.name / "dedupe/md"
    folder.mkdir(parents=True)
    (folder / "jumpscale__base.flist").write_bytes(LIST)
    async with opened(f"{nginx.url}/{tmp_path.name}") as store:
        assert await read(store) == LIST
        opened_list = await store.open_list(NAME)
        opened_list.file.close()
    assert abs(opened_list.mtime_ns - (folder / "jumpscale__base.flist").stat().st_mtime_ns) < 10**9
    sent = [int(line.split()[9]) for line in nginx.requests() if tmp_path.name in line]
    assert all(0 < size < len(LIST) // 2 for size in sent)
