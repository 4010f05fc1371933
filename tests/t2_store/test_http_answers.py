"""Web servers whose answers are wrong, each in one way, on real sockets."""

import pytest
import trio

from aysfs.errors import BlobMissing, Corrupt
from tests.servers import (
    CUT,
    Authority,
    ScriptedServer,
    answer,
)
from tests.t2_store.web import HTML, SMALL, get, of_each_size, opened, trouble


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
