"""Chunks: one pass gives the digests that a slow and plain computation gives."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aysfs import digest as digests
from aysfs.chunks import MOST, ChunkHasher, Chunks, parse_chunks, with_chunks
from aysfs.digest import Digest
from aysfs.limits import CHUNK, LARGE

INDEX = digests.of(b"an index")


def plain_index(data: bytes, size: int) -> bytes:
    return b"".join(digests.of(data[at : at + size]) for at in range(0, len(data), size))


@given(st.lists(st.binary(max_size=50)), st.integers(1, 40))
def test_one_pass_gives_both_digests(pieces: list[bytes], size: int) -> None:
    hasher = ChunkHasher(size)
    for piece in pieces:
        hasher.update(piece)
    data = b"".join(pieces)
    assert hasher.digest() == digests.of(data)
    assert hasher.index() == hasher.index() == plain_index(data, size)
    chunks = Chunks(size, INDEX)
    assert chunks.index_size(len(data)) == len(hasher.index())
    lengths = [chunks.length(number, len(data)) for number in range(chunks.count(len(data)))]
    assert sum(lengths) == len(data)
    assert all(lengths)


def test_what_ext_says() -> None:
    chunks = Chunks(CHUNK, INDEX)
    assert chunks.value == b"262144," + INDEX.hex().encode()
    assert parse_chunks(chunks.value) == chunks
    for other in (b"", b"0," + b"a" * 32, b"1,abc", chunks.value + b"x", chunks.value.upper()):
        assert parse_chunks(other) is None or other == chunks.value
    assert with_chunks(((b"xattr.user.a", b""),), INDEX) == (
        (b"chunks", chunks.value),
        (b"xattr.user.a", b""),
    )
    assert with_chunks((), None) == ()


@pytest.mark.parametrize(
    ("size", "blob", "used"),
    [
        (CHUNK, LARGE + 1, True),
        (CHUNK, LARGE, False),
        ((64 << 10) - 1, LARGE + 1, False),
        (16 << 20, LARGE + 1, True),
        ((16 << 20) + 1, LARGE + 1, False),
        (CHUNK, CHUNK * MOST, True),
        (CHUNK, CHUNK * MOST + 1, False),
    ],
)
def test_odd_chunks_are_not_used(size: int, blob: int, used: bool) -> None:
    assert Chunks(size, Digest(INDEX)).are_used(blob) == used
