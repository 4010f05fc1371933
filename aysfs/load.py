"""From names to one tree: finds lists in a store or on disk, reads them, builds.

Serves mounts, ``ls``, ``cat``, ``fetch`` and ``unpack``, which all speak of services by name.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

import trio

from aysfs.errors import BadConfig, BadList, ListMissing, StoreTrouble
from aysfs.flist import FlistReader
from aysfs.names import ListRef, ServiceName
from aysfs.store.protocol import OpenList, Store
from aysfs.tree import Clash, Tree, TreeBuilder, choose_base

T = TypeVar("T")


class ListInfo(NamedTuple):
    """Which list a tree came from, so that a reload can tell whether it changed."""

    source: str
    sha256: str
    mtime_ns: int


class Loaded(NamedTuple):
    """A tree and how it came to be.

    ``outside`` counts entries outside their base, ``named`` those that a line of a list names,
    ``implied`` directories below the root that none does.
    """

    tree: Tree
    lists: tuple[ListInfo, ...]
    clashes: tuple[Clash, ...]
    outside: int
    named: int
    implied: int


async def load_tree(
    store: Store,
    refs: Sequence[ListRef],
    *,
    base: bytes | None = None,
    mount_point: bytes | None = None,
) -> Loaded:
    """The tree of one or several lists; the first named wins where they clash.

    Raises ListMissing, StoreTrouble or BadList, and BadConfig when a ``base`` shows nothing.
    """
    return await opened_lists(store, refs, lambda opened: _build_from(opened, base, mount_point))


async def opened_lists(
    store: Store, refs: Sequence[ListRef], use: Callable[[list[OpenList]], T]
) -> T:
    """What ``use`` makes of the lists, in a thread. Raises ListMissing, StoreTrouble or BadList."""
    with ExitStack() as files:
        found: list[OpenList | Path] = []
        for ref in refs:
            if isinstance(ref, ServiceName):
                one = await store.open_list(ref)
                files.callback(one.file.close)
                found.append(one)
            else:
                found.append(ref)
        # A list that stops answering holds this thread and nobody else. The thread takes the
        # files over: closing one under a read would wait for that read. When we are cancelled
        # before there is a thread, they are still ours.
        return await trio.to_thread.run_sync(_use, found, files, use, abandon_on_cancel=True)


def _use(found: list[OpenList | Path], files: ExitStack, use: Callable[[list[OpenList]], T]) -> T:
    with files.pop_all() as owned:
        return use([_open(one, owned) if isinstance(one, Path) else one for one in found])


def _open(path: Path, files: ExitStack) -> OpenList:
    try:
        file = open(path, "rb")  # noqa: SIM115 - `files` closes it
    except FileNotFoundError as error:
        raise ListMissing(f"no such list: {path}") from error
    except OSError as error:
        raise BadList(str(path), 0, f"cannot be read: {error.strerror}") from error
    files.callback(file.close)
    return OpenList(file, os.fstat(file.fileno()).st_mtime_ns, str(path))


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
            lists.append(ListInfo(one.source, sha256_of(one.file), one.mtime_ns))
            reader = FlistReader(one.file, source=one.source, mtime_ns=one.mtime_ns)
            builder.add(reader, list_base, one.mtime_ns)
    tree = builder.build()
    clashes, outside = tuple(builder.clashes), builder.outside
    if base is not None and outside and len(tree) == 1 and not builder.named:
        sources = ", ".join(one.source for one in opened)
        raise BadConfig(
            f"{sources}: nothing lies below the base {os.fsdecode(base)}",
            hint="without --base the list's own base is shown",
        )
    return Loaded(tree, tuple(lists), clashes, outside, builder.named, builder.implied)


@contextmanager
def _reading(one: OpenList) -> Iterator[None]:
    """A list that stops being readable is trouble, and is named."""
    try:
        yield
    except OSError as error:
        raise StoreTrouble(f"{one.source}: cannot be read: {error.strerror}") from error


def sha256_of(file: BinaryIO) -> str:
    """What a list is known by: of its bytes, in hexadecimal digits."""
    hasher = hashlib.sha256()
    while chunk := file.read(1 << 20):
        hasher.update(chunk)
    file.seek(0)
    return hasher.hexdigest()
