"""What a store holds, in numbers.

Serves ``aysfs store info`` and ``ls``. Changes nothing, and judges nothing: a list that cannot be
read is named, and what only it names then counts as nobody's.
"""

from collections.abc import Sequence
from typing import NamedTuple

from aysfs.errors import BadList, ListMissing
from aysfs.names import ServiceName
from aysfs.store.claims import GC_NOTE, PUSH_PREFIX
from aysfs.store.layout import is_temporary
from aysfs.store.protocol import Store
from aysfs.upkeep.lists import LOST, Facts, Step, foreign_lists, lost, read_list
from aysfs.upkeep.packed import WITH_SIZE, Packed, digest_of, pack, size_of


class Info(NamedTuple):
    """A store in numbers. Sizes are bytes.

    ``listed_size`` is what the files of all lists would take without deduplication, ``named_size``
    what they take here, each blob once, with the indexes of large files, the tree images of
    ``images`` lists and the packs of ``packed`` lists. ``unnamed`` is
    held, and no list names it.
    """

    services: int
    tags: int
    entries: int
    listed_size: int
    indexes_size: int
    images: int
    images_size: int
    packed: int
    packed_size: int
    named: int
    named_size: int
    blobs: int
    size: int
    unnamed: int
    unnamed_size: int
    leftovers: int
    leftovers_size: int
    pushes: int
    gc: bool
    unreadable: dict[str, str]

    @property
    def saved(self) -> int:
        """Bytes that deduplication saved."""
        beside = self.indexes_size + self.images_size + self.packed_size
        return self.listed_size + beside - self.named_size


async def read_lists(
    store: Store, *, step: Step = lambda *_: None, named: Packed | None = None
) -> tuple[list[Facts], dict[str, str]]:
    """Every list, and the reason for each that cannot be read; what they name goes to ``named``."""
    found: list[Facts] = []
    unreadable = dict.fromkeys(foreign_lists(await store.strays()), "its name is no service's")
    add = named.add if named is not None else _forget
    names = await store.lists()
    absent: set[ServiceName] = set()
    for number, name in enumerate(names):
        step("lists", number, len(names))
        try:
            found.append(await read_list(store, name, lambda digest, size: add(pack(digest, size))))
        except BadList as error:
            unreadable[str(name)] = str(error)
        except ListMissing:
            absent.add(name)  # deleted since, most likely
    unreadable |= {str(name): LOST for name in await lost(store, absent)}
    return found, unreadable


async def info(store: Store, *, step: Step = lambda *_: None) -> Info:
    """Look at all of a store."""
    named = Packed(WITH_SIZE)
    lists, unreadable = await read_lists(store, step=step, named=named)
    named_count = named_size = blobs = size = unnamed = unnamed_size = 0
    for first in range(256):
        step("blobs", first, 256)
        records = named.bucket(first)
        wanted = {digest_of(record) for record in records}
        named_count += len(wanted)
        named_size += sum(map(size_of, records))
        for one in await store.shelf(first):
            blobs, size = blobs + 1, size + one.size
            if one.digest not in wanted:
                unnamed, unnamed_size = unnamed + 1, unnamed_size + one.size
    leftovers = [one.size for one in await store.strays() if is_temporary(one.path)]
    notes = await store.notes()
    return Info(
        services=len({(one.name.domain, one.name.name) for one in lists}),
        tags=sum(one.name.tag is not None for one in lists),
        entries=sum(one.entries for one in lists),
        listed_size=sum(one.size for one in lists),
        indexes_size=sum(one.index_size for one in lists),
        images=sum(bool(one.image) for one in lists),
        images_size=sum(one.image_size for one in lists),
        packed=sum(one.packs is not None for one in lists),
        packed_size=sum(one.packs_size for one in lists),
        named=named_count,
        named_size=named_size,
        blobs=blobs,
        size=size,
        unnamed=unnamed,
        unnamed_size=unnamed_size,
        leftovers=len(leftovers),
        leftovers_size=sum(leftovers),
        pushes=_pushes(list(notes)),
        gc=GC_NOTE in notes,
        unreadable=unreadable,
    )


def _pushes(notes: Sequence[str]) -> int:
    """How many pushes the notes are of; each has one or several."""
    return len({name.rpartition("-")[0] for name in notes if name.startswith(PUSH_PREFIX)})


def _forget(_record: bytes) -> None:
    """For those who only want the facts."""
