"""The overlays of a host, mounted or merely held.

A tree that is not mounted any more goes on being served until the last who holds it, in whatever
mount namespace, lets go: a container, a shell, an open file.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from aysfs.cache.blobs import Cache
from aysfs.errors import BadConfig
from aysfs.kernel import mounts
from aysfs.mount.overlay import stack
from aysfs.mount.overlay.fault import FaultLayer, Slot
from aysfs.mount.overlay.named import OpenedLists
from aysfs.mount.overlay.plan import Plan
from aysfs.mount.overlay.sources import Source, Sources
from aysfs.mount.overlay.trust import check

_ASK_AGAIN = 2.0  # seconds after which the kernel is asked again whether a tree is still held
_CLEARED = {"suid": mounts.NOSUID, "dev": mounts.NODEV, "exec": mounts.NOEXEC}
_SET = {"nosuid": mounts.NOSUID, "nodev": mounts.NODEV, "noexec": mounts.NOEXEC}


@dataclass(eq=False)
class Tree:
    """What one overlay shows. ``device`` is its number in the mount table."""

    plan: Plan
    lists: OpenedLists
    slot: Slot
    source: Source
    device: str = ""

    @property
    def point(self) -> str:
        return self.plan.options.point


class Trees:
    """Makes overlays, and waits until nobody holds them. Works in ``nursery``."""

    def __init__(
        self,
        folder: Path,
        cache: Cache,
        layer: FaultLayer,
        sources: Sources,
        nursery: trio.Nursery,
        empty: Callable[[], None],
    ) -> None:
        """``folder`` is the daemon's own; ``empty`` is called when a tree is gone."""
        self.old: list[Tree] = []
        """Not mounted any more, and maybe held."""
        self._folder = folder
        self._cache = cache
        self._layer = layer
        self._sources = sources
        self._nursery = nursery
        self._empty = empty

    async def plant(self, plan: Plan, lists: OpenedLists, source: Source, *, again: bool) -> Tree:
        """Make the overlay of a plan and put it at its mount point.

        ``again`` puts it in place of what is mounted there. The tree takes over the lists and its
        use of the source, whatever happens. Raises MountFailed, or BadConfig for options it
        cannot have.
        """
        slot = self._layer.add(", ".join(plan.options.services), lists, source.fetcher)
        tree = Tree(plan, lists, slot, source)
        self._nursery.start_soon(self._bury, tree)
        try:
            tree.device = await trio.to_thread.run_sync(self._put, tree, again)
        except BaseException:
            self._layer.retire(slot)
            raise
        return tree

    def _put(self, tree: Tree, again: bool) -> str:
        """Mount a tree; its device. Waits for the kernel, and for answers of the fault layer."""
        options = tree.plan.options
        check(tree.lists.images, options)
        get, eio = (str(fault_point(self._folder) / layer) for layer in tree.slot.layers)
        data = [f"{self._cache.root}/objects", get, f"{self._cache.root}/incoming", eio]
        bases = [os.fsencode(one.base) for one in tree.plan.lists]
        lowers = list(map(stack.Lower, tree.lists.paths, bases))
        attributes = mount_attributes(options.fuse_options)
        private = self._folder / f"tree-{tree.slot.number}"
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

    async def retire(self, tree: Tree) -> None:
        """A tree is not mounted any more: it goes when nobody holds it."""
        self.old.append(tree)
        self._layer.retire(tree.slot)
        await self._forget(tree)

    async def _forget(self, tree: Tree) -> None:
        await trio.to_thread.run_sync(self._layer.forget_kept, tree.slot, abandon_on_cancel=True)

    async def _bury(self, tree: Tree) -> None:
        """Wait until nobody holds a tree, then let go of what served it."""
        try:
            await tree.slot.released.wait()
        finally:
            if tree in self.old:
                self.old.remove(tree)
            tree.lists.close()
            self._sources.leave(tree.source)
        self._empty()

    async def ask_again(self) -> None:
        """Find out when the last who held an old tree lets go of it. Runs until cancelled."""
        while True:
            await trio.sleep(_ASK_AGAIN)
            for tree in list(self.old):
                await self._forget(tree)


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
