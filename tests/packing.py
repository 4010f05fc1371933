"""Blobs in packs, as a store holds them: for the tests of whoever reads packs."""

from collections.abc import Iterable, Sequence

from aysfs import digest as digests
from aysfs.pack.format import Columns, Entry, write_pack
from aysfs.pack.frame import compress
from aysfs.pack.index import Pack, PackIndex
from aysfs.store.memory import MemoryStore


def pack_of(blobs: Iterable[bytes], frames: Sequence[bytes] | None = None) -> tuple[Pack, bytes]:
    """A pack of these blobs, and its bytes. ``frames`` are there in place of the blobs' own."""
    blobs = list(blobs)
    made = [compress(one) for one in blobs] if frames is None else frames
    entries = Columns(
        Entry(digests.of(blob), len(blob), len(frame))
        for blob, frame in zip(blobs, made, strict=True)
    )
    data = b"".join(write_pack(entries, made))
    return Pack(digests.of(data), len(data), entries), data


def packed(
    store: MemoryStore, packs: Sequence[Iterable[bytes]], *, has_start: bool = False
) -> PackIndex:
    """Have a store hold these packs; their index. The blobs themselves are for the test to add."""
    made = []
    for blobs in packs:
        pack, data = pack_of(blobs)
        store.add(data)
        made.append(pack)
    return PackIndex.join(made, has_start=has_start)
