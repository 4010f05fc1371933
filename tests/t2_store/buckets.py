"""What tests of stores in buckets share: hasty bounds, blobs, questions."""

import io
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from aysfs import digest as digests
from aysfs.digest import Digest
from aysfs.errors import StoreTrouble
from aysfs.names import parse_name
from aysfs.store.objects import ObjectsStore
from aysfs.store.objects_address import parse_object_address
from aysfs.store.objects_bucket import PART, Bounds
from aysfs.store.protocol import BlobSource, Held
from tests.swift import SECRET

NAME = parse_name("jumpscale__base")
NUMBERS = itertools.count()
SMALL = b"small"
LARGE = bytes(range(256)) * (3 * PART // 256 + 1)  # four parts
HASTY = Bounds(connect=2.0, idle=1.0, quick=3.0, whole=30.0, tries=1, trying=1.0)


@asynccontextmanager
async def opened(url: str, bounds: Bounds = HASTY) -> AsyncIterator[ObjectsStore]:
    store = ObjectsStore(parse_object_address(url), bounds=bounds)
    yield store
    await store.aclose()


async def get(store: ObjectsStore, data: bytes) -> bytes:
    sink = Held()
    await store.get(digests.of(data), len(data), sink)
    return sink.getvalue()


async def put(store: ObjectsStore, data: bytes) -> Digest:
    digest = digests.of(data)
    await store.put(digest, len(data), io.BytesIO(data))
    return digest


Question = Callable[[ObjectsStore], Awaitable[object]]
DIGEST = digests.of(SMALL)
READING: dict[str, Question] = {
    "get": lambda store: store.get(DIGEST, 5, Held()),
    "missing": lambda store: store.missing({DIGEST: 5}),
    "open_list": lambda store: store.open_list(NAME),
    "lists": lambda store: store.lists(),
    "read_note": lambda store: store.read_note("a"),
    "notes": lambda store: store.notes(),
    "shelf": lambda store: store.shelf(DIGEST[0]),
    "strays": lambda store: store.strays(),
}
WRITING: dict[str, Question] = {
    "put": lambda store: put(store, SMALL),
    "put_large": lambda store: put(store, LARGE),
    "put_many": lambda store: store.put_many([BlobSource.of(DIGEST, SMALL)]),
    "put_list": lambda store: store.put_list(NAME, [b"x"]),
    "delete_list": lambda store: store.delete_list(NAME),
    "write_note": lambda store: store.write_note("a", b"x"),
    "delete_note": lambda store: store.delete_note("a"),
    "delete": lambda store: store.delete([DIGEST]),
    "delete_strays": lambda store: store.delete_strays([".x.0123456789ab0.tmp"]),
}
asked = pytest.mark.parametrize("ask", (READING | WRITING).values(), ids=READING | WRITING)


def judge(error: StoreTrouble, *words: str) -> None:
    """One line with these words in it or in the hint, and no secret."""
    said = f"{error} {error.hint}"
    assert "\n" not in said
    assert len(str(error)) < 200
    assert SECRET not in said
    assert "Signature=" not in said
    for word in words:
        assert word in said
