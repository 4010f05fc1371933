"""Packs for tests: contents in, a pack or the packs of a service out."""

import hashlib
from collections.abc import Iterable, Sequence

from aysfs import digest as digests
from aysfs.names import ServiceName
from aysfs.pack import Columns, Entry, PackIndex, compress, read_head, write_pack
from aysfs.pack.index import Pack
from aysfs.store.claims import Claim
from aysfs.store.memory import MemoryStore
from aysfs.store.packs import PublishedPacks, keep_packs, published


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


async def publish_packs(
    store: MemoryStore, name: ServiceName, *packs: Sequence[bytes], has_start: bool = True
) -> PublishedPacks:
    """Let the list that a store has under a name have packs of these contents; nothing checked."""
    made = [packed(contents) for contents in packs]
    sha256 = hashlib.sha256(store.published[name][0]).hexdigest()
    found, data = published(sha256, indexed(made, has_start=has_start))
    for one in (*made, data):
        store.add(one)
    async with Claim(store) as claim:
        await keep_packs(claim, name, sha256, found)
    return found
