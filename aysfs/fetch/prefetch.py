"""What is fetched before anybody asks: the packs of services, from the first moment on.

Serves both engines, ``fetch`` and ``unpack``. The notes of the packs, and the start pack after
them, are asked for while the list itself is still on its way; what they say counts from the moment
in which the list turns out to be theirs, and ends with it if it does not. Nothing here can fail
whoever reads.
"""

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

import trio

from aysfs.digest import Digest
from aysfs.errors import AysfsError, BlobMissing, Corrupt, PackDamaged
from aysfs.fetch.ahead import Ahead, Going
from aysfs.fetch.bulk import Progress
from aysfs.fetch.fetcher import Fetcher
from aysfs.fetch.modes import ALL, NONE, PACKS
from aysfs.names import ListRef, ServiceName
from aysfs.pack.index import PackIndex, PackInfo
from aysfs.store.packs import PublishedPacks, Start, read_index, read_packs
from aysfs.store.profile import read_profile
from aysfs.store.protocol import Held
from aysfs.tree import Blob

log = logging.getLogger(__name__)

Blobs = Callable[[], Iterator[Blob]]
"""Each blob of what is shown."""

_START, _PROFILE = "start pack", "profile"
_SINGLES = 8  # blobs of a profile at once: half of the crew is left for readers
_AT_ONCE = 256  # blobs that are looked at before others may run


class Seen(NamedTuple):
    """What a mount turned out to show: the sha256 of its lists, and a way to all their blobs."""

    lists: Collection[str]
    blobs: Blobs


@dataclass(eq=False)
class _Service:
    """One service of a mount, and the indexes that are planned with."""

    name: ServiceName
    indexes: list[PackIndex] = field(default_factory=list)


class Prefetch:
    """What one mount fetches ahead. ``run`` it beside everything else."""

    def __init__(
        self, fetcher: Fetcher, mode: str, rate: int | None = None, *, polite: bool = True
    ) -> None:
        """``mode`` is one of MODES or PACKS, ``rate`` a bound in bytes a second.

        Who is not ``polite`` makes no way for readers, and sees to it himself what is in no pack.
        """
        self._fetcher = fetcher
        self._store = fetcher.store
        self._mode = mode
        self._rate = rate
        self._polite = polite
        self._shown: Seen | None = None
        self._is_known = trio.Event()
        self._round = trio.CancelScope()
        self._is_under_way = trio.Event()
        self._packs_are_done = trio.Event()
        self._going: list[Going] = []
        self._progress: Progress = _unheard

    def shows(self, shown: Seen) -> None:
        """The lists are here, or newer ones. What is fetched for others ends."""
        is_news = self._shown is not None
        self._shown = shown
        self._is_known.set()
        if is_news:
            self._round.cancel()

    async def until_under_way(self) -> None:
        """Wait until packs are on their way, if there are any: what takes time may begin now."""
        await self._is_under_way.wait()

    async def until_packs_are_done(self, progress: Progress) -> None:
        """Wait for all that comes out of packs without being asked for."""
        self._progress = progress
        await self._packs_are_done.wait()

    def status(self) -> list[dict[str, object]]:
        """What is fetched ahead, and how far it is."""
        return [asdict(one) for one in self._going]

    async def run(self, refs: Sequence[ListRef]) -> None:
        """Fetch ahead, and let readers use the packs. Runs until cancelled."""
        while self._mode != NONE:
            services = [_Service(ref) for ref in refs if isinstance(ref, ServiceName)]
            self._going.clear()
            try:
                with trio.CancelScope() as self._round:
                    ahead = Ahead(
                        self._fetcher, rate=self._rate, polite=self._polite, tell=self._tell
                    )
                    await self._run_round(services, ahead)
            except Exception:  # a bug that met the end of its round: the next one begins anew
                log.exception("fetching ahead")
            finally:
                for service in services:
                    self._forget(service)

    async def _run_round(self, services: Sequence[_Service], ahead: Ahead) -> None:
        try:
            async with trio.open_nursery() as nursery:
                for service in services:
                    nursery.start_soon(self._serve, service, ahead)
            if self._mode == ALL and self._polite:
                await self._rest(ahead)
        except Exception:  # what only hurries must not take a mount down
            log.exception("fetching ahead")
        self._is_under_way.set()
        self._packs_are_done.set()
        await trio.sleep_forever()

    async def _serve(self, service: _Service, ahead: Ahead) -> None:
        """Use the packs of a service, and fetch ahead what the mode wants. Returns after that.

        What fails is left to whoever reads it.
        """
        found = await self._note(service)
        if found is not None:
            await self._by_packs(service, found, ahead)
        if not service.indexes and self._mode != PACKS and self._polite:
            await self._by_profile(service, ahead)

    async def _by_packs(self, service: _Service, found: PublishedPacks, ahead: Ahead) -> None:
        index = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._check, service, found, nursery.cancel_scope)
            read = trio.Event()
            # Who waits for all of it has the start pack at the front of that.
            if found.start is not None and self._mode != PACKS and self._polite:
                nursery.start_soon(self._start, service, found.start, ahead, read)
            index = await self._index(service, found)
            # Understanding it is not cut short: that it is of another list may be known by now.
            await trio.lowlevel.checkpoint_if_cancelled()
            if index is not None:
                self._add(service, index)
            read.set()
            if not self._polite:  # who waits for all of it does not wait for the list first
                if index is not None and self._mode == ALL:
                    nursery.start_soon(self._fetcher.crew.get_ready, index)
                self._is_under_way.set()
                await self._all(service, index, ahead)
        if self._polite:
            await self._all(service, index, ahead)

    async def _all(self, service: _Service, index: PackIndex | None, ahead: Ahead) -> None:
        if self._mode == ALL and index is not None and index in service.indexes:
            # At a bounded rate it comes too late for who reads now.
            with self._fetcher.crew.all_comes(index) if self._rate is None else nullcontext():
                await self._follow(service, index, ahead, start_pack_only=False)

    async def _by_profile(self, service: _Service, ahead: Ahead) -> None:
        """What the profile names, singly: there are no packs, or they are of another list."""
        try:
            profile = await read_profile(self._store, service.name)
        except AysfsError as error:
            log.info("%s: its profile is not used: %s", service.name, error)
            return
        if profile is not None:
            order = [one.digest for one in profile.reads]
            found = await self._found(set(order))
            going = self._told(f"{service.name}: {_PROFILE}")
            blobs = (found[digest] for digest in order if digest in found)
            await ahead.fetch_singly(blobs, going, _SINGLES)

    async def _found(self, digests: Collection[Digest]) -> dict[Digest, Blob]:
        """Those that are of what is shown."""
        await self._is_known.wait()
        assert self._shown is not None
        found: dict[Digest, Blob] = {}
        for number, one in enumerate(self._shown.blobs()):
            if one.digest in digests:
                found[one.digest] = one
            if number % _AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
        return found

    async def _note(self, service: _Service) -> PublishedPacks | None:
        try:
            return await read_packs(self._store, service.name)
        except AysfsError as error:
            log.info("%s: whether it has packs is not known: %s", service.name, error)
            return None

    async def _check(
        self, service: _Service, found: PublishedPacks, everything: trio.CancelScope
    ) -> None:
        """End what was begun for another list than the one that is shown."""
        await self._is_known.wait()
        assert self._shown is not None
        if found.list_sha256 not in self._shown.lists:
            log.info("%s: its packs are of another list", service.name)
            self._forget(service)
            everything.cancel()

    async def _start(self, service: _Service, start: Start, ahead: Ahead, read: trio.Event) -> None:
        """Follow the start pack. Its own head is here sooner than the index of all, which ``read``
        tells of.
        """
        head = Held()
        try:
            await self._store.get_range(start.digest, start.size, 0, start.head, head)
            index = await trio.to_thread.run_sync(_understood, start.info, head.getvalue())
            await trio.lowlevel.checkpoint_if_cancelled()
        except AysfsError as error:
            log.info("%s: its start pack waits for the index: %s", service.name, error)
            await read.wait()
            if not service.indexes:
                return
            index = service.indexes[-1]
        else:
            self._add(service, index)
        await self._follow(service, index, ahead, start_pack_only=True)

    async def _index(self, service: _Service, found: PublishedPacks) -> PackIndex | None:
        try:
            index = await read_index(self._store, found)
            return await trio.to_thread.run_sync(index.sort)
        except (BlobMissing, Corrupt, PackDamaged) as error:
            log.warning("%s: its packs are not used: %s", service.name, error)
        except AysfsError as error:
            log.info("%s: its packs are not used: %s", service.name, error)
        return None

    def _add(self, service: _Service, index: PackIndex) -> None:
        service.indexes.append(index)
        self._fetcher.crew.packs.add(index)

    def _forget(self, service: _Service) -> None:
        for index in service.indexes:
            self._fetcher.crew.forget(index)
        service.indexes.clear()

    async def _follow(
        self,
        service: _Service,
        index: PackIndex,
        ahead: Ahead,
        *,
        start_pack_only: bool,
    ) -> None:
        what = _START if start_pack_only else "all of it"
        crew = self._fetcher.crew
        course = crew.packs.course(index, start_pack_only=start_pack_only, wanted=crew.is_wanted)
        await ahead.follow(course, self._told(f"{service.name}: {what}"))

    async def _rest(self, ahead: Ahead) -> None:
        """What is in no pack, or in one that could not be used."""
        await self._is_known.wait()
        assert self._shown is not None
        await ahead.fetch_singly(self._shown.blobs(), self._told("what is in no pack"))

    def _tell(self) -> None:
        counters = self._fetcher.counters
        self._progress(counters.fetched, counters.fetched_bytes)

    def _told(self, what: str) -> Going:
        going = Going(what)
        self._going.append(going)
        return going


def _understood(info: PackInfo, head: bytes) -> PackIndex:
    return PackIndex.of_pack(info, head).sort()


def _unheard(_done: int, _size: int) -> None:
    """Nobody watches."""
