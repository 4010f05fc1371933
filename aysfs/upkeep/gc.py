"""Deleting what no list names any more.

Serves ``aysfs store gc``. Owns the judgement of what is garbage: a blob that no list and no
living push names and that is older than the grace period, and a temporary file that old. What
makes it safe beside pushes is ``aysfs.store.claims``; the steps here are the G of that page.
Where a mark is uncertain, a list that cannot be read above all, nothing is deleted.
"""

import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from aysfs.digest import Digest
from aysfs.errors import BadList, ListMissing
from aysfs.names import ServiceName
from aysfs.store.claims import SETTLE, Clock, Sweep, read_claims, seconds
from aysfs.store.layout import is_temporary
from aysfs.store.protocol import Store, Stored, Stray
from aysfs.upkeep.lists import LOST, Step, lost, read_list, refuse_foreign
from aysfs.upkeep.packed import Packed

GRACE = 24 * 3600.0
"""Seconds that a blob is left alone, whoever names it: for those who follow no protocol."""

IDLE = 3600.0
"""Seconds without a change after which a temporary file is nobody's, whatever the grace period."""

BATCH = 500  # blobs deleted in one go, a matter of seconds for any store


class Amount(NamedTuple):
    """Files, and what they hold together."""

    files: int = 0
    size: int = 0

    def plus(self, found: Sequence[Stored] | Sequence[Stray]) -> "Amount":
        """These as well."""
        return Amount(self.files + len(found), self.size + sum(one.size for one in found))

    def less(self, some: "Amount") -> "Amount":
        """What is left without some of them."""
        return Amount(self.files - some.files, self.size - some.size)


class GcReport(NamedTuple):
    """What was deleted, or would be. ``young`` is what no list names and the grace period keeps."""

    deleted: bool
    lists: int
    kept: Amount
    blobs: Amount
    young: Amount
    leftovers: Amount


async def gc(
    store: Store,
    *,
    grace: float = GRACE,
    delete: bool = False,
    settle: float = SETTLE,
    clock: Clock = seconds,
    step: Step = lambda *_: None,
) -> GcReport:
    """Find the garbage of a store, and with ``delete`` delete it.

    Without it nothing at all is written; the ages are then by this host's clock.
    """
    if not delete:
        return await _Gc(store, None, time.time_ns(), grace, step).run()
    sweep = Sweep(store, settle=settle, clock=clock)
    step("begins", 0, 1)
    await sweep.begin()
    try:
        return await _Gc(store, sweep, sweep.now_ns, grace, step).run()
    finally:
        await sweep.end()


class _Gc:
    """One gc, from the marks to the report."""

    def __init__(
        self, store: Store, sweep: Sweep | None, now_ns: int, grace: float, step: Step
    ) -> None:
        self._store = store
        self._sweep = sweep
        self._now_ns = now_ns
        self._horizon = now_ns - int(grace * 1e9)
        self._step = step
        self._marks = Packed()

    async def run(self) -> GcReport:
        dead = await read_claims(self._store, self._now_ns, self._marks.update)
        strays = await self._store.strays()
        lists = await self._mark(strays)
        held = unnamed = blobs = Amount()
        for first in range(256):
            self._step("blobs", first, 256)
            shelf = await self._store.shelf(first)
            nobodys = self._unnamed(shelf, first)
            old = self._old(nobodys)
            held, unnamed, blobs = held.plus(shelf), unnamed.plus(nobodys), blobs.plus(old)
            await self._delete(old)
        leftovers = [one for one in strays if self._is_leftover(one)]
        await self._delete_notes(leftovers, dead)
        self._step("blobs", 256, 256)
        return GcReport(
            self._sweep is not None,
            lists,
            kept=held.less(unnamed),
            blobs=blobs,
            young=unnamed.less(blobs),
            leftovers=Amount().plus(leftovers),
        )

    async def _mark(self, strays: Sequence[Stray]) -> int:
        """G4. Any list that cannot be read ends it all."""
        names = await self._store.lists()
        absent: set[ServiceName] = set()
        add = self._marks.add
        try:
            refuse_foreign(self._store, strays)
            for number, name in enumerate(names):
                self._step("lists", number, len(names))
                await self._hold()
                try:
                    await read_list(self._store, name, lambda digest, _size: add(digest))
                except ListMissing:
                    absent.add(name)  # deleted since, most likely: then it protects nothing
            for name in await lost(self._store, absent):
                raise BadList(f"{self._store.label}: {name}", 0, LOST)
        except BadList as error:
            error.hint = "nothing was deleted, for what it names is not known: repair or remove it"
            raise
        return len(names)

    def _unnamed(self, shelf: Sequence[Stored], first: int) -> list[Stored]:
        named = self._marks.bucket(first)
        return [one for one in shelf if one.digest not in named]

    def _old(self, unnamed: Sequence[Stored]) -> list[Stored]:
        """Those of which every copy is old: a blob may lie in both layouts."""
        young = {one.digest for one in unnamed if one.mtime_ns >= self._horizon}
        return [one for one in unnamed if one.digest not in young]

    async def _delete(self, old: Sequence[Stored]) -> None:
        if self._sweep is None:
            return
        await self._sweep.hold()
        for batch in _batches([one.digest for one in old]):
            await self._sweep.delete(batch)

    def _is_leftover(self, stray: Stray) -> bool:
        idle = min(self._horizon, self._now_ns - int(IDLE * 1e9))
        return is_temporary(stray.path) and stray.mtime_ns < idle

    async def _delete_notes(self, leftovers: Sequence[Stray], dead: Sequence[str]) -> None:
        if self._sweep is None:
            return
        await self._sweep.hold()
        await self._store.delete_strays([one.path for one in leftovers])
        for name in dead:
            await self._store.delete_note(name)

    async def _hold(self) -> None:
        if self._sweep is not None:
            await self._sweep.hold()


def _batches(digests: Sequence[Digest]) -> Iterator[Sequence[Digest]]:
    for start in range(0, len(digests), BATCH):
        yield digests[start : start + BATCH]
