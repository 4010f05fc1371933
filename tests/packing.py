"""Blobs in packs, as a store holds them: for the tests of whoever reads packs."""

import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence

from aysfs import digest as digests
from aysfs.names import ServiceName
from aysfs.pack.format import Columns, Entry, write_pack
from aysfs.pack.frame import compress
from aysfs.pack.index import Pack, PackIndex
from aysfs.store.memory import MemoryStore
from aysfs.store.packs import packs_note, published
from aysfs.store.protocol import Store


def many(count: int, size: int = 2000) -> list[bytes]:
    """Blobs that do not get smaller in a pack."""
    return [
        b"".join(digests.of(b"%d %d" % (number, part)) for part in range(size // 16))
        for number in range(count)
    ]


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
    store: MemoryStore,
    packs: Sequence[Iterable[bytes]],
    *,
    has_start: bool = False,
    references: Mapping[bytes, Sequence[bytes]] | None = None,
) -> PackIndex:
    """Have a store hold these packs; their index. The blobs themselves are for the test to add."""
    made = []
    for blobs in packs:
        pack, data = pack_of(blobs)
        store.add(data)
        made.append(pack)
    named = None
    if references is not None:
        named = {digests.of(one): [*map(digests.of, to)] for one, to in references.items()}
    return PackIndex.join(made, has_start=has_start, references=named)


async def publish(
    store: Store,
    name: ServiceName,
    packs: Sequence[Iterable[bytes]],
    *,
    has_start: bool = False,
    list_sha256: str | None = None,
) -> PackIndex:
    """Have a store hold these packs for the list that is there under this name."""
    made = []
    for blobs in packs:
        pack, data = pack_of(blobs)
        await store.put(pack.digest, pack.size, io.BytesIO(data))
        made.append(pack)
    index = PackIndex.join(made, has_start=has_start)
    if list_sha256 is None:
        with (await store.open_list(name)).file as file:
            list_sha256 = hashlib.sha256(file.read()).hexdigest()
    note, data = published(list_sha256, index)
    await store.put(note.index.digest, note.index.size, io.BytesIO(data))
    await store.write_note(packs_note(name), note.to_json())
    return index
