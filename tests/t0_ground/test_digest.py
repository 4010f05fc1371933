"""Digests: sixteen bytes, one spelling as text."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aysfs import digest

HELLO = "b1946ac92492d2347c6235b4d2611184"


def test_a_digest_is_the_md5_of_the_bytes() -> None:
    assert digest.of(b"hello\n").hex() == HELLO
    assert digest.EMPTY.hex() == "d41d8cd98f00b204e9800998ecf8427e"
    assert digest.of(b"") == digest.EMPTY


def test_zero_stands_for_no_content_and_is_not_the_digest_of_nothing() -> None:
    assert digest.ZERO.hex() == "0" * 32
    assert len(digest.ZERO) == digest.SIZE == 16
    assert digest.ZERO != digest.EMPTY


@pytest.mark.parametrize(
    "text",
    [
        "",
        HELLO.upper(),
        HELLO[:-1],
        HELLO + "0",
        HELLO + "\n",
        " " + HELLO[1:],
        "g" * 32,
        "0x" * 16,
    ],
)
def test_only_thirty_two_lower_case_hexadecimal_digits_are_a_digest(text: str) -> None:
    with pytest.raises(ValueError, match="not a digest"):
        digest.from_hex(text)


@given(st.binary(max_size=2000))
def test_text_and_back(data: bytes) -> None:
    value = digest.of(data)
    assert value == hashlib.md5(data).digest()
    assert digest.from_hex(value.hex()) == value


@given(st.lists(st.binary(max_size=50)))
def test_pieces_have_the_digest_of_the_whole(pieces: list[bytes]) -> None:
    hasher = digest.hasher()
    for piece in pieces:
        hasher.update(memoryview(piece))
    assert hasher.digest() == digest.of(b"".join(pieces))
