"""From names to one tree: finds lists in a store or on disk, reads them, builds.

Serves mounts, ``ls``, ``cat``, ``fetch`` and ``unpack``, which all speak of services by name.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import BinaryIO, NamedTuple

import trio

from aysfs.errors import BadList, ListMissing, StoreTrouble
from aysfs.flist import FlistReader
from aysfs.names import ListRef, ServiceName
from aysfs.store.protocol import OpenList, Store
from aysfs.tree import Clash, Tree, TreeBuilder, choose_base


class ListInfo(NamedTuple):
    """Which list a tree came from, so that a reload can tell whether it changed."""

    source: str
    sha256: str
    mtime_ns: int


class Loaded(NamedTuple):
    """A tree and how it came to be. ``outside`` counts entries outside their base."""

    tree: Tree
    lists: tuple[ListInfo, ...]
    clashes: tuple[Clash, ...]
    outside: int


async def load_tree(
    store: Store,
    refs: Sequence[ListRef],
    *,
    base: bytes | None = None,
    mount_point: bytes | None = None,
) -> Loaded:
    """The tree of one or several lists; the first named wins where they clash.

    Raises ListMissing, StoreTrouble or BadList.
    """
    with ExitStack() as files:
        opened = []
        for ref in refs:
            opened.append(await _open(store, ref))
            files.callback(opened[-1].file.close)
        owned = files.pop_all()
    # A list that stops answering holds this thread and nobody else. The thread owns the
    # files from here on: closing one under a read would wait for that read.
    return await trio.to_thread.run_sync(
        _build, opened, owned, base, mount_point, abandon_on_cancel=True
    )


async def _open(store: Store, ref: ListRef) -> OpenList:
    if isinstance(ref, ServiceName):
        return await store.open_list(ref)
    try:
        file = await trio.to_thread.run_sync(open, ref, "rb", abandon_on_cancel=True)
    except FileNotFoundError as error:
        raise ListMissing(f"no such list: {ref}") from error
    except OSError as error:
        raise BadList(str(ref), 0, f"cannot be read: {error.strerror}") from error
    return OpenList(file, os.fstat(file.fileno()).st_mtime_ns, str(ref))


def _build(
    opened: list[OpenList], files: ExitStack, base: bytes | None, mount_point: bytes | None
) -> Loaded:
    with files:
        return _build_from(opened, base, mount_point)


def _build_from(opened: list[OpenList], base: bytes | None, mount_point: bytes | None) -> Loaded:
    bases = []
    for one in opened:
        with _reading(one):
            reader = FlistReader(one.file, source=one.source, mtime_ns=one.mtime_ns)
            paths = (entry.path for entry in reader)
            bases.append(choose_base(reader.header, base, mount_point, paths))
            one.file.seek(0)
    builder = TreeBuilder(bases[0])
    lists = []
    for one, list_base in zip(opened, bases, strict=True):
        with _reading(one):
            lists.append(ListInfo(one.source, _sha256(one.file), one.mtime_ns))
            reader = FlistReader(one.file, source=one.source, mtime_ns=one.mtime_ns)
            builder.add(reader, list_base, one.mtime_ns)
    tree = builder.build()
    return Loaded(tree, tuple(lists), tuple(builder.clashes), builder.outside)


@contextmanager
def _reading(one: OpenList) -> Iterator[None]:
    """A list that stops being readable is trouble, and is named."""
    try:
        yield
    except OSError as error:
        raise StoreTrouble(f"{one.source}: cannot be read: {error.strerror}") from error


def _sha256(file: BinaryIO) -> str:
    hasher = hashlib.sha256()
    while chunk := file.read(1 << 20):
        hasher.update(chunk)
    file.seek(0)
    return hasher.hexdigest()
