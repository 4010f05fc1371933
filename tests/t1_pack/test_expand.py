"""A frame expands to the size that was promised or is refused, in bounded memory."""

import struct
import tracemalloc
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from aysfs.errors import PackDamaged
from aysfs.limits import LARGE
from aysfs.pack import compress, compress_all, expand, expand_to
from aysfs.pack.expand import PIECE

Expand = Callable[[bytes, int], bytes]


def in_pieces(frame: bytes, size: int) -> bytes:
    pieces: list[bytes] = []
    try:
        expand_to(frame, size, pieces.append)
    finally:
        assert all(0 < len(piece) <= PIECE for piece in pieces)
        assert sum(map(len, pieces)) <= max(size, 0)
    return b"".join(pieces)


either = pytest.mark.parametrize("way", [expand, in_pieces])


@either
@given(st.binary(max_size=3000), st.integers(1, 2000))
def test_a_frame_expands_to_its_content_and_to_no_other_size(
    way: Expand, start: bytes, times: int
) -> None:
    content = start * times
    frame = compress(content)
    assert way(frame, len(content)) == content
    for size in (len(content) + 1, len(content) - 1, -1, LARGE, LARGE + 1):
        with pytest.raises(PackDamaged):
            way(frame, size)


@given(st.lists(st.binary(max_size=40) | st.just(b"") | st.just(b"n" * 9000), max_size=8))
def test_frames_that_are_made_side_by_side_are_the_same(blobs: list[bytes]) -> None:
    assert compress_all(blobs, 2) == [compress(one) for one in blobs]


@either
def test_a_large_blob_expands_within_a_window(way: Expand) -> None:
    content = b"".join(struct.pack("<Q", at) for at in range(1 << 20))
    assert way(compress(content), len(content)) == content


def frame_of(content: bytes, **options: int) -> bytes:
    parameters = zstandard.ZstdCompressionParameters(**options)
    return zstandard.ZstdCompressor(compression_params=parameters).compress(content)


def bomb(claimed: int) -> bytes:
    """A frame that says a size and holds 4 GiB of zeros in 100 KiB: blocks of one repeated byte."""
    block = ((128 << 10) << 3 | 1 << 1).to_bytes(3, "little") + b"\0"
    window = bytes([(20 - 10) << 3])
    return b"\x28\xb5\x2f\xfd\x80" + window + struct.pack("<I", claimed) + block * (32 << 10)


CONTENT = b"some content, some content" * 100
SIZE = len(CONTENT)
REFUSED = {
    "no size": frame_of(CONTENT, write_content_size=0),
    "a checksum": frame_of(CONTENT, write_content_size=1, write_checksum=1),
    "a window of 128 MiB": b"\x28\xb5\x2f\xfd\x40"
    + bytes([17 << 3])
    + struct.pack("<H", SIZE - 256)
    + (SIZE << 3 | 1).to_bytes(3, "little")
    + CONTENT,
    "a window of a TiB": b"\x28\xb5\x2f\xfd\x40"
    + bytes([30 << 3])
    + struct.pack("<H", SIZE - 256)
    + (SIZE << 3 | 1).to_bytes(3, "little")
    + CONTENT,
    "a dictionary": b"\x28\xb5\x2f\xfd\x61\x05" + compress(CONTENT)[5:],
    "a frame to be skipped": struct.pack("<II", 0x184D2A50, SIZE) + CONTENT,
    "a frame to be skipped first": struct.pack("<II", 0x184D2A50, 4) + b"abcd" + compress(CONTENT),
    "no frame": CONTENT,
    "nothing": b"",
    "a reserved bit": b"\x28\xb5\x2f\xfd\x68" + compress(CONTENT)[5:],
    "more than it says": bomb(SIZE),
    "less than it says": b"\x28\xb5\x2f\xfd\x60" + struct.pack("<H", SIZE - 256) + b"\1\0\0",
}


@either
@pytest.mark.parametrize("what", REFUSED)
def test_a_lying_frame_is_refused_in_little_memory(what: str, way: Expand) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(PackDamaged):
            way(REFUSED[what], SIZE)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@either
def test_a_bomb_gives_no_more_than_what_was_promised(way: Expand) -> None:
    size = 8 << 20
    tracemalloc.start()
    try:
        with pytest.raises(PackDamaged):
            way(bomb(size), size)
        assert tracemalloc.get_traced_memory()[1] < 2 * size + (1 << 20)
    finally:
        tracemalloc.stop()


def test_the_bomb_is_one() -> None:
    reader = zstandard.ZstdDecompressor().stream_reader(
        bomb(0)[:4] + b"\0" + bomb(0)[5:6] + bomb(0)[10:]
    )
    assert len(reader.read(64 << 20)) == 64 << 20


def test_bytes_behind_a_frame_are_refused() -> None:
    frame = compress(CONTENT)
    for more in (b"\0", frame, b"\x50\x2a\x4d\x18\0\0\0\0"):
        with pytest.raises(PackDamaged):
            expand(frame + more, SIZE)


@either
def test_a_cut_frame_is_refused_at_every_length(way: Expand) -> None:
    frame = compress(CONTENT)
    for length in range(len(frame)):
        with pytest.raises(PackDamaged):
            way(frame[:length], SIZE)
