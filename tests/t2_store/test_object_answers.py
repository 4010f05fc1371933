"""An S3 server whose answers are wrong, each in one way."""

import datetime

import pytest

from aysfs.errors import Corrupt, StoreTrouble
from aysfs.store.protocol import Held
from tests.servers import CUT, DRIP, Authority, ScriptedServer, answer
from tests.swift import Swift
from tests.t2_store.buckets import DIGEST, LARGE, SMALL, get, judge, opened

pytestmark = pytest.mark.usefixtures("no_connections")


MODIFIED = {"last_modified": "Thu, 26 Nov 2026 02:00:00 GMT", "etag": '"x"'}
EMPTY_LISTING = answer(b"<ListBucketResult><KeyCount>0</KeyCount></ListBucketResult>")
GONE = answer(b"<Error><Code>NoSuchKey</Code></Error>", "404 Not Found")


def scripted(server: ScriptedServer) -> str:
    return f"s3://bucket?endpoint={server.url}"


async def test_a_failing_server_is_asked_again(s3: Swift) -> None:
    with ScriptedServer([answer(b"", "503 Busy")], [answer(SMALL, **MODIFIED)]) as server:
        async with opened(scripted(server)) as store:
            assert await get(store, SMALL) == SMALL


@pytest.mark.parametrize("status", ["500 Oh", "503 Busy", "403 Forbidden", "429 Too Many"])
async def test_other_answers_are_trouble(s3: Swift, status: str) -> None:
    with ScriptedServer([answer(b"", status)]) as server:
        async with opened(scripted(server)) as store:
            with pytest.raises(StoreTrouble, match=f"(answered|HTTP) {status[:3]}"):
                await get(store, SMALL)
            with pytest.raises(StoreTrouble, match=f"answered {status[:3]}"):
                await store.missing({DIGEST: 5})
    assert len(server.heads) <= 4


async def test_an_object_of_another_size_writes_nothing(s3: Swift) -> None:
    with ScriptedServer([answer(b"<html>", **MODIFIED)], [GONE], [EMPTY_LISTING]) as server:
        async with opened(scripted(server)) as store:
            sink = Held()
            with pytest.raises(Corrupt, match="has 6 bytes, not 5"):
                await store.get(DIGEST, 5, sink)
    assert sink.getvalue() == b""


async def test_a_body_that_breaks_off_is_trouble(s3: Swift) -> None:
    short = answer(SMALL[:3], content_length=5, **MODIFIED)
    with ScriptedServer([short, CUT]) as server:
        async with opened(scripted(server)) as store:
            with pytest.raises(StoreTrouble):
                await get(store, SMALL)


@pytest.mark.parametrize("data", [SMALL * 4000, LARGE], ids=["held", "poured"])
async def test_a_body_that_drips_is_trouble(s3: Swift, data: bytes) -> None:
    head = answer(b"", content_length=len(data), **MODIFIED)
    with ScriptedServer([head, b"x", DRIP]) as server:
        async with opened(scripted(server)) as store:
            with pytest.raises(StoreTrouble, match="bytes a second") as caught:
                await get(store, data)
    judge(caught.value)


async def test_only_certificates_that_are_trusted_are_taken(s3: Swift, trusted: Authority) -> None:
    past = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    fine = trusted.ca.issue_cert("127.0.0.1")
    expired = trusted.ca.issue_cert("127.0.0.1", not_before=past, not_after=past)
    for certificate in (fine, expired, trusted.ca.issue_cert("elsewhere.example")):
        tls = trusted.context(certificate)
        with ScriptedServer([answer(SMALL, **MODIFIED), CUT], tls=tls) as server:
            async with opened(scripted(server)) as store:
                if certificate is fine:
                    assert await get(store, SMALL) == SMALL
                    continue
                with pytest.raises(StoreTrouble, match="certificate"):
                    await get(store, SMALL)
