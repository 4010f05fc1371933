"""A store that has a list and what a note beside it names, for the tests of its upkeep."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aysfs.digest import Digest
from aysfs.names import ServiceName
from aysfs.publish.image import add_image, sha256_of
from aysfs.store.memory import MemoryStore
from aysfs.upkeep.check import Hurt, check
from tests.list_notes import IMAGE, NAME, PACKS, Kind, T
from tests.packs import publish_packs
from tests.t3_upkeep.listed import listed
from tests.t3_upkeep.sweeping import sweep

FILES = [b"one", b"two", b"three", b"four" * 100]
PROFILE = b"#profile 1\n#runs 1\n"


async def _packs(store: MemoryStore, name: ServiceName) -> None:
    await publish_packs(store, name, FILES[:2], FILES[2:])


_PUBLISH: Mapping[Kind[Any], Callable[[MemoryStore, ServiceName], Awaitable[None]]] = {
    IMAGE: add_image,
    PACKS: _packs,
}


async def a_store(kind: Kind[T]) -> tuple[MemoryStore, T]:
    """A store with a list of ``FILES``, and the note of all that it has of that list."""
    store = MemoryStore()
    for data in FILES:
        store.add(data)
    await store.put_list(NAME, [listed(*FILES)])
    await _PUBLISH[kind](store, NAME)
    return store, await kind.found(store)


async def is_noted(kind: Kind[Any], store: MemoryStore, name: ServiceName) -> bool:
    """Whether a store has a note of this very list; what it names must be there."""
    found = await kind.read(store, name)
    if found is None or sha256_of([store.published[name][0]]) != found.list_sha256:
        return False
    assert not await store.missing(await kind.blobs(store, found))
    return True


async def new_list(store: MemoryStore) -> None:
    """Another list under the same name, published by somebody who knows nothing of notes."""
    await store.put_list(NAME, [listed(*FILES, FILES[0])])


async def swept(store: MemoryStore) -> int:
    """How many blobs a gc deletes that waits for nothing."""
    return (await sweep(store, grace=-1)).blobs.files


async def damage_of(store: MemoryStore, *, deep: bool) -> set[Hurt]:
    """All that a check names."""
    report = await check(store, deep=deep)
    return {hurt for damage in report.damage for hurt in damage.hurt}


async def parts_of(kind: Kind[T], store: MemoryStore, found: T) -> dict[str, Digest]:
    """Which blob is which part."""
    return dict(zip(kind.parts, await kind.blobs(store, found), strict=True))
