"""Packs for tests: contents in, a pack or the packs of a service out."""

from collections.abc import Iterable, Sequence

from aysfs import digest as digests
from aysfs.pack import Columns, Entry, PackIndex, compress, read_head, write_pack
from aysfs.pack.index import Pack


def packed(contents: Iterable[bytes]) -> bytes:
    """The bytes of a pack of these blobs."""
    frames = {content: compress(content) for content in contents}
    columns = Columns(
        Entry(digests.of(content), len(content), len(frame)) for content, frame in frames.items()
    )
    return b"".join(write_pack(columns, frames.values()))


def described(data: bytes) -> Pack:
    """A pack as an index takes it."""
    return Pack(digests.of(data), len(data), read_head(data))


def indexed(packs: Sequence[bytes], *, has_start: bool = True) -> PackIndex:
    """The index of packs."""
    return PackIndex.join(map(described, packs), has_start=has_start)
