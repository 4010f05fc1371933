"""A pack gives back the blobs that went into it, from exactly the bytes that are written down."""

import hashlib
import struct

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from aysfs import digest as digests
from aysfs.digest import Digest
from aysfs.errors import PackDamaged
from aysfs.limits import LARGE
from aysfs.pack import Columns, Entry, compress, expand, head_size, read_head, write_pack
from aysfs.pack.format import MAX_COUNT, count_of
from tests.packs import packed

contents = st.lists(st.binary(max_size=300) | st.just(b"n" * 70_000), unique=True, max_size=12)


@given(contents, st.binary(max_size=20))
def test_the_blobs_of_a_pack_are_those_that_were_put_in(blobs: list[bytes], more: bytes) -> None:
    data = packed(blobs)
    entries = read_head(data + more)
    at = head_size(len(entries))
    found = []
    for one in entries:
        content = expand(memoryview(data)[at : at + one.stored], one.size)
        assert digests.of(content) == one.digest
        found.append(content)
        at += one.stored
    assert found == blobs
    assert at == len(data)
    assert count_of(data[:16]) == len(blobs) == len(entries)


def test_the_bytes_of_a_pack_are_those_of_the_format() -> None:
    """Read with nothing but the words of docs/format.md."""
    data = packed([b"hello\n", bytes(1000)])
    assert data[:16] == b"aysfspk1" + struct.pack("<II", 1, 2)
    assert data[16:48] == hashlib.md5(b"hello\n").digest() + hashlib.md5(bytes(1000)).digest()
    assert struct.unpack("<2Q", data[48:64]) == (6, 1000)
    first, second = struct.unpack("<2Q", data[64:80])
    assert data[80 : 80 + first] == bytes.fromhex("28b52ffd2006310000") + b"hello\n"
    assert 80 + first + second == len(data)
    # A size of two bytes, one segment, no checksum, no dictionary.
    assert data[80 + first : 85 + first] == bytes.fromhex("28b52ffd60")
    assert zstandard.ZstdDecompressor().decompress(data[80 + first :]) == bytes(1000)


def test_a_pack_of_nothing_is_its_header() -> None:
    assert packed([]) == b"aysfspk1" + struct.pack("<II", 1, 0)
    assert list(read_head(packed([]))) == []


def test_an_empty_blob_has_a_frame_like_any_other() -> None:
    data = packed([b""])
    (one,) = read_head(data)
    assert (one.digest, one.size, one.stored) == (digests.EMPTY, 0, 9)
    assert expand(data[head_size(1) :], 0) == b""


def test_a_cut_head_is_refused_at_every_length() -> None:
    data = packed([b"a", b"b", b"c"])
    for length in range(head_size(3)):
        with pytest.raises(PackDamaged):
            read_head(data[:length])
    read_head(data[: head_size(3)])


@pytest.mark.parametrize(
    ("at", "new", "words"),
    [
        (0, b"aysfspk2", "no pack of this version"),
        (8, b"\2", "no pack of this version"),
        (12, struct.pack("<I", MAX_COUNT + 1), "at most"),
        (12, b"\xff" * 4, "at most"),
        (12, struct.pack("<I", 4), "cut off"),
        (32, struct.pack("<Q", LARGE + 1), "a blob of"),
        (32, struct.pack("<Q", 1 << 40), "4 GiB"),
        (40, struct.pack("<Q", 0), "in a frame of 0"),
        (40, struct.pack("<Q", 8), "in a frame of 8"),
        (40, struct.pack("<Q", 1000), "in a frame of 1000"),
        (40, b"\xff" * 8, "4 GiB"),
    ],
)
def test_a_lying_head_is_refused(at: int, new: bytes, words: str) -> None:
    data = packed([b"x"])
    damaged = data[:at] + new + data[at + len(new) :]
    with pytest.raises(PackDamaged, match=words):
        read_head(damaged[: head_size(1)])


def test_what_no_pack_can_hold_is_not_written() -> None:
    with pytest.raises(PackDamaged, match="a blob of"):
        Columns([Entry(Digest(bytes(16)), LARGE + 1, 100)])
    many = Columns()
    many.append(Entry(Digest(bytes(16)), 1, 10))
    for _ in range(20):
        many.extend(many)
    many.append(many[0])
    with pytest.raises(PackDamaged, match="at most"):
        next(write_pack(many, ()))


def test_the_longest_frame_of_bytes_that_do_not_compress_is_allowed() -> None:
    for size in (0, 1, 255, 4096, 1 << 17, (1 << 17) + 1, 3 << 20):
        noise = hashlib.shake_256(b"noise").digest(size)
        Columns([Entry(digests.of(noise), size, len(compress(noise)))])
