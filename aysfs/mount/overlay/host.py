"""The mounts of a host: one daemon, one fault layer and one cache for all of them.

A mount point shows one tree at a time; a reload puts a newer one in its place.
"""

import logging
import os
import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import trio

from aysfs.cache.blobs import Cache
from aysfs.cache.images import ImageCache
from aysfs.errors import MountBusy, MountFailed, first_of
from aysfs.fetch.flights import in_words
from aysfs.fetch.prefetch import Prefetch, Seen
from aysfs.kernel import mounts
from aysfs.kernel.table import find_kernel_mount, kernel_mounts
from aysfs.mount.client import Answer
from aysfs.mount.control import Handler, serve_control
from aysfs.mount.options import MountOptions
from aysfs.mount.overlay.fault import FaultLayer, Why
from aysfs.mount.overlay.holders import holders
from aysfs.mount.overlay.named import OpenedLists, open_lists
from aysfs.mount.overlay.plan import Plan
from aysfs.mount.overlay.prepare import prepare
from aysfs.mount.overlay.sources import Sources
from aysfs.mount.overlay.trees import Tree, Trees
from aysfs.mount.overlay.watch import table_changes
from aysfs.mount.runtime import Claim, is_ours
from aysfs.store.chain import Chain

log = logging.getLogger(__name__)

_FORGET_EVERY = 60.0
_SETTLE = 0.02  # seconds between two looks at the mount table


@dataclass(eq=False)
class _Mount:
    """One mount point."""

    tree: Tree
    prefetch: Prefetch
    usable: bool = False  # whoever asked for it was told so
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
        checked: trio.Event,
    ) -> None:
        """``folder`` is the daemon's own. Nothing is mounted before the cache is ``checked``."""
        self.ended = trio.Event()
        """The last tree is gone. Nothing more is mounted: another daemon must be started."""
        self._cache = cache
        self._images = ImageCache(cache.root, report=log.warning)
        self._layer = layer
        self._nursery = nursery
        self._begun = 1  # what may still become a tree: requests, and at first what was lost
        self._mounts: dict[str, _Mount] = {}
        self._lost: dict[str, str] = {}  # device -> mount point of trees whose daemon died
        self._kept: dict[str, int] = {}  # descriptors of some: nobody else is given their device
        self.sources = Sources(cache, nursery)
        self.trees = Trees(
            folder, cache, layer, self.sources, nursery, empty=self.end_if_empty, checked=checked
        )

    async def mount(self, options: MountOptions) -> None:
        """Mount what is asked for, and serve it until it is unmounted.

        Returns once the tree is usable. Raises an AysfsError when there is no mount, and then
        leaves nothing behind.
        """
        await self._begin(options, None)

    async def mount_again(self, plan: Plan) -> None:
        """As ``mount``, in place of the tree that a daemon before us served there.

        MountFailed when that is not mounted any more. What is held of it can only be named.
        """
        point = plan.options.point
        lost = find_kernel_mount(point)
        if lost is None or not is_ours(lost):
            raise MountFailed(f"nothing of ours is mounted at {point} any more")
        plan = replace(plan, lost=(*plan.lost, lost.device))
        kept = os.open(point, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            await self._begin(plan.options, plan)
        except BaseException:
            os.close(kept)
            raise
        self._lost.update(dict.fromkeys(plan.lost, point))
        self._kept[lost.device] = kept
        if len(plan.lost) > 1:  # lost by daemons before the one before us: kept by nobody
            await self._held(point)

    def is_repaired(self) -> None:
        """All that was lost was mounted again, or cannot be. One that cannot ends nothing."""
        self._begun -= 1

    async def _begin(self, options: MountOptions, plan: Plan | None) -> None:
        if self.ended.is_set():
            raise MountFailed("this daemon is about to leave", hint="try again")
        self._cache.usage.limits = options.limits
        self._begun += 1
        try:
            await self._nursery.start(partial(self._serve, options, plan))
        except BaseExceptionGroup as group:
            raise first_of(group) from None
        finally:
            self._begun -= 1
            self.end_if_empty()

    async def _serve(
        self,
        options: MountOptions,
        plan: Plan | None,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        claim = await trio.to_thread.run_sync(Claim, Path(options.runtime), options.point)
        mount = None
        try:
            async with trio.open_nursery() as beside:
                mount = await self._first_tree(options, plan, beside)
                self._mounts[options.point] = mount
                try:
                    _publish(claim, mount.tree.plan)
                    await self._answer(mount, claim, task_status)
                finally:
                    del self._mounts[options.point]
                    if not mount.usable:  # whoever asked for it has left meanwhile
                        _detach(options.point)
                        mount.gone.set()
                beside.cancel_scope.cancel()
        finally:
            try:
                if mount is not None:  # what is fetched ahead by its lists has ended
                    await self.trees.retire(mount.tree)
            finally:
                # Else we end in an error: what is written down is for the daemon after us.
                if mount is None or mount.gone.is_set():
                    claim.drop()
        log.info("unmounted %s", options.point)

    async def _first_tree(
        self, options: MountOptions, plan: Plan | None, beside: trio.Nursery
    ) -> _Mount:
        """The tree of a new mount, and what is fetched ahead for it, which runs ``beside``."""
        source = await self.sources.enter(options)
        prefetch = Prefetch(source.fetcher, options.prefetch, options.prefetch_rate)
        beside.start_soon(prefetch.run, options.refs)
        try:
            again, lists = plan is not None, None
            if plan is not None:
                lists = await trio.to_thread.run_sync(open_lists, self._images, plan.lists)
            if plan is None or lists is None:
                lost = () if plan is None else plan.lost
                plan, lists = await prepare(source.store, self._images, options)
                plan = replace(plan, lost=lost)
        except BaseException:
            self.sources.leave(source)
            raise
        prefetch.shows(_seen(plan, lists))
        return _Mount(await self.trees.plant(plan, lists, source, again=again), prefetch)

    async def _answer(
        self, mount: _Mount, claim: Claim, task_status: trio.TaskStatus[None]
    ) -> None:
        """Answer for a mount until it is gone."""
        options = mount.tree.plan.options

        async def reload(_argument: str) -> Answer:
            return await self._reload(mount, claim)

        async def status(_argument: str) -> Answer:
            return await self._status(mount)

        async def stop(_argument: str) -> Answer:
            log.info("told to stop %s", options.point)
            mounts.detach(options.point)
            return {"stopping": True}

        async with trio.open_nursery() as nursery:
            handlers: dict[str, Handler] = {"status": status, "reload": reload, "stop": stop}
            if mount.tree.slot.recorder is not None:
                handlers["record"] = mount.tree.slot.recorder.answer
            await nursery.start(serve_control, claim.folder / "control", handlers)
            log.info("mounted %s at %s", ", ".join(options.services), options.point)
            task_status.started()
            mount.usable = True
            self._look()  # it may have been unmounted already
            await mount.gone.wait()
            nursery.cancel_scope.cancel()

    def end_if_empty(self) -> None:
        """Say so when there is nothing to serve."""
        if not self._begun and not self._layer.slots:
            self.ended.set()

    async def watch(self) -> None:
        """Notice what is unmounted, by whomever. Runs until cancelled."""
        async with table_changes() as changes:
            while True:
                self._look()
                await changes.next()
                await trio.sleep(_SETTLE)

    def _look(self) -> None:
        if self._mounts:
            overlays = (one for one in kernel_mounts() if one.kind == "overlay")
            here = {option for one in overlays for option in one.option_list()}
            for mount in self._mounts.values():
                if not mount.changing and mount.tree.mark not in here:
                    mount.gone.set()

    def unmount_all(self) -> None:
        """Detach every mount; who holds a tree keeps what is cached of it."""
        for point in list(self._mounts):
            _detach(point)

    async def _reload(self, mount: _Mount, claim: Claim) -> Answer:
        """Read the lists again; when one changed, show the newer tree from now on."""
        old = mount.tree
        if mount.changing:
            raise MountBusy(f"{old.point} is being reloaded by somebody else")
        mount.changing = True
        try:
            plan, lists = await prepare(old.source.store, self._images, old.plan.options)
            if plan.lists == old.plan.lists:
                lists.close()
                return {"changed": False, "entries": old.lists.entries}
            # A source that is in use is there at once: nothing can come between.
            source = await self.sources.enter(plan.options)
            mount.tree = await self.trees.plant(plan, lists, source, again=True)
            mount.prefetch.shows(_seen(plan, lists))
        finally:
            mount.changing = False
            self._look()
        _publish(claim, plan)
        await self.trees.retire(old)
        log.info("reloaded: %d entries", lists.entries)
        return {"changed": True, "entries": lists.entries}

    async def _status(self, mount: _Mount) -> Answer:
        """What ``aysfs status`` shows; the keys are those of the fuse engine's answer."""
        tree = mount.tree
        plan, options, counters = tree.plan, tree.plan.options, tree.slot.counters
        store = tree.source.store
        return {
            "services": list(options.services),
            "point": options.point,
            "engine": "overlay",
            "why": options.why,
            "store": store.label,
            "resting": [
                {"store": one.label, "seconds": round(one.rest), "why": one.why}
                for one in (store.states() if isinstance(store, Chain) else [])
                if one.rest
            ],
            "cache": str(self._cache.root),
            "cache_used": self._cache.usage.used,
            "base": plan.lists[0].base,
            "lists": [{"source": one.source, "sha256": one.sha256} for one in plan.lists],
            "entries": tree.lists.entries,
            "size": tree.lists.size,
            "clashes": plan.clashes,
            "outside_base": tree.lists.outside,
            "generations": 1 + sum(one.point == options.point for one in self.trees.old),
            "misses": counters.misses,
            "fetched_bytes": counters.fetched_bytes,
            "failures": counters.failures,
            "refused": counters.refused,
            **in_words(
                one
                for one in tree.source.fetcher.in_flight()
                if isinstance(one.why, Why) and one.why.slot is tree.slot
            ),
            "ahead": mount.prefetch.status(),
            "held": await self._held(options.point),
            "pid": os.getpid(),
            "uptime": time.time() - mount.started,
        }

    async def _held(self, point: str) -> list[dict[str, object]]:
        """Who holds older trees of a mount point. ``served``: what is not cached can be fetched."""
        served = {one.device for one in self.trees.old if one.point == point}
        lost = {device for device, where in self._lost.items() if where == point}
        if not served | lost:
            return []
        everybody = await trio.to_thread.run_sync(holders, served | lost, abandon_on_cancel=True)
        found = [one for one in everybody if one.pid != os.getpid()]
        for device in lost - {one.device for one in found}:
            self._lost.pop(device, None)
            if device in self._kept:
                os.close(self._kept.pop(device))
        return [
            {"pid": one.pid, "name": one.name, "how": one.how, "served": one.device in served}
            for one in found
        ]

    async def forget_lost(self) -> None:
        """Let go of the trees of dead daemons that nobody holds any more. Runs until cancelled."""
        while True:
            await trio.sleep(_FORGET_EVERY)
            for point in set(self._lost.values()):
                await self._held(point)

    async def abandoned(self) -> list[dict[str, object]]:
        """Trees that are held and whose mount point is not ours any more."""
        points = {one.point for one in self.trees.old} | set(self._lost.values())
        held = {point: await self._held(point) for point in sorted(points - set(self._mounts))}
        return [{"point": point, "held": who} for point, who in held.items() if who]


def _detach(point: str) -> None:
    try:
        mounts.detach(point)
    except MountFailed as error:  # unmounted just now
        log.info("%s", error)


def _seen(plan: Plan, lists: OpenedLists) -> Seen:
    """What is shown, as far as fetching ahead is concerned."""
    return Seen([one.sha256 for one in plan.lists], lists.blobs)


def _publish(claim: Claim, plan: Plan) -> None:
    options = plan.options
    claim.publish(options.point, list(options.services), options.log, plan.to_values())
