"""From names to one tree: finds lists in a store or on disk, reads them, builds.

Serves mounts, ``ls``, ``cat``, ``fetch`` and ``unpack``, which all speak of services by name.
"""

import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

import trio

from aysfs.cache.compile import compile_list
from aysfs.cache.images import ImageCache, ListKey
from aysfs.errors import (
    BadConfig,
    BadList,
    CacheUnusable,
    ImageDamaged,
    ImageRefused,
    ListMissing,
    NoSpace,
    PathMissing,
    StoreTrouble,
)
from aysfs.flist import Entry, FlistReader, Header, find_entry
from aysfs.image.facts import Facts
from aysfs.names import ListRef, ServiceName
from aysfs.store.protocol import OpenList, Store
from aysfs.tree import Clash, Tree, TreeBuilder, TreeView, choose_base

log = logging.getLogger(__name__)

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


class Shown(NamedTuple):
    """What a mount shows, wherever it is held. ``outside`` as in Loaded."""

    tree: TreeView
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

    Raises ListMissing, StoreTrouble or BadList, and BadConfig when a ``base`` shows nothing.
    """
    return await opened_lists(store, refs, lambda opened: _build_from(opened, base, mount_point))


async def load_view(
    store: Store,
    refs: Sequence[ListRef],
    images: ImageCache | None,
    *,
    base: bytes | None = None,
    mount_point: bytes | None = None,
    compile_new: bool = False,
) -> Shown:
    """As ``load_tree``, and from an image of the cache where one list is shown.

    A list that was compiled before is hashed and no line of it read; another is compiled when
    that is asked for. Else, and where no image can be made or kept, the tree is in memory.
    """

    def use(opened: list[OpenList]) -> Shown:
        if images is not None and len(opened) == 1:
            with _reading(opened[0]):
                shown = _from_image(opened[0], images, compile_new, base, mount_point)
                if shown is not None:
                    return shown
                opened[0].file.seek(0)
        loaded = _build_from(opened, base, mount_point)
        return Shown(loaded.tree, loaded.lists, loaded.clashes, loaded.outside)

    return await opened_lists(store, refs, use)


async def load_entry(
    store: Store, ref: ListRef, images: ImageCache | None, path: bytes
) -> tuple[Entry, ListInfo]:
    """What a list says of one path. Raises as ``load_tree`` does, or PathMissing.

    Of a list that was compiled before only the line of the path is read, where there is one.
    """

    def use(opened: list[OpenList]) -> tuple[Entry, ListInfo]:
        with _reading(opened[0]):
            shown = None if images is None else _from_image(opened[0], images, False, None, None)
            if shown is not None:
                _, below = shown.tree.locate(path, follow=False)
                entry = find_entry(opened[0].file, shown.tree.listed(below))
                shown.tree.close()
                if entry is not None:
                    return entry, shown.lists[0]
            opened[0].file.seek(0)
        loaded = _build_from(opened, None, None)
        node = loaded.tree.resolve(path, follow=False)
        return loaded.tree.entry(node), loaded.lists[0]

    return await opened_lists(store, [ref], use)


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


def _from_image(
    one: OpenList,
    images: ImageCache,
    compile_new: bool,
    base: bytes | None,
    mount_point: bytes | None,
) -> Shown | None:
    """One list through its image; None when only a tree in memory can show it."""
    info = ListInfo(one.source, sha256_of(one.file), one.mtime_ns)
    key = ListKey(info.sha256, info.mtime_ns)
    try:
        cached = images.find(key)
        if cached is None and compile_new:
            cached = compile_list(images, key, one.file, one.source)
    except (CacheUnusable, NoSpace, ImageDamaged, ImageRefused) as error:
        log.info("%s: shown without an image: %s", one.source, error)
        return None
    if cached is None:
        return None
    shown = base_of(cached.facts, base, mount_point)
    outside = cached.facts.outside(shown)
    try:
        if outside is not None:
            return Shown(cached.take_tree(shown), (info,), (), outside)
    except PathMissing:
        pass
    cached.close()
    return None


def base_of(facts: Facts, given: bytes | None, mount_point: bytes | None) -> bytes:
    """As ``choose_base``, from what is known of a list."""
    paths = [facts.common] if facts.named else []
    return choose_base(Header(2, facts.base), given, mount_point, paths)


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
