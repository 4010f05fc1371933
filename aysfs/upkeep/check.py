"""Whether a store is whole: every blob of every list is there, of its size, and right to the byte.

Serves ``aysfs store check``. Owns nothing and changes nothing. Each blob is asked for once, in
however many lists it is; only where something is wrong are the lists read again, for the paths
that it hurts. A list that cannot be read is reported and does not stop the others; a store that
does not answer stops all, for then nothing is known.
"""

import enum
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import trio

from aysfs import digest as digests
from aysfs.chunks import ChunkHasher
from aysfs.digest import SIZE, Digest
from aysfs.errors import BadList, BlobMissing, Corrupt, ListMissing, PackDamaged
from aysfs.flist.entry import Entry, Kind
from aysfs.names import ServiceName
from aysfs.pack import PackIndex
from aysfs.store.crew import side_by_side
from aysfs.store.packs import PublishedPacks, packs_note, read_index
from aysfs.store.protocol import Sink, Store
from aysfs.store.tree_image import image_note
from aysfs.upkeep.check_packs import PackCheck
from aysfs.upkeep.lists import (
    LOST,
    Facts,
    Step,
    blobs_named_by,
    entries_of,
    foreign_lists,
    lost,
    read_list,
)
from aysfs.upkeep.packed import WITH_SIZE, Packed, Record, digest_of, pack, size_of

READERS = 8
NAMED = 100  # paths of one list that are reported; all are counted


class Wrong(enum.StrEnum):
    """What can be the matter with a blob."""

    MISSING = "missing"
    SIZE = "of another size"
    BYTES = "corrupt"
    CHUNKS = "not what its chunks say"
    PACK = "not what it says it holds"
    """A pack whose frames are not the blobs that it names, or an index that is not of the packs."""


class Hurt(NamedTuple):
    """A path of a list whose blob is wrong; for one of its image or packs, the name of the note."""

    path: bytes
    digest: Digest
    wrong: Wrong


class Damage(NamedTuple):
    """A list that is not whole: how many of its files, those of its image and packs among them."""

    name: ServiceName
    files: int
    missing: int
    corrupt: int
    hurt: Sequence[Hurt]


class CheckReport(NamedTuple):
    """What was found. ``unreadable`` has the reason by the list's name or file."""

    lists: list[Facts]
    unreadable: dict[str, str]
    damage: list[Damage]
    blobs: int
    size: int
    wrong: dict[Digest, Wrong]


async def check(
    store: Store,
    names: Sequence[ServiceName] | None = None,
    *,
    deep: bool = False,
    step: Step = lambda *_: None,
) -> CheckReport:
    """Check these lists, or all. ``deep`` reads and hashes every blob."""
    return await _Check(store, deep, step).run(names)


class _Check:
    """One check, from the lists to what is wrong with them."""

    def __init__(self, store: Store, deep: bool, step: Step) -> None:
        self._store = store
        self._deep = deep
        self._step = step
        self._named = Packed(WITH_SIZE)
        self._facts: list[Facts] = []
        self._unreadable: dict[str, str] = {}
        self._chunked = Packed(_CHUNKED)  # blobs with chunks, and what lists say of these
        self._said: Mapping[Record, set[Record]] = {}  # the same, of the shelf that is looked at
        self._wrong: dict[Record, Wrong] = {}
        self._in_packs: set[Record] = set()
        self._blobs = 0
        self._size = 0

    async def run(self, names: Sequence[ServiceName] | None) -> CheckReport:
        if names is None:
            foreign = foreign_lists(await self._store.strays())
            self._unreadable.update((path, "its name is no service's") for path in foreign)
        asked = names if names is not None else await self._store.lists()
        absent: set[ServiceName] = set()
        for number, name in enumerate(asked):
            self._step("lists", number, len(asked))
            try:
                await self._read(name)
            except ListMissing:
                if names is not None:
                    raise
                absent.add(name)  # deleted since, most likely
        self._unreadable.update({str(name): LOST for name in await lost(self._store, absent)})
        for first in range(256):
            self._step("blobs", first, 256)
            await self._shelf(first)
        await self._packs()
        damage = [found for one in self._facts if (found := await self._damage(one))]
        wrong = {digest_of(record): what for record, what in self._wrong.items()}
        return CheckReport(self._facts, self._unreadable, damage, self._blobs, self._size, wrong)

    async def _read(self, name: ServiceName) -> None:
        add = self._named.add
        try:
            facts = await read_list(
                self._store,
                name,
                lambda digest, size: add(pack(digest, size)),
                lambda entry: self._chunked.add(_chunk_record(entry)),
            )
        except BadList as error:
            self._unreadable[str(name)] = str(error)
        else:
            self._facts.append(facts)
            if facts.packs is not None and not facts.packs.wrong:
                blobs = {pack(*one) for one in facts.packs.blobs}
                self._in_packs |= blobs - {pack(*facts.packs.found.index)}

    async def _shelf(self, first: int) -> None:
        """All blobs that begin with this byte. One digest with two sizes is two of them."""
        records = self._named.bucket(first)
        said: dict[Record, set[Record]] = {}
        for one in self._chunked.bucket(first):
            said.setdefault(one[:WITH_SIZE], set()).add(one)
        self._said = said
        self._blobs += len(records)
        self._size += sum(map(size_of, records))
        for same in _with_one_size_each(records):
            sizes = {digest_of(record): size_of(record) for record in same}
            lacking = await self._store.missing(sizes)
            for record in [one for one in same if digest_of(one) in lacking]:
                same.discard(record)
                await self._judge(record)
            if self._deep:  # packs are read once, by `_packs`
                await side_by_side(same - self._in_packs, self._judge, READERS)

    async def _packs(self) -> None:
        """What packs say of themselves and of each other, beyond their being there."""
        reader = PackCheck(self._fetch_pack)
        packed = [one.packs for one in self._facts if one.packs is not None]
        for number, packs in enumerate(packed):
            if not self._deep and not packs.wrong:
                continue
            self._step("packs", number, len(packed))
            index = None if packs.wrong else await self._index(packs.found)
            bad, agrees = await reader.lying(index) if index is not None else ([], False)
            sizes = dict(packs.blobs)
            for digest in bad:
                self._wrong.setdefault(pack(digest, sizes[digest]), Wrong.PACK)
            if not agrees:
                self._wrong.setdefault(pack(*packs.found.index), Wrong.PACK)

    async def _index(self, found: PublishedPacks) -> PackIndex | None:
        """The index, which was good a while ago."""
        try:
            return await read_index(self._store, found)
        except (BlobMissing, Corrupt, PackDamaged):
            return None

    async def _fetch_pack(self, digest: Digest, size: int, sink: Sink) -> bool:
        record = pack(digest, size)
        wrong = await self._receive(record, _Both(sink))
        if wrong is not None:
            self._wrong[record] = wrong
        return wrong is None

    async def _judge(self, record: Record) -> None:
        wrong = await self._look(record)
        if wrong is not None:
            self._wrong[record] = wrong

    async def _look(self, record: Record) -> Wrong | None:
        """Read a blob; what is wrong with it, and with what lists say of its chunks."""
        said = self._said.get(record, ())
        sink = _Hashing({int.from_bytes(one[WITH_SIZE : WITH_SIZE + 8], "big") for one in said})
        data = self._store.at_hand(digest_of(record), size_of(record))
        if data is not None:
            await trio.lowlevel.checkpoint()
            sink.write(data)
            wrong = None if sink.digest() == digest_of(record) else Wrong.BYTES
        else:
            wrong = await self._receive(record, sink)
        if wrong is None:
            found = {_of_chunks(record, cut, index) for cut, index in sink.indexes()}
            self._wrong |= {one: Wrong.CHUNKS for one in said if one not in found}
        return wrong

    async def _receive(self, record: Record, sink: "_Hashing") -> Wrong | None:
        """The same by way of a sink, which has it all when nothing is wrong."""
        digest, size = digest_of(record), size_of(record)
        try:
            await self._store.get(digest, size, sink)
        except BlobMissing:
            return Wrong.MISSING
        except Corrupt:
            return Wrong.SIZE
        if sink.size != size:
            return Wrong.SIZE
        return None if sink.digest() == digest else Wrong.BYTES

    async def _damage(self, facts: Facts) -> Damage | None:
        """The paths of a list that are hurt."""
        if not self._wrong:
            return None
        try:
            opened = await self._store.open_list(facts.name)
        except ListMissing:
            return None  # deleted since
        found = _Found(self._wrong)
        with opened.file:
            await trio.to_thread.run_sync(found.read, entries_of(opened))
        found.read_notes(facts)
        if not found.counts:
            return None
        missing = found.counts.get(Wrong.MISSING, 0)
        corrupt = sum(found.counts.values()) - missing
        files = facts.files + len(facts.image) + len(facts.packs.blobs if facts.packs else ())
        return Damage(facts.name, files, missing, corrupt, found.hurt)


class _Hashing:
    """A sink that keeps nothing but the md5, and those of chunks of each of these sizes."""

    def __init__(self, cuts: Iterable[int] = ()) -> None:
        self._cuts = list(cuts)
        self._begin()

    def write(self, data: bytes | memoryview, /) -> None:
        self._whole.update(data)
        for hasher in self._hashers:
            hasher.update(data)
        self.size += len(data)

    def restart(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._whole = digests.hasher()
        self._hashers = [ChunkHasher(cut) for cut in self._cuts]
        self.size = 0

    def digest(self) -> bytes:
        """The md5 of all bytes."""
        return self._whole.digest()

    def indexes(self) -> Iterator[tuple[int, Digest]]:
        """The size of a chunk, and the digest of the index that it gives."""
        for cut, hasher in zip(self._cuts, self._hashers, strict=True):
            yield cut, digests.of(hasher.index())


_CHUNKED = WITH_SIZE + 8 + SIZE


def _chunk_record(entry: Entry) -> Record:
    """What a list says of a blob's chunks. The entry must have some."""
    assert entry.chunks is not None
    return _of_chunks(pack(entry.digest, entry.size), entry.chunks.size, entry.chunks.digest)


def _of_chunks(blob: Record, cut: int, index: Digest) -> Record:
    return blob + cut.to_bytes(8, "big") + index


class _Both(_Hashing):
    """Hands on what it hashes."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        super().__init__()

    def write(self, data: bytes | memoryview, /) -> None:
        super().write(data)
        self._sink.write(data)

    def restart(self) -> None:
        super().restart()
        self._sink.restart()


class _Found:
    """The entries of one list whose blobs are wrong."""

    def __init__(self, wrong: Mapping[Record, Wrong]) -> None:
        self.counts: Counter[Wrong] = Counter()
        self.hurt: list[Hurt] = []
        self._wrong = wrong

    def read(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            if entry.kind is Kind.REGULAR:
                for digest, size in blobs_named_by(entry):
                    self._judge(entry.path, pack(digest, size))
                if entry.chunks:
                    self._judge(entry.path, _chunk_record(entry))

    def read_notes(self, facts: Facts) -> None:
        for digest, size in facts.image:
            self._judge(image_note(facts.name).encode(), pack(digest, size))
        if facts.packs is not None:
            for digest, size in facts.packs.blobs:
                self._judge(packs_note(facts.name).encode(), pack(digest, size))

    def _judge(self, path: bytes, record: Record) -> None:
        wrong = self._wrong.get(record)
        if wrong is not None:
            self.counts[wrong] += 1
            if len(self.hurt) < NAMED:
                self.hurt.append(Hurt(path, digest_of(record), wrong))


def _with_one_size_each(records: set[Record]) -> Iterator[set[Record]]:
    """The same, in sets in which no digest comes twice."""
    while records:
        some = set({digest_of(record): record for record in records}.values())
        yield set(some)
        records = records - some
