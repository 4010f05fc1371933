"""Many small blobs as one stream of bytes: the body of ``POST /store/<namespace>/blobs``.

Serves the client and the server of the store API. A frame is the 16 bytes of a digest, the size as
8 bytes, big-endian, and as many bytes of content. Pure: nothing is verified here, whoever keeps
a blob does that.
"""

import struct

from aysfs.digest import Digest
from aysfs.errors import AysfsError

FRAME_LIMIT = 8 << 20
"""Bytes of content in a frame, which is held in memory: larger blobs go one by one."""

_HEAD = struct.Struct(">16sQ")


class BadFrame(AysfsError):
    """A stream that is no sequence of frames."""


def frame_head(digest: Digest, size: int) -> bytes:
    """What stands before a blob's bytes."""
    return _HEAD.pack(digest, size)


class FrameReader:
    """Takes a stream in pieces of any size, and gives the frames that are whole."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[tuple[Digest, bytes]]:
        """The frames that these bytes complete; BadFrame for one that is too large."""
        self._rest += data
        found = []
        position = 0
        while len(self._rest) - position >= _HEAD.size:
            name, size = _HEAD.unpack_from(self._rest, position)
            if size > FRAME_LIMIT:
                raise BadFrame(f"a frame of {size} bytes, and at most {FRAME_LIMIT} are taken")
            start = position + _HEAD.size
            if len(self._rest) - start < size:
                break
            position = start + size
            found.append((Digest(name), bytes(memoryview(self._rest)[start:position])))
        del self._rest[:position]
        return found

    def end(self) -> None:
        """BadFrame when the stream ended inside a frame."""
        if self._rest:
            raise BadFrame("the stream ends inside a frame")
