"""A store, a cache and a fetch service for the length of one command."""

import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeVar

import trio

from aysfs.cache.blobs import Cache
from aysfs.cache.images import ImageCache
from aysfs.cache.recovery import flush, recover
from aysfs.cli.config import Settings
from aysfs.cli.render import note
from aysfs.errors import CacheUnusable, StoreTrouble, first_of
from aysfs.fetch.fetcher import Fetcher, open_fetcher
from aysfs.fetch.prefetch import Prefetch
from aysfs.fetch.workers import FOR_A_COMMAND
from aysfs.flist import Entry
from aysfs.limits import SWITCH
from aysfs.load import ListInfo, Loaded, Shown, load_entry, load_tree, load_view
from aysfs.store.open import open_stores, side_by_side
from aysfs.store.protocol import Store

T = TypeVar("T")

_LOOK, _MUCH = 0.5, 64 << 20  # seconds after which so many new bytes are flushed


def run_async(work: Callable[[], Awaitable[T]]) -> T:
    """Run to the end; the first real error of a group comes out as itself.

    Ctrl-C comes where something is waited for, and never between two halves of a change.
    """
    try:
        return trio.run(work, restrict_keyboard_interrupt_to_checkpoints=True)
    except BaseExceptionGroup as group:
        raise first_of(group) from None


def end_as_interrupted() -> None:
    """Let SIGTERM and SIGHUP be what Ctrl-C is: the command takes away what it made.

    Not where one of them means nothing, as for what nohup or a shell's `&` started.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))


async def load(settings: Settings, names: Sequence[str], base: str | None = None) -> Loaded:
    """The tree of these services, within the deadline."""
    return await _asked(settings, lambda store: load_from(settings, store, names, base))


async def view(settings: Settings, names: Sequence[str]) -> Shown:
    """What these services show, within the deadline; from the cache when they were mounted."""
    return await _asked(settings, lambda store: view_from(settings, store, names))


async def load_from(
    settings: Settings, store: Store, names: Sequence[str], base: str | None = None
) -> Loaded:
    """As ``load``, from a store that is open."""
    refs = [settings.ref(name) for name in names]
    given = os.fsencode(base) if base else None
    return await _within(settings, store, load_tree(store, refs, base=given))


async def view_from(settings: Settings, store: Store, names: Sequence[str]) -> Shown:
    """As ``view``, from a store that is open."""
    refs = [settings.ref(name) for name in names]
    return await _within(settings, store, load_view(store, refs, _images(settings)))


async def entry(settings: Settings, name: str, path: bytes) -> tuple[Entry, ListInfo]:
    """What the list of a service says of a path, within the deadline."""
    ref = settings.ref(name)

    async def ask(store: Store) -> tuple[Entry, ListInfo]:
        return await _within(settings, store, load_entry(store, ref, _images(settings), path))

    return await _asked(settings, ask)


async def _asked(settings: Settings, work: Callable[[Store], Awaitable[T]]) -> T:
    """Ask the configured store."""
    store = open_stores(settings.store, namespace=settings.namespace)
    try:
        return await work(store)
    finally:
        await store.aclose()


async def _within(settings: Settings, store: Store, work: Awaitable[T]) -> T:
    """StoreTrouble when it takes longer than the deadline."""
    with trio.move_on_after(settings.deadline):
        return await work
    raise StoreTrouble(f"{store.label}: no list within {settings.deadline:g} s")


def _images(settings: Settings) -> ImageCache | None:
    """The images of the cache, None where none was ever made: looking makes no cache."""
    if not os.path.isdir(settings.cache / "images"):  # or it is nobody's to look at: see below
        return None
    try:
        return ImageCache(settings.cache, report=lambda line: note(f"aysfs: {line}"))
    except CacheUnusable:  # whoever fetches will say so
        return None


@asynccontextmanager
async def fetching(settings: Settings) -> AsyncIterator[Fetcher]:
    """A fetch service over the configured store and cache.

    What it logs of a failure is silent: the command that fails says it.
    """
    logging.getLogger("aysfs").addHandler(logging.NullHandler())
    sys.setswitchinterval(SWITCH)
    async with AsyncExitStack() as stack:
        cache = Cache(settings.cache, settings.limits, report=lambda line: note(f"aysfs: {line}"))
        stack.callback(cache.close)
        await trio.to_thread.run_sync(recover, cache)
        store = open_stores(settings.store, namespace=settings.namespace)
        stack.push_async_callback(store.aclose)
        fetcher = await stack.enter_async_context(
            open_fetcher(
                cache,
                store,
                deadline=settings.deadline,
                parallel=side_by_side(store),
                processes=FOR_A_COMMAND,
            )
        )
        beside = await stack.enter_async_context(trio.open_nursery())
        stack.callback(beside.cancel_scope.cancel)
        stack.push_async_callback(flush_now, fetcher)
        beside.start_soon(_flush_as_it_comes, fetcher)
        yield fetcher


@asynccontextmanager
async def ahead(
    settings: Settings, fetcher: Fetcher, name: str, mode: str
) -> AsyncIterator[Prefetch]:
    """Fetch ahead for a service, as ``mode`` says, for the length of the block."""
    async with trio.open_nursery() as nursery:
        prefetch = Prefetch(fetcher, mode, polite=False)
        nursery.start_soon(prefetch.run, [settings.ref(name)])
        yield prefetch
        nursery.cancel_scope.cancel()


async def _flush_as_it_comes(fetcher: Fetcher) -> None:
    """Keep the disk busy, so that little is left for the end, or for a crash to lose."""
    counters = fetcher.counters
    while True:
        await trio.sleep(_LOOK)
        if counters.fetched_bytes - counters.flushed_bytes > _MUCH and not await flush_now(fetcher):
            return


async def flush_now(fetcher: Fetcher) -> bool:
    """Remember that what arrived is on the disk: else the next boot hashes all of it again.

    False, and it was told, when that cannot be.
    """
    cache, came = fetcher.cache, fetcher.counters.fetched_bytes
    if came == fetcher.counters.flushed_bytes:
        return True
    try:
        await trio.to_thread.run_sync(flush, cache, abandon_on_cancel=True)
    except OSError as error:
        note(f"aysfs: {cache.root}: not known to be on the disk: {error.strerror or error}")
        return False
    fetcher.counters.flushed_bytes = came
    return True
