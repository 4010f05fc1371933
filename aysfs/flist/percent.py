"""Percent-encoding of names in a list: raw bytes <-> bytes that are safe between `|`.

Serves the line formats and everybody who needs the order of a list (``encode_path`` is the
sort key). The encoding is canonical: there is exactly one encoded form of any bytes, and
decoding refuses every other form. It must not judge what a name means; ``rules`` does.
"""

import re

# A byte that is no part of well-formed UTF-8 appears as a lone surrogate (PEP 383).
_IN_PATH = re.compile("[\x00-\x1f\x7f%|\udc80-\udcff]")
_IN_EXT = re.compile("[\x00-\x1f\x7f%|&=\udc80-\udcff]")
_PLAIN_PATH = re.compile(rb"[^\x00-\x1f\x7f%|\x80-\xff]*").fullmatch
_PLAIN_EXT = re.compile(rb"[^\x00-\x1f\x7f%|&=\x80-\xff]*").fullmatch
_STRAY = re.compile(rb"%(?![0-9A-F]{2})").search
_CODE = re.compile(rb"%([0-9A-F]{2})")


class Malformed(ValueError):
    """Text that breaks the format; becomes a BadList where the line number is known."""


def encode_path(raw: bytes) -> bytes:
    """A path as a list writes it. Lists are sorted by the result, compared as bytes."""
    return raw if _PLAIN_PATH(raw) else _encode(raw, _IN_PATH)


def encode_ext(raw: bytes) -> bytes:
    """A key or a value of the ext column as a list writes it."""
    return raw if _PLAIN_EXT(raw) else _encode(raw, _IN_EXT)


def decode_path(text: bytes) -> bytes:
    """The raw bytes of an encoded path; Malformed unless ``text`` is the canonical form."""
    if _PLAIN_PATH(text):
        return text
    raw = _decode(text)
    if _encode(raw, _IN_PATH) != text:
        raise Malformed(
            "not canonical: exactly control characters, `%`, `|` and bytes that are not UTF-8"
            " are percent-encoded"
        )
    return raw


def decode_ext(text: bytes) -> bytes:
    """The raw bytes of an ext key or value; Malformed unless ``text`` is the canonical form."""
    if _PLAIN_EXT(text):
        return text
    raw = _decode(text)
    if _encode(raw, _IN_EXT) != text:
        raise Malformed(
            "ext is not canonical: exactly control characters, `%`, `|`, `&`, `=` and bytes that"
            " are not UTF-8 are percent-encoded"
        )
    return raw


def _encode(raw: bytes, special: re.Pattern[str]) -> bytes:
    text = raw.decode("utf-8", "surrogateescape")
    return special.sub(lambda found: f"%{ord(found[0]) & 0xFF:02X}", text).encode()


def _decode(text: bytes) -> bytes:
    if _STRAY(text):
        raise Malformed("`%` is not followed by two upper-case hexadecimal digits")
    return _CODE.sub(lambda found: bytes((int(found[1], 16),)), text)
