"""What is in the packs of a store, and what should be."""

from pathlib import Path

from aysfs import digest as digests
from aysfs.names import ServiceName
from aysfs.pack import PackIndex, expand
from aysfs.store.chain import Chain
from aysfs.store.memory import MemoryStore
from aysfs.store.packs import PublishedPacks, read_index, read_packs
from tests.list_notes import NAME

FILES = 120  # in the tree `many_files`


async def packs_in(store: MemoryStore | Chain, name: ServiceName = NAME) -> PublishedPacks:
    found = await read_packs(store, name)
    assert found is not None
    return found


async def index_in(store: MemoryStore, name: ServiceName = NAME) -> PackIndex:
    return await read_index(store, await packs_in(store, name))


def contents(store: MemoryStore, index: PackIndex) -> list[bytes]:
    """Every blob of the packs, out of them, in their order."""
    found = []
    for at in range(len(index)):
        pack = store.blobs[index.packs[index.pack(at)].digest]
        frame = pack[index.offset(at) :][: index.stored(at)]
        found.append(expand(frame, index.size(at)))
        assert digests.of(found[-1]) == index.digest(at)
    return found


def small_files(tree: Path) -> set[bytes]:
    return {path.read_bytes() for path in tree.rglob("*") if path.is_file()}


def profile_of(*files: bytes) -> bytes:
    """A profile that names these, after a blob that no list has."""
    lines = [
        f"{digests.of(one).hex()}|{len(one)}|1|1" for one in dict.fromkeys((b"unheard of", *files))
    ]
    return "\n".join(["#profile 1", "#runs 1", *lines, ""]).encode()
