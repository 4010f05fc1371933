"""The name of a blob: the md5 of its bytes.

A digest travels as its 16 raw bytes, half the memory of the hex text, and becomes text only
in file names, lists and messages. md5 names blobs, as the format has done since 2015; it is
an address and an integrity check, not a defence against an adversary (docs/format.md).
"""

import hashlib
import re
from typing import NewType, Protocol

Digest = NewType("Digest", bytes)

SIZE = 16
ZERO = Digest(bytes(SIZE))  # what lists write for entries that are not regular files
EMPTY = Digest(hashlib.md5(b"", usedforsecurity=False).digest())

_HEX = re.compile("[0-9a-f]{32}")


class Hasher(Protocol):
    """The part of a hashlib object that is used here."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None: ...
    def digest(self) -> bytes: ...


def hasher() -> Hasher:
    """A running md5, also where a FIPS policy forbids md5 as a security measure."""
    return hashlib.md5(usedforsecurity=False)


def of(data: bytes | bytearray | memoryview) -> Digest:
    """The digest of these bytes."""
    return Digest(hashlib.md5(data, usedforsecurity=False).digest())


def from_hex(text: str) -> Digest:
    """A digest from 32 lower-case hexadecimal characters; ValueError for anything else."""
    if not _HEX.fullmatch(text):
        raise ValueError(f"not a digest: {text!r}")
    return Digest(bytes.fromhex(text))
