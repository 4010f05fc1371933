"""Parts of a blob from web servers that give them, refuse them, ignore them or lie about them."""

import contextlib
from pathlib import Path

import pytest

from aysfs import digest as digests
from aysfs.errors import AysfsError, BlobMissing, Corrupt, NoRanges, StoreTrouble
from aysfs.store.protocol import PART_IN_LOOP, Held
from tests.servers import CUT, Answer, Nginx, ScriptedServer, answer
from tests.t2_store.web import opened

DATA = bytes(range(251)) * (3 * PART_IN_LOOP // 251)
DIGEST = digests.of(DATA)
START = 4321

of_each_length = pytest.mark.parametrize("length", [50_000, 2 * PART_IN_LOOP], ids=["loop", "pour"])


def part(start: int, length: int, **headers: str | int) -> bytes:
    """The right answer for these bytes; headers replace its own."""
    span = f"bytes {start}-{start + length - 1}/{len(DATA)}"
    told = {"content_range": span, "etag": '"1"', **headers}
    return answer(DATA[start : start + length], "206 Partial Content", **told)


async def ask(server: ScriptedServer, length: int) -> bytes:
    sink = Held()
    async with opened(server.url) as store:
        await store.get_range(DIGEST, len(DATA), START, length, sink)
    return sink.getvalue()


async def failing(server: ScriptedServer, kind: type[AysfsError], length: int = 50_000) -> str:
    """What asking for a part comes to; not a byte may have reached the sink."""
    sink = Held()
    async with opened(server.url) as store:
        with pytest.raises(kind) as caught:
            await store.get_range(DIGEST, len(DATA), START, length, sink)
    assert type(caught.value) is kind or kind is Corrupt
    assert sink.getvalue() == b""
    return str(caught.value)


def spans(server: ScriptedServer) -> list[str]:
    """The bytes that each request asked for."""
    lines = [line for head in server.heads for line in head.splitlines()]
    return [line.partition("=")[2] for line in lines if line.startswith("Range: ")]


@of_each_length
async def test_a_part_is_one_request(length: int) -> None:
    with ScriptedServer([part(START, length)]) as server:
        assert await ask(server, length) == DATA[START : START + length]
    assert spans(server) == [f"{START}-{START + length - 1}"]
    assert "Accept-Encoding" not in server.heads[0]


@of_each_length
async def test_a_part_that_breaks_off_goes_on_and_nothing_is_asked_twice(length: int) -> None:
    end, stops = START + length, (START + length // 3, START + length // 2)
    tries: tuple[Answer, ...] = (
        [part(START, length)[: stops[0] - end], CUT],
        [part(stops[0], end - stops[0])[: stops[1] - end], CUT],
        [part(stops[1], end - stops[1])],
    )
    with ScriptedServer(*tries) as server:
        assert await ask(server, length) == DATA[START:end]
    assert spans(server) == [f"{first}-{end - 1}" for first in (START, *stops)]
    assert 'If-Range: "1"' in server.heads[1]


async def test_a_part_that_is_whole_when_the_connection_breaks_is_whole() -> None:
    whole = answer(
        b"c350\r\n" + DATA[START : START + 50_000] + b"\r\n",
        "206 Partial Content",
        content_length="",
        transfer_encoding="chunked",
        content_range=f"bytes {START}-{START + 49_999}/{len(DATA)}",
    )
    with ScriptedServer([whole, CUT]) as server:
        assert await ask(server, 50_000) == DATA[START : START + 50_000]
    assert len(server.heads) == 1


@of_each_length
async def test_a_server_that_ignores_ranges_gives_none(length: int) -> None:
    with ScriptedServer([answer(DATA)]) as server:
        assert "gives only all of it" in await failing(server, NoRanges, length)
    assert len(server.heads) == 1


@pytest.mark.parametrize(
    "status", ["403 Forbidden", "416 Range Not Satisfiable", "400 Bad", "501 Not Implemented"]
)
async def test_a_server_that_refuses_ranges_gives_none(status: str) -> None:
    with ScriptedServer([answer(b"no", status)]) as server:
        assert status[:3] in await failing(server, NoRanges)
    assert len(server.heads) == 1


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("401 Unauthorized", StoreTrouble),
        ("500 Oh", StoreTrouble),
        ("404 Not Found", BlobMissing),
        ("410 Gone", BlobMissing),
    ],
)
async def test_what_is_said_of_the_whole_file_says_nothing_of_ranges(
    status: str, kind: type[AysfsError]
) -> None:
    sink = Held()
    with ScriptedServer([answer(b"no", status)]) as server:
        async with opened(server.url) as store:
            with pytest.raises(kind):
                await store.get_range(DIGEST, len(DATA), START, 10, sink)
    assert sink.getvalue() == b""


@pytest.mark.parametrize(
    "span",
    [
        f"bytes {START + 1}-{START + 50_000}/{len(DATA)}",
        f"bytes {START}-{START + 50_000}/{len(DATA)}",
        f"bytes {START}-{START + 10}/{len(DATA)}",
        f"bytes {START}-{START + 49_999}/*",
        f"{START}-{START + 49_999}/{len(DATA)}",
        "",
    ],
)
async def test_another_range_than_the_one_asked_for_is_trouble(span: str) -> None:
    with ScriptedServer([part(START, 50_000, content_range=span)]) as server:
        assert "another range" in await failing(server, StoreTrouble)


async def test_a_body_of_another_length_than_its_range_is_trouble() -> None:
    longer = part(START, 50_000, content_length=50_001) + b"x"
    with ScriptedServer([longer]) as server:
        assert "another range" in await failing(server, StoreTrouble)


@pytest.mark.parametrize(
    "answered",
    [
        part(START, 50_000, content_range=f"bytes {START}-{START + 49_999}/{len(DATA) + 1}"),
        answer(b"", "416 Range Not Satisfiable", content_range="bytes */77"),
    ],
)
async def test_a_file_of_another_size_is_no_blob(answered: bytes) -> None:
    with ScriptedServer([answered]) as server:
        assert f"not {len(DATA)}" in await failing(server, Corrupt)


@pytest.mark.parametrize(
    "then", [answer(DATA), part(START + 1000, 49_000, etag='"2"')], ids=["whole", "other"]
)
async def test_a_part_never_goes_on_in_another_file(then: bytes) -> None:
    sink = Held()
    with ScriptedServer([part(START, 50_000)[:-49_000], CUT], [then]) as server:
        async with opened(server.url) as store:
            with pytest.raises(StoreTrouble, match="changed on the server"):
                await store.get_range(DIGEST, len(DATA), START, 50_000, sink)
    assert sink.getvalue() == DATA[START : START + 1000]


async def test_a_strong_etag_alone_tells_that_it_is_the_same_file() -> None:
    first = part(START, 50_000, last_modified="Thu, 01 Jan 2026 00:00:00 GMT")[:-49_000]
    with ScriptedServer([first, CUT], [part(START + 1000, 49_000)]) as server:
        assert await ask(server, 50_000) == DATA[START : START + 50_000]


async def test_a_part_in_the_old_layout_is_found(nginx: Nginx, tmp_path: Path) -> None:
    root, name = nginx.root / tmp_path.name, DIGEST.hex()
    file = root / "dedupe/files" / name[0] / name[1] / name
    file.parent.mkdir(parents=True)
    file.write_bytes(DATA)
    sink = Held()
    async with opened(f"{nginx.url}/{root.name}") as store:
        with contextlib.suppress(BlobMissing):
            await store.get_range(digests.of(b"absent"), 10, 0, 1, sink)
        await store.get_range(DIGEST, len(DATA), START, 999, sink)
    assert sink.getvalue() == DATA[START : START + 999]
