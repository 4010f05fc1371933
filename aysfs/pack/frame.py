"""One blob as a zstd frame: what a frame of a pack is, and the making of one.

A frame says its content's size, has no checksum (a blob has its md5), needs no dictionary, and
asks for a window of at most 8 MiB, which is what RFC 8878 wants every decoder to have.
"""

import threading

import zstandard

LEVEL = 3
MAGIC = b"\x28\xb5\x2f\xfd"
MAX_WINDOW = 8 << 20
SHORTEST = 9
"""Bytes of the shortest frame: magic, descriptor, size of the content, one empty block."""


def longest(size: int) -> int:
    """The most bytes that a frame of so many bytes of content has; zstd's own bound, rounded up."""
    return size + (size >> 8) + 64


class _Compressor(threading.local):
    """One a thread: it must not be used by two at once, and making one costs more than using it."""

    def __init__(self) -> None:
        self.one = zstandard.ZstdCompressor(
            level=LEVEL, write_checksum=False, write_content_size=True, write_dict_id=False
        )


_compressor = _Compressor()


def compress(data: bytes | memoryview) -> bytes:
    """The frame of a blob. The same bytes give the same frame as long as zstd stays the same."""
    return _compressor.one.compress(data)
