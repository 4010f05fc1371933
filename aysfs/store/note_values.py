"""Values of notes that are JSON: what somebody else wrote, taken only when it is what it must be.

Serves the notes beside lists. ValueError for anything else.
"""

import re

from aysfs.digest import Digest, from_hex

LARGEST_NUMBER = 1 << 62

_SHA256 = re.compile(r"[0-9a-f]{64}")


def digest_in(value: object) -> Digest:
    """A digest, as text."""
    return from_hex(_text(value))


def sha256_in(value: object) -> str:
    """A sha256, which stays a text."""
    text = _text(value)
    if _SHA256.fullmatch(text) is None:
        raise ValueError(text)
    return text


def number_in(value: object, least: int = 0, most: int = LARGEST_NUMBER) -> int:
    """A whole number."""
    if type(value) is not int or not least <= value <= most:
        raise ValueError(value)
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(value)
    return value
