"""The trees of the overlay engine, without a kernel."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
import trio.testing

from aysfs.cache.blobs import Cache
from aysfs.cache.incoming import Incoming
from aysfs.fetch.fetcher import open_fetcher
from aysfs.limits import Limits
from aysfs.mount.options import MountOptions
from aysfs.mount.overlay.fault import FaultLayer
from aysfs.mount.overlay.named import OpenedLists
from aysfs.mount.overlay.plan import Plan
from aysfs.mount.overlay.sources import Source, Sources
from aysfs.mount.overlay.trees import Tree, Trees
from aysfs.store.memory import MemoryStore

pytestmark = pytest.mark.usefixtures("no_leaks")


class Noted(Trees):
    """Notes what it would mount."""

    def __init__(self, *arguments: object, **others: object) -> None:
        super().__init__(*arguments, **others)  # type: ignore[arg-type]  # as they came
        self.put: list[Tree] = []

    def _put(self, tree: Tree, images: Sequence[int], again: bool) -> str:
        self.put.append(tree)
        return "0:0"


async def test_nothing_is_mounted_before_the_cache_is_checked(tmp_path: Path) -> None:
    """The kernel opens what is cached without asking us."""
    cache = Cache(tmp_path / "cache", Limits(keep_free=0))
    layer = FaultLayer(Incoming(cache))
    checked = trio.Event()
    options = MountOptions(
        services=("a__b",),
        point="/nowhere",
        store=("/nowhere",),
        cache=str(cache.root),
        runtime=str(tmp_path),
        log=str(tmp_path / "log"),
    )
    store = MemoryStore()
    async with open_fetcher(cache, store) as fetcher, trio.open_nursery() as nursery:
        sources = Sources(cache, nursery)
        trees = Noted(
            *(tmp_path, cache, layer, sources, nursery), empty=lambda: None, checked=checked
        )
        source = Source(((), "", 0.0), store, fetcher, users=1)
        plan = Plan(options, (), "mnt:[1]")

        async def plant() -> None:
            await trees.plant(plan, OpenedLists([], []), source, again=False)

        nursery.start_soon(plant)
        await trio.testing.wait_all_tasks_blocked()
        assert trees.put == []
        checked.set()
        await trio.testing.wait_all_tasks_blocked(0.05)
        (tree,) = trees.put
        layer.retire(tree.slot)
    cache.close()
