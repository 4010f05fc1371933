"""From names to one tree: finds lists in a store or on disk, reads them, builds.

Serves mounts, ``ls``, ``cat``, ``fetch`` and ``unpack``, which all speak of services by name.
"""

import hashlib
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

import trio

from aysfs.cache.compile import compile_list
from aysfs.cache.images import CachedImage, ImageCache
from aysfs.cache.list_key import OWN, ListKey
from aysfs.cache.taking import origin_of, take_image
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
from aysfs.limits import DEADLINE
from aysfs.names import ListRef, ServiceName
from aysfs.store.chain import members
from aysfs.store.protocol import OpenList, Store
from aysfs.store.tree_image import PublishedImage, is_usable, read_image
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
    patience: float = DEADLINE / 2,
) -> Shown:
    """As ``load_tree``, and from an image of the cache where one list is shown.

    A list that was compiled before is hashed and no line of it read; so is one whose store has
    an image of it, which is fetched for at most ``patience`` seconds. Another is compiled. Both
    only when ``compile_new`` asks for it. Else, and where no image can be made or kept, the tree
    is in memory.
    """
    looking = _Looking(base, mount_point)
    if images is not None and compile_new and len(refs) == 1:
        ref = refs[0]
        if isinstance(ref, ServiceName):
            return await _view_of_service(store, ref, images, looking, patience)

    def use(opened: list[OpenList]) -> Shown:
        if images is not None and len(opened) == 1:
            info, _ = _info_and_size(opened[0])
            shown = _find_image(opened[0], info, images, looking)
            if shown is not None:
                return shown
            if compile_new:
                return _compile_or_build(opened[0], info, images, looking)
        return _shown_from(_build_from(opened, base, mount_point))

    return await opened_lists(store, refs, use)


async def _view_of_service(
    store: Store, name: ServiceName, images: ImageCache, looking: "_Looking", patience: float
) -> Shown:
    """What the list of a service shows, through an image if one can be had."""
    one = await _open_from(store, name)
    file = _Shared(one.file)
    try:
        info, size = await file.use(lambda: _info_and_size(one))
        shown = await file.use(lambda: _find_image(one, info, images, looking))
        if shown is None and (found := await published_image(store, one, name, info.sha256)):
            origin, key = origin_of(one.source), ListKey(info.sha256, info.mtime_ns)
            image = await take_image(
                images, key, size, found, store, origin=origin, deadline=patience
            )
            if image is not None:
                shown = await file.use(lambda: _show(image, info, looking))
        if shown is None:
            shown = await file.use(lambda: _compile_or_build(one, info, images, looking))
        return shown
    finally:
        file.leave()


async def published_image(
    store: Store, one: OpenList, name: ServiceName, sha256: str
) -> PublishedImage | None:
    """The image that a list's own store has of it.

    Of several stores none has a say in what the list of another shows.
    """
    try:
        home = next(home for home in members(store) if home.label == one.store)
        found = await read_image(home, name)
    except StoreTrouble as error:
        log.info("%s: whether it has an image is not known: %s", one.source, error)
        return None
    return found if found is not None and is_usable(found, sha256) else None


async def load_entry(
    store: Store, ref: ListRef, images: ImageCache | None, path: bytes
) -> tuple[Entry, ListInfo]:
    """What a list says of one path. Raises as ``load_tree`` does, or PathMissing.

    Of a list that was compiled before only the line of the path is read, where there is one.
    """

    def use(opened: list[OpenList]) -> tuple[Entry, ListInfo]:
        with _reading(opened[0]):
            shown = None
            if images is not None:
                info, _ = _info_and_size(opened[0])
                shown = _find_image(opened[0], info, images, _Looking(None, None))
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
                one = await _open_from(store, ref)
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


async def _open_from(store: Store, name: ServiceName) -> OpenList:
    """A store's list, and of which store it is."""
    one = await store.open_list(name)
    return one if one.store else one._replace(store=store.label)


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


class _Looking(NamedTuple):
    """Which directory is to be shown, as far as that was said."""

    base: bytes | None
    mount_point: bytes | None


def _info_and_size(one: OpenList) -> tuple[ListInfo, int]:
    """What a list is known by, and its bytes."""
    with _reading(one):
        info = ListInfo(one.source, sha256_of(one.file), one.mtime_ns)
        size = one.file.seek(0, os.SEEK_END)
        one.file.seek(0)
        return info, size


def _find_image(
    one: OpenList, info: ListInfo, images: ImageCache, looking: _Looking
) -> Shown | None:
    """One list through an image of the cache: our own, or that which its store gave."""
    origins = [OWN, origin_of(one.source)] if one.store else [OWN]
    try:
        cached = images.find(ListKey(info.sha256, info.mtime_ns), origins=origins)
        return None if cached is None else _show(cached, info, looking)
    except (CacheUnusable, ImageDamaged) as error:
        log.info("%s: shown without an image: %s", one.source, error)
        return None


def _compile_or_build(
    one: OpenList, info: ListInfo, images: ImageCache, looking: _Looking
) -> Shown:
    """One list through an image that is made now, or else from memory."""
    with _reading(one):
        try:
            key = ListKey(info.sha256, info.mtime_ns)
            shown = _show(compile_list(images, key, one.file, one.source), info, looking)
            if shown is not None:
                return shown
        except (CacheUnusable, NoSpace, ImageDamaged, ImageRefused) as error:
            log.info("%s: shown without an image: %s", one.source, error)
        one.file.seek(0)
        return _shown_from(_build_from([one], looking.base, looking.mount_point))


def _show(cached: CachedImage, info: ListInfo, looking: _Looking) -> Shown | None:
    """A list through its image, which is closed; None when only a tree in memory can show it."""
    shown = base_of(cached.facts, looking.base, looking.mount_point)
    outside = cached.facts.outside(shown)
    try:
        if outside is not None:
            return Shown(cached.take_tree(shown), (info,), (), outside)
    except PathMissing:
        pass
    except BaseException:
        cached.close()
        raise
    cached.close()
    return None


def _shown_from(loaded: Loaded) -> Shown:
    return Shown(loaded.tree, loaded.lists, loaded.clashes, loaded.outside)


class _Shared:
    """A file that is closed by whoever is the last to use it: its owner, or a thread."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._users = 1
        self._lock = threading.Lock()

    async def use(self, work: Callable[[], T]) -> T:
        """Do work with the file in a thread, which is left to itself when we are cancelled."""
        return await trio.to_thread.run_sync(self._with, work, abandon_on_cancel=True)

    def _with(self, work: Callable[[], T]) -> T:
        with self._lock:
            if not self._users:
                raise ValueError("the file is closed")  # cancelled before we began: nobody hears it
            self._users += 1
        try:
            return work()
        finally:
            self.leave()

    def leave(self) -> None:
        """Be done with it."""
        with self._lock:
            self._users -= 1
            last = not self._users
        if last:
            self._file.close()


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
