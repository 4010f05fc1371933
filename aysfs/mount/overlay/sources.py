"""Where the blobs of a host's mounts come from: one fetch service a chain of stores."""

from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import trio

from aysfs.cache.blobs import Cache
from aysfs.fetch.fetcher import Fetcher, open_fetcher
from aysfs.fetch.workers import FOR_MOUNTS
from aysfs.mount.options import MountOptions
from aysfs.store.open import open_stores, side_by_side
from aysfs.store.protocol import Store

_Key = tuple[tuple[str, ...], str, float]


@dataclass(eq=False)
class Source:
    """A chain of stores and its fetch service, shared by the trees that come from it."""

    key: _Key
    store: Store
    fetcher: Fetcher
    users: int = 0
    unused: trio.Event = field(default_factory=trio.Event)


class Sources:
    """The sources in use. Their services run in ``nursery``."""

    def __init__(self, cache: Cache, nursery: trio.Nursery) -> None:
        self._cache = cache
        self._nursery = nursery
        self._known: dict[_Key, Source] = {}

    @property
    def fetched_bytes(self) -> int:
        """Bytes that came from the stores that are in use."""
        return sum(source.fetcher.counters.fetched_bytes for source in self._known.values())

    async def enter(self, options: MountOptions) -> Source:
        """The source of a mount, for one user more. Raises as ``open_stores``."""
        key = (options.store, options.namespace, options.deadline)
        source = self._known.get(key)
        if source is None:
            source = await self._nursery.start(self._serve, key)
        source.users += 1
        return source

    def leave(self, source: Source) -> None:
        """One user fewer; the last one closes it."""
        source.users -= 1
        if not source.users:
            source.unused.set()
            if self._known.get(source.key) is source:
                del self._known[source.key]

    async def _serve(
        self, key: _Key, task_status: trio.TaskStatus[Source] = trio.TASK_STATUS_IGNORED
    ) -> None:
        urls, namespace, deadline = key
        async with AsyncExitStack() as opened:
            store = open_stores(urls, namespace=namespace)
            opened.push_async_callback(store.aclose)
            fetcher = await opened.enter_async_context(
                open_fetcher(
                    self._cache,
                    store,
                    deadline=deadline,
                    parallel=side_by_side(store),
                    processes=FOR_MOUNTS,
                )
            )
            source = self._known[key] = Source(key, store, fetcher)
            task_status.started(source)
            await source.unused.wait()
