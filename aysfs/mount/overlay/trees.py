"""The overlays of a host, mounted or merely held.

A tree that is not mounted any more goes on being served until the last who holds it, in whatever
mount namespace, lets go: a container, a shell, an open file.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from aysfs.cache.blobs import Cache
from aysfs.errors import BadConfig, MountFailed
from aysfs.kernel import mounts
from aysfs.kernel.table import device_of, find_kernel_mount
from aysfs.mount.overlay import stack
from aysfs.mount.overlay.fault import FaultLayer, Slot
from aysfs.mount.overlay.named import OpenedLists
from aysfs.mount.overlay.plan import Plan
from aysfs.mount.overlay.sources import Source, Sources
from aysfs.mount.overlay.trust import check
from aysfs.mount.recording import Recorder
from aysfs.mount.runtime import is_ours

_ASK_AGAIN = 2.0  # seconds after which the kernel is asked again whether a tree is still held
_CLEARED = {"suid": mounts.NOSUID, "dev": mounts.NODEV, "exec": mounts.NOEXEC}
_SET = {"nosuid": mounts.NOSUID, "nodev": mounts.NODEV, "noexec": mounts.NOEXEC}


@dataclass(eq=False)
class Tree:
    """What one overlay shows.

    ``mark`` is an option that no other overlay has in the mount table, ``device`` its number there.
    """

    plan: Plan
    lists: OpenedLists
    slot: Slot
    source: Source
    mark: str
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
        *,
        empty: Callable[[], None],
        checked: trio.Event,
    ) -> None:
        """``folder`` is the daemon's own; ``empty`` is called when a tree is gone.

        The kernel opens what is cached without asking: no tree before the cache is ``checked``.
        """
        self.old: list[Tree] = []
        """Not mounted any more, and maybe held."""
        self._folder = folder
        self._cache = cache
        self._layer = layer
        self._sources = sources
        self._nursery = nursery
        self._empty = empty
        self._checked = checked

    async def plant(self, plan: Plan, lists: OpenedLists, source: Source, *, again: bool) -> Tree:
        """Make the overlay of a plan and put it at its mount point.

        ``again`` puts it in place of what is mounted there. The tree takes over the lists and its
        use of the source, whatever happens. Raises MountFailed, or BadConfig for options it
        cannot have.
        """
        recorder = Recorder() if plan.options.record else None
        label = ", ".join(plan.options.services)
        slot = self._layer.add(label, lists, source.fetcher, recorder)
        mark = f"datadir+={fault_point(self._folder)}/{slot.layers[0]}"
        tree = Tree(plan, lists, slot, source, mark)
        self._nursery.start_soon(self._bury, tree)
        try:
            await self._checked.wait()
            with _kept(lists) as images:
                tree.device = await trio.to_thread.run_sync(self._put, tree, images, again)
        except BaseException:
            with trio.CancelScope(shield=True):
                await self.retire(tree)
            raise
        return tree

    def _put(self, tree: Tree, images: Sequence[int], again: bool) -> str:
        """Mount a tree; its device. Waits for the kernel, and for answers of the fault layer."""
        options = tree.plan.options
        check(tree.lists.images, options)
        get, eio = (str(fault_point(self._folder) / layer) for layer in tree.slot.layers)
        data = [get, f"{self._cache.root}/incoming", eio]
        if not options.record:  # else the kernel asks for what is cached as well
            data.insert(0, f"{self._cache.root}/objects")
        lowers = [
            stack.Lower(descriptor, str(image.path), os.fsencode(shown.base))
            for descriptor, image, shown in zip(
                images, tree.lists.images, tree.plan.lists, strict=True
            )
        ]
        attributes = mount_attributes(options.fuse_options)
        private = self._folder / f"tree-{tree.slot.number}"
        private.mkdir(mode=0o700, exist_ok=True)
        try:
            mount = stack.make(lowers, data, options.source, attributes, private)
        finally:
            private.rmdir()
        try:
            device = device_of(mount)
            if again:
                _check_top(options.point)
                stack.replace(mount, options.point)
            else:
                mounts.attach(mount, options.point)
        finally:
            os.close(mount)
        return device

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


@contextmanager
def _kept(lists: OpenedLists) -> Iterator[list[int]]:
    """Descriptors of the images, for a thread during which the lists may be closed."""
    with ExitStack() as undo:
        kept = []
        for image in lists.images:
            kept.append(os.dup(image.descriptor))
            undo.callback(os.close, kept[-1])
        yield kept


def _check_top(point: str) -> None:
    """MountFailed unless the tree that is to be replaced is what a point shows."""
    top = find_kernel_mount(point)
    if top is None or not is_ours(top):
        what = "nothing is mounted there any more" if top is None else f"{top.source} is over it"
        raise MountFailed(f"the tree at {point} cannot be replaced: {what}")


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
