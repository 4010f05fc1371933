"""The mounts of a host: one daemon, one fault layer and one cache for all of them.

A mount shows one tree at a time; a reload puts a newer one in its place. A tree that is not
mounted any more goes on being served until the last who holds it, in whatever mount namespace,
lets go.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import trio

from aysfs.cache.blobs import Cache
from aysfs.cache.fetch import Fetcher, open_fetcher
from aysfs.errors import BadConfig, MountBusy, MountFailed, first_of
from aysfs.kernel import mounts
from aysfs.kernel.table import kernel_mounts
from aysfs.mount.client import Answer
from aysfs.mount.control import serve_control
from aysfs.mount.options import MountOptions
from aysfs.mount.overlay import stack
from aysfs.mount.overlay.fault import FaultLayer, Slot, Why
from aysfs.mount.overlay.holders import holders
from aysfs.mount.overlay.named import Indexes
from aysfs.mount.overlay.request import Request, request_from
from aysfs.mount.overlay.watch import table_changes
from aysfs.mount.runtime import Claim
from aysfs.store.chain import Chain
from aysfs.store.open import open_stores, side_by_side
from aysfs.store.protocol import Store

log = logging.getLogger(__name__)

_SETTLE = 0.02  # seconds between two looks at the mount table
_ASK_AGAIN = 2.0  # seconds after which the kernel is asked again whether a tree is still held

_CLEARED = {"suid": mounts.NOSUID, "dev": mounts.NODEV, "exec": mounts.NOEXEC}
_SET = {"nosuid": mounts.NOSUID, "nodev": mounts.NODEV, "noexec": mounts.NOEXEC}

_Key = tuple[tuple[str, ...], str, float]


@dataclass(eq=False)
class _Source:
    """A chain of stores and its fetch service, shared by the trees that come from it."""

    key: _Key
    store: Store
    fetcher: Fetcher
    users: int = 0
    unused: trio.Event = field(default_factory=trio.Event)


@dataclass(eq=False)
class _Tree:
    """What one overlay shows. ``device`` is its number in the mount table."""

    request: Request
    slot: Slot
    source: _Source
    device: str = ""


@dataclass(eq=False)
class _Mount:
    """One mount point."""

    tree: _Tree
    changing: bool = False  # another tree is being put in place
    started: float = field(default_factory=time.time)
    gone: trio.Event = field(default_factory=trio.Event)


class Host:
    """Mounts, and the trees behind them. Everything here runs in ``nursery``."""

    def __init__(
        self,
        folder: Path,
        cache: Cache,
        layer: FaultLayer,
        nursery: trio.Nursery,
        empty: Callable[[], None],
    ) -> None:
        """``folder`` is the daemon's own; ``empty`` is called when the last tree is gone."""
        self._folder = folder
        self._cache = cache
        self._layer = layer
        self._nursery = nursery
        self._empty = empty
        self._begun = 0  # requests that may still become a tree
        self._mounts: dict[str, _Mount] = {}
        self._old: list[_Tree] = []  # not mounted any more, and maybe held
        self._sources: dict[_Key, _Source] = {}
        self.ending = False
        """Nothing more is mounted: another daemon must be started."""

    @property
    def fetched_bytes(self) -> int:
        """Bytes that came from stores."""
        return sum(source.fetcher.counters.fetched_bytes for source in self._sources.values())

    async def mount(self, request: Request, *, again: bool = False) -> None:
        """Serve a mount until it is unmounted; returns once its tree is usable.

        ``again`` puts the tree in place of the one that a daemon before us served there. Raises
        an AysfsError when there is no mount, and then leaves nothing behind.
        """
        if self.ending:
            raise MountFailed("this daemon is about to leave", hint="try again")
        self._cache.usage.limits = request.options.limits
        self._begun += 1
        try:
            await self._nursery.start(partial(self._serve, request, again=again))
        except BaseExceptionGroup as group:
            raise first_of(group) from None
        finally:
            self._begun -= 1
            self.end_if_empty()

    async def _serve(
        self,
        request: Request,
        *,
        again: bool,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        options = request.options
        claim = await trio.to_thread.run_sync(Claim, Path(options.runtime), options.point)
        try:
            tree = await self._plant(request, again=again)
            mount = self._mounts[options.point] = _Mount(tree)
            try:
                _publish(claim, request)
                await self._answer(mount, claim, task_status)
            finally:
                del self._mounts[options.point]
                await self._retire(mount.tree)
        finally:
            claim.drop()
        log.info("unmounted %s", options.point)

    async def _answer(
        self, mount: _Mount, claim: Claim, task_status: trio.TaskStatus[None]
    ) -> None:
        """Answer for a mount until it is gone."""
        options = mount.tree.request.options

        async def reload(argument: str) -> Answer:
            return await self._reload(mount, claim, argument)

        async def status(_argument: str) -> Answer:
            return await self._status(mount)

        async def stop(_argument: str) -> Answer:
            log.info("told to stop %s", options.point)
            mounts.detach(options.point)
            return {"stopping": True}

        async with trio.open_nursery() as nursery:
            handlers = {"status": status, "reload": reload, "stop": stop}
            await nursery.start(serve_control, claim.folder / "control", handlers)
            log.info("mounted %s at %s", ", ".join(options.services), options.point)
            task_status.started()
            self._look()  # it may have been unmounted already
            await mount.gone.wait()
            nursery.cancel_scope.cancel()

    async def _plant(self, request: Request, *, again: bool) -> _Tree:
        """Make the overlay of a tree and put it at its mount point."""
        options = request.options
        source = await self._open_source(options)
        source.users += 1
        try:
            indexes = await trio.to_thread.run_sync(Indexes, request.lists)
        except BaseException:
            self._leave_source(source)
            raise
        slot = self._layer.add(", ".join(options.services), indexes, source.fetcher)
        tree = _Tree(request, slot, source)
        self._nursery.start_soon(self._bury, tree, indexes)
        try:
            tree.device = await trio.to_thread.run_sync(self._put, tree, again)
        except BaseException:
            self._layer.retire(slot)
            raise
        return tree

    def _put(self, tree: _Tree, again: bool) -> str:
        """Mount a tree; its device. Waits for the kernel, and for answers of the fault layer."""
        options = tree.request.options
        get, eio = (str(fault_point(self._folder) / layer) for layer in tree.slot.layers)
        data = [f"{self._cache.root}/objects", get, f"{self._cache.root}/incoming", eio]
        lowers = [stack.Lower(Path(one.image), os.fsencode(one.base)) for one in tree.request.lists]
        private = self._folder / f"tree-{tree.slot.number}"
        attributes = mount_attributes(options.fuse_options)
        private.mkdir(mode=0o700, exist_ok=True)
        try:
            mount = stack.make(lowers, data, options.source, attributes, private)
        finally:
            private.rmdir()
        try:
            status = os.fstat(mount)
            if again:
                stack.replace(mount, options.point)
            else:
                mounts.attach(mount, options.point)
        finally:
            os.close(mount)
        return f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}"

    async def _retire(self, tree: _Tree) -> None:
        """A tree is not mounted any more: let go of it when nobody holds it."""
        self._old.append(tree)
        self._layer.retire(tree.slot)
        await trio.to_thread.run_sync(self._layer.forget_kept, tree.slot, abandon_on_cancel=True)

    async def _bury(self, tree: _Tree, indexes: Indexes) -> None:
        """Wait until nobody holds a tree, then let go of what served it."""
        try:
            await tree.slot.released.wait()
        finally:
            if tree in self._old:
                self._old.remove(tree)
            indexes.close()
            self._leave_source(tree.source)
        self.end_if_empty()

    async def ask_again(self) -> None:
        """Find out when the last who held an old tree lets go of it. Runs until cancelled."""
        while True:
            await trio.sleep(_ASK_AGAIN)
            for tree in list(self._old):
                await trio.to_thread.run_sync(
                    self._layer.forget_kept, tree.slot, abandon_on_cancel=True
                )

    def _end_if_empty(self) -> None:
        if not self._begun and not self._layer.slots and not self.ending:
            self.ending = True
            self._empty()

    async def _open_source(self, options: MountOptions) -> _Source:
        source = self._sources.get(_key(options))
        if source is None:
            source = await self._nursery.start(self._run_source, options)
        return source

    async def _run_source(
        self,
        options: MountOptions,
        task_status: trio.TaskStatus[_Source] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        async with AsyncExitStack() as opened:
            store = open_stores(options.store, namespace=options.namespace)
            opened.push_async_callback(store.aclose)
            fetcher = await opened.enter_async_context(
                open_fetcher(
                    self._cache, store, deadline=options.deadline, parallel=side_by_side(store)
                )
            )
            source = self._sources[_key(options)] = _Source(_key(options), store, fetcher)
            task_status.started(source)
            await source.unused.wait()

    def _leave_source(self, source: _Source) -> None:
        source.users -= 1
        if not source.users:
            source.unused.set()
            if self._sources.get(source.key) is source:
                del self._sources[source.key]

    async def watch(self) -> None:
        """Notice what is unmounted, by whomever. Runs until cancelled."""
        async with table_changes() as changes:
            while True:
                self._look()
                await changes.next()
                await trio.sleep(_SETTLE)

    def _look(self) -> None:
        if self._mounts:
            here = {one.device for one in kernel_mounts()}
            for mount in self._mounts.values():
                if not mount.changing and mount.tree.device not in here:
                    mount.gone.set()

    def unmount_all(self) -> None:
        """Detach every mount; who holds a tree keeps what is cached of it."""
        for point in list(self._mounts):
            try:
                mounts.detach(point)
            except MountFailed as error:  # unmounted just now
                log.info("%s", error)

    async def _reload(self, mount: _Mount, claim: Claim, argument: str) -> Answer:
        """Show a newer tree: its lists are ready and in the argument."""
        request = request_from(json.loads(argument))
        old = mount.tree
        if request.lists == old.request.lists:
            return {"changed": False, "entries": request.entries}
        if mount.changing:
            raise MountBusy(f"{request.options.point} is being reloaded by somebody else")
        mount.changing = True
        try:
            mount.tree = await self._plant(request, again=True)
        finally:
            mount.changing = False
        _publish(claim, request)
        await self._retire(old)
        self._look()
        log.info("reloaded: %d entries", request.entries)
        return {"changed": True, "entries": request.entries}

    async def _status(self, mount: _Mount) -> Answer:
        """What ``aysfs status`` shows; the keys are those of the fuse engine's answer."""
        tree = mount.tree
        request, options, counters = tree.request, tree.request.options, tree.slot.counters
        store = tree.source.store
        return {
            "services": list(options.services),
            "point": options.point,
            "engine": "overlay",
            "why": request.why,
            "store": store.label,
            "resting": [
                {"store": one.label, "seconds": round(one.rest), "why": one.why}
                for one in (store.states() if isinstance(store, Chain) else [])
                if one.rest
            ],
            "cache": str(self._cache.root),
            "cache_used": self._cache.usage.used,
            "base": request.lists[0].base,
            "lists": [{"source": one.source, "sha256": one.sha256} for one in request.lists],
            "entries": request.entries,
            "size": request.size,
            "outside_base": request.outside,
            "generations": 1 + sum(one.request.options.point == options.point for one in self._old),
            "misses": counters.misses,
            "fetched_bytes": counters.fetched_bytes,
            "failures": counters.failures,
            "refused": counters.refused,
            "in_flight": [
                {"md5": d.hex(), "size": s, "here": h, "waiting": w, "why": str(y)}
                for d, s, h, w, y in tree.source.fetcher.in_flight()
                if isinstance(y, Why) and y.slot is tree.slot
            ],
            "held": await self._held(options.point),
            "pid": os.getpid(),
            "uptime": time.time() - mount.started,
        }

    async def _held(self, point: str) -> list[dict[str, object]]:
        """Who holds older trees of a mount point: their misses go on being served."""
        devices = {one.device for one in self._old if one.request.options.point == point}
        if not devices:
            return []
        found = await trio.to_thread.run_sync(holders, devices, abandon_on_cancel=True)
        return [{"pid": one.pid, "name": one.name, "how": one.how} for one in found]

    async def abandoned(self) -> list[dict[str, object]]:
        """Trees that are held and whose mount point is not ours any more."""
        points = {one.request.options.point for one in self._old} - set(self._mounts)
        return [{"point": point, "held": await self._held(point)} for point in sorted(points)]


def fault_point(folder: Path) -> Path:
    """Where in its own folder a daemon mounts the fault layer."""
    return folder / "fault"


def mount_attributes(options: Sequence[str]) -> int:
    """What ``-o`` asks of the kernel; BadConfig for what only a FUSE mount has."""
    attributes = mounts.NOSUID | mounts.NODEV
    for option in options:
        if option in _CLEARED:
            attributes &= ~_CLEARED[option]
        elif option in _SET:
            attributes |= _SET[option]
        else:
            raise BadConfig(f"-o {option}: not with the overlay engine", hint="--engine fuse")
    return attributes


def _publish(claim: Claim, request: Request) -> None:
    options = request.options
    claim.publish(options.point, list(options.services), options.log, request.to_values())


def _key(options: MountOptions) -> _Key:
    return options.store, options.namespace, options.deadline
