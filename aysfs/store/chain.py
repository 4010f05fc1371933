"""Several stores behind one: a reader takes what any of them has, a writer fills all of them.

Serves whoever names more than one store. Owns which of them is left alone, and for how long. It
moves no bytes and judges none: a sink that refuses wrong bytes is what sends it to the next.

A store in trouble is a *circuit breaker*'s case (M. Nygard, *Release It!*): left alone for a
while that doubles, then tried by one request before the others follow. It is asked all the same
when no other store has the blob, since only a definite answer makes a blob missing.
"""

import logging
import math
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from typing import BinaryIO, NamedTuple

import trio

from aysfs.digest import Digest
from aysfs.errors import (
    AysfsError,
    BlobMissing,
    Corrupt,
    ListMissing,
    NoRanges,
    NoteMissing,
    StoreTrouble,
)
from aysfs.names import ServiceName
from aysfs.store.crew import side_by_side
from aysfs.store.protocol import BlobSource, OpenList, Sink, Store, Stored, Stray

log = logging.getLogger(__name__)

FIRST_REST = 1.0  # seconds that a store is left alone after a failure; doubled by each further
LONGEST_REST = 60.0
PATIENCE = 20.0  # seconds without a byte; a fetch waits 60, in which two more stores can be asked

_PIECE = 1 << 20
_LIST_FIRST = "which list is shown is the first store's to say: name it last to go without it"
_DOUBLINGS = 16  # more than any rest needs; an outage of a day would be 2.0**1440, no float


class StoreState(NamedTuple):
    """A store of a chain, for ``status``. ``rest`` is in seconds, 0 when it is asked as usual."""

    label: str
    rest: float
    why: str


class _Breaker:
    """Whether a store is asked. Its state changes only here, and without ``await``."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._failures = 0
        self._until = -math.inf
        self._why = ""
        self._on_trial = False

    @property
    def closed(self) -> bool:
        """Whether it may be asked before others: it is well, or due to be tried by one request."""
        return not self._failures or (trio.current_time() >= self._until and not self._on_trial)

    @property
    def until(self) -> float:
        return self._until

    @property
    def state(self) -> StoreState:
        rest = max(0.0, self._until - trio.current_time()) if self._failures else 0.0
        return StoreState(self._label, rest, self._why)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Learn from a call: StoreTrouble is a failure, all else an answer."""
        trial = bool(self._failures) and not self._on_trial
        self._on_trial |= trial
        try:
            yield
        except StoreTrouble as error:
            self._failed(error)
            raise
        except AysfsError:
            self._answered()
            raise
        else:
            self._answered()
        finally:
            if trial:
                self._on_trial = False

    def _failed(self, error: StoreTrouble) -> None:
        if self._failures and trio.current_time() < self._until:
            return  # of the same outage, asked before it was known
        rest = min(LONGEST_REST, FIRST_REST * 2.0 ** min(self._failures, _DOUBLINGS))
        self._failures += 1
        self._until = trio.current_time() + rest
        self._why = str(error)
        log.warning("%s is left alone for %g s: %s", self._label, rest, error)

    def _answered(self) -> None:
        if self._failures:
            log.info("%s answers again", self._label)
            self._failures, self._why = 0, ""


class _Watched:
    """A sink that knows how many bytes it took, and puts off the end of ``scope`` with each."""

    def __init__(self, sink: Sink, patience: float) -> None:
        self.count = 0
        self.scope = trio.CancelScope()
        self._sink = sink
        self._patience = patience
        self._token = trio.lowlevel.current_trio_token()
        self._thread = threading.get_ident()

    def write(self, data: bytes | memoryview, /) -> None:
        self.count += len(data)
        self._sink.write(data)
        if threading.get_ident() == self._thread:
            self._wait_on()
        else:
            self._token.run_sync_soon(self._wait_on, idempotent=True)

    def restart(self) -> None:
        self.count = 0
        self._sink.restart()

    def next_store(self) -> None:
        """Before a store is asked: from the first byte, and with all of the patience."""
        if self.count:
            self.restart()
        self.scope = trio.CancelScope()
        self._wait_on()

    def _wait_on(self) -> None:
        self.scope.deadline = trio.current_time() + self._patience


_Ask = Callable[[Store, Sink], Awaitable[None]]


class Chain:
    """Stores in the order in which they are asked; each with a breaker of its own."""

    def __init__(self, stores: Sequence[Store], *, patience: float = PATIENCE) -> None:
        self.stores = tuple(stores)
        self._patience = patience
        self._breakers = [_Breaker(store.label) for store in stores]
        # What `missing` found each of them to lack: a put goes where the blob is not yet.
        self._lacking: list[set[Digest]] = [set() for _ in stores]

    @property
    def label(self) -> str:
        return ", ".join(store.label for store in self.stores)

    def states(self) -> list[StoreState]:
        """How the stores are, in their order."""
        return [breaker.state for breaker in self._breakers]

    # --- reading -----------------------------------------------------------------------------

    async def get(self, digest: Digest, size: int, sink: Sink) -> None:
        """As any store's. Bytes that the sink refuses as Corrupt are asked of the next store."""
        await self._read(digest, size, sink, lambda store, to: store.get(digest, size, to))

    async def get_range(
        self, digest: Digest, size: int, start: int, length: int, sink: Sink
    ) -> None:
        """As ``get``. NoRanges when no store gave the part, but one of them may give the whole."""
        await self._read(
            digest,
            length,
            sink,
            lambda store, to: store.get_range(digest, size, start, length, to),
        )

    async def _read(self, digest: Digest, count: int, sink: Sink, ask: _Ask) -> None:
        """So many bytes of a blob, from the first store that gives them all and right."""
        watched = _Watched(sink, self._patience)
        errors: list[AysfsError] = []
        for number in self._healthiest_first():
            try:
                watched.next_store()
                with self._breakers[number].watching():
                    await self._turn(self.stores[number], digest, count, watched, ask)
                return
            except Corrupt as error:
                log.warning("%s sent wrong bytes: %s", self.stores[number].label, error)
                errors.append(error)
            except (BlobMissing, NoRanges, StoreTrouble) as error:
                errors.append(error)
        watched.next_store()  # NoRanges promises a sink that has nothing
        raise _most_telling(errors)

    async def _turn(
        self, store: Store, digest: Digest, count: int, watched: _Watched, ask: _Ask
    ) -> None:
        """One store's turn, which a silence ends."""
        with watched.scope:
            await ask(store, watched)
            if watched.count != count:
                raise Corrupt(f"blob {digest.hex()}: only {watched.count} of its {count} bytes")
            return
        raise StoreTrouble(f"{store.label}: not a byte in {self._patience:g} s")

    def at_hand(self, digest: Digest, size: int) -> bytes | None:
        found = (store.at_hand(digest, size) for store in self.stores)
        return next((data for data in found if data is not None), None)

    def _healthiest_first(self) -> list[int]:
        """Those that are well in their order, then those left alone, the next due first."""
        numbers = range(len(self.stores))
        well = [number for number in numbers if self._breakers[number].closed]
        resting = [number for number in numbers if number not in well]
        return well + sorted(resting, key=lambda number: self._breakers[number].until)

    async def size_of(self, digest: Digest) -> int:
        """The first store's that has it and answers."""
        errors: list[AysfsError] = []
        for number in self._healthiest_first():
            try:
                with self._breakers[number].watching():
                    return await self.stores[number].size_of(digest)
            except (BlobMissing, StoreTrouble) as error:
                errors.append(error)
        raise _most_telling(errors)

    async def open_list(self, name: ServiceName) -> OpenList:
        """The first store's that has it. Trouble ends the search: it must not decide who wins."""
        for store in self.stores:
            try:
                return (await store.open_list(name))._replace(store=store.label)
            except ListMissing:
                continue
            except StoreTrouble as error:
                if store is not self.stores[-1]:
                    error.hint = "; ".join(filter(None, (error.hint, _LIST_FIRST)))
                raise
        raise ListMissing(f"no list {name} in {self.label}")

    async def lists(self) -> list[ServiceName]:
        names = {name for store in self.stores for name in await store.lists()}
        return sorted(names, key=str)

    async def read_note(self, name: str) -> bytes:
        for store in self.stores:
            try:
                return await store.read_note(name)
            except NoteMissing:
                continue
        raise NoteMissing(f"no note {name} in {self.label}")

    async def notes(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for store in self.stores:
            found = {**await store.notes(), **found}
        return dict(sorted(found.items()))

    # --- writing: done when every store has it ------------------------------------------------

    async def missing(self, blobs: Mapping[Digest, int]) -> set[Digest]:
        """Those that any of the stores lacks."""

        found: list[set[Digest]] = [set() for _ in self.stores]

        async def ask(number: int) -> None:
            found[number] = await self.stores[number].missing(blobs)

        await self._with_each(ask)
        for known, lacking in zip(self._lacking, found, strict=True):
            known.difference_update(blobs)
            known |= lacking
        return set().union(*found)

    def _takers(self, digest: Digest) -> list[int]:
        """The stores that lack a blob; all when none is known to, as when nobody asked."""
        numbers = range(len(self.stores))
        lacking = [number for number in numbers if digest in self._lacking[number]]
        return lacking or list(numbers)

    async def put(self, digest: Digest, size: int, source: BinaryIO) -> None:
        """As any store's; a source for several stores is read again from its beginning."""
        for turn, number in enumerate(self._takers(digest)):
            if turn:
                source.seek(0)
            await self.stores[number].put(digest, size, source)
            self._lacking[number].discard(digest)

    async def put_many(self, sources: Sequence[BlobSource]) -> None:
        takers = {source.digest: self._takers(source.digest) for source in sources}

        async def put(number: int) -> None:
            mine = [source for source in sources if number in takers[source.digest]]
            if mine:
                await self.stores[number].put_many(mine)
                self._lacking[number].difference_update(source.digest for source in mine)

        await self._with_each(put)

    async def put_list(self, name: ServiceName, chunks: Iterable[bytes]) -> None:
        with tempfile.TemporaryFile() as file:
            await trio.to_thread.run_sync(file.writelines, chunks)
            for store in self.stores:
                file.seek(0)
                await store.put_list(name, iter(partial(file.read, _PIECE), b""))

    async def delete_list(self, name: ServiceName) -> None:
        lacking = 0
        for store in self.stores:
            try:
                await store.delete_list(name)
            except ListMissing:
                lacking += 1
        if lacking == len(self.stores):
            raise ListMissing(f"no list {name} in {self.label}")

    async def write_note(self, name: str, data: bytes) -> None:
        await self._with_each(lambda number: self.stores[number].write_note(name, data))

    async def delete_note(self, name: str) -> None:
        """In every store that takes it: one in trouble keeps no note alive in the others."""
        errors: list[AysfsError] = []

        async def delete(number: int) -> None:
            try:
                await self.stores[number].delete_note(name)
            except AysfsError as error:
                errors.append(error)

        await self._with_each(delete)
        if errors:
            raise errors[0]

    # --- upkeep: what any of them holds; a gc is for one store, whose clock it goes by ---------

    async def shelf(self, first: int) -> list[Stored]:
        """Each blob once, as old as the youngest of its copies."""
        found: dict[Digest, Stored] = {}
        for store in self.stores:
            for one in await store.shelf(first):
                if one.digest not in found or found[one.digest].mtime_ns < one.mtime_ns:
                    found[one.digest] = one
        return list(found.values())

    async def delete(self, digests: Sequence[Digest]) -> None:
        await self._with_each(lambda number: self.stores[number].delete(digests))

    async def strays(self) -> list[Stray]:
        return [one for store in self.stores for one in await store.strays()]

    async def delete_strays(self, paths: Sequence[str]) -> None:
        await self._with_each(lambda number: self.stores[number].delete_strays(paths))

    async def aclose(self) -> None:
        async with AsyncExitStack() as stack:
            for store in self.stores:
                stack.push_async_callback(store.aclose)

    async def _with_each(self, work: Callable[[int], Awaitable[None]]) -> None:
        await side_by_side(range(len(self.stores)), work, len(self.stores))


def members(store: Store) -> Sequence[Store]:
    """The stores that one is made of: those of a chain, or itself."""
    return store.stores if isinstance(store, Chain) else (store,)


def _most_telling(errors: Sequence[AysfsError]) -> AysfsError:
    """Trouble before wrong bytes before a definite absence; it names what each store said.

    And NoRanges before all: what said so has the blob, and can be asked for all of it.
    """
    for kind in (NoRanges, StoreTrouble, Corrupt, BlobMissing):
        worst = next((error for error in errors if isinstance(error, kind)), None)
        if worst is not None:
            break
    assert worst is not None
    if len(errors) == 1:
        return worst
    return type(worst)("; ".join(map(str, errors)), hint=worst.hint)
