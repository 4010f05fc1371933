"""What tests of stores on web servers share: quick bounds, blobs of every size, what trouble is."""

import contextlib
from collections.abc import AsyncIterator

import pytest

from aysfs import digest as digests
from aysfs.errors import AysfsError, StoreTrouble
from aysfs.names import parse_name
from aysfs.store.http import HttpStore
from aysfs.store.http_address import parse_http_address
from aysfs.store.http_fetch import HELD, POURED
from aysfs.store.http_request import Bounds
from aysfs.store.protocol import Held
from tests.servers import (
    ScriptedServer,
    answer,
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
