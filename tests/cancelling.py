"""Cancelling an operation at every one of its awaits, and seeing that nothing of it is left.

Serves the cancellation tests of the floors. ``at_every_await`` repeats an attempt, which cuts
the operation short at the first step of a trio task, at the second, and so on until one
attempt is not cut any more: it is every await, however many the code has. ``BlobCase`` puts a
cache into each of the states that a reader may meet.
"""

import contextlib
import fcntl
import itertools
import os
import signal
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from aysfs import digest as digests
from aysfs.cache.blobs import Cache
from aysfs.cache.usage import on_disk
from aysfs.digest import Digest
from aysfs.limits import Limits
from aysfs.store.faults import Counts
from aysfs.store.memory import MemoryStore
from tests.conftest import open_descriptors

PAGE = 4096
OWN_FILES = {"alive", "reserved", "synced"}  # what a process keeps under tmp/ while it lives


class Cut(trio.abc.Instrument):
    """Cancels what ``during`` runs as soon as any task has made its ``number``-th step.

    Counting the steps of all tasks and not only of the one that is cut finds it at the same
    await with the others at each of theirs.
    """

    def __init__(self, number: int) -> None:
        self.made = False
        self.number = number
        self._steps = 0
        self._cancel: Callable[[], None] = _nothing

    async def during(
        self,
        operation: Callable[[], Awaitable[object]],
        cancel: Callable[[], None] | None = None,
    ) -> None:
        """Run the operation, cut short in time: it as a whole, or what ``cancel`` cancels."""
        trio.lowlevel.add_instrument(self)
        try:
            with trio.CancelScope() as scope:
                self._cancel = cancel or scope.cancel
                await operation()
        finally:
            trio.lowlevel.remove_instrument(self)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if self._steps == self.number:
            self._cancel()
            self.made = True
        self._steps += 1


def _nothing() -> None:
    """Before anything runs."""


async def at_every_await(attempt: Callable[[Cut], Awaitable[None]]) -> int:
    """Attempt again and again, cut one step later each time; how many cuts were made."""
    for number in itertools.count():
        cut = Cut(number)
        await attempt(cut)
        if not cut.made:
            return number
    raise AssertionError("unreachable")


async def threads_ended(limiter: trio.CapacityLimiter | None = None) -> None:
    """Wait for worker threads, abandoned ones too: each holds a token until it ends."""
    limiter = limiter or trio.to_thread.current_default_thread_limiter()
    tokens = [object() for _ in range(int(limiter.total_tokens))]
    for token in tokens:
        await limiter.acquire_on_behalf_of(token)
    for token in tokens:
        limiter.release_on_behalf_of(token)


@dataclass(frozen=True)
class Traces:
    """What an operation may leave behind, in numbers: equal before and after, nothing is left."""

    descriptors: dict[int, str]
    tmp: frozenset[str]
    pending: int
    uncounted: int

    @classmethod
    def of(cls, cache: Cache) -> "Traces":
        usage = cache.usage
        usage.excess(0)  # hands back what is not in use: what stays reserved is pending
        reserved = int.from_bytes((usage.directory / "reserved").read_bytes(), "little")
        held = sum(on_disk(stored.size) for stored in cache.everything())
        return cls(
            descriptors=open_descriptors(),
            tmp=frozenset(os.listdir(usage.directory)) - OWN_FILES,
            pending=reserved,
            uncounted=usage.used - held,
        )


CLEAN = (frozenset[str](), 0, 0)  # of a cache in which nothing is under way


def assert_nothing_left(cache: Cache, before: Traces) -> None:
    after = Traces.of(cache)
    assert (after.tmp, after.pending, after.uncounted) == CLEAN
    assert after.descriptors == before.descriptors


ROOMY = Limits(size=1 << 30, keep_free=0)


@dataclass(frozen=True)
class BlobCase:
    """A blob, and the state of the cache that somebody who opens it meets."""

    name: str
    data: bytes
    prepare: Callable[[Cache, bytes], None]
    limits: Limits = ROOMY

    def cache(self, root: Path) -> Cache:
        """A cache in this state."""
        cache = Cache(root, self.limits)
        self.prepare(cache, self.data)
        return cache

    def store(self) -> Counts:
        """A store that has the blob."""
        memory = MemoryStore()
        memory.add(self.data)
        return Counts(memory)

    @property
    def digest(self) -> Digest:
        return digests.of(self.data)


def insert(cache: Cache, data: bytes) -> Path:
    digest = digests.of(data)
    insertion = cache.insertion(digest, len(data))
    insertion.write(data)
    insertion.commit()
    return Path(cache.path(digest))


def _absent(_cache: Cache, _data: bytes) -> None:
    """The blob was never fetched."""


def _present(cache: Cache, data: bytes) -> None:
    insert(cache, data)


def _doubtful(cache: Cache, data: bytes) -> None:
    """The bytes are right, and the stamp is broken."""
    os.utime(insert(cache, data), (0, 0))


def _corrupt(cache: Cache, data: bytes) -> None:
    path = insert(cache, data)
    path.chmod(0o600)
    path.write_bytes(bytes(byte ^ 0xFF for byte in data))


def _full(cache: Cache, data: bytes) -> None:
    """Others' blobs fill the bound: room has to be made."""
    for number in range(cache.usage.limits.size // PAGE):
        insert(cache, b"%0*d" % (PAGE, number))


def _full_and_corrupt(cache: Cache, data: bytes) -> None:
    _corrupt(cache, data)
    for number in range((cache.usage.limits.size - on_disk(len(data))) // PAGE):
        insert(cache, b"%0*d" % (PAGE, number))


SMALL, LARGE = b"small" * 100, bytes(range(251)) * 1200
TIGHT = Limits(size=100 * PAGE, keep_free=0)

CASES: Sequence[BlobCase] = (
    BlobCase("small-absent", SMALL, _absent),
    BlobCase("large-absent", LARGE, _absent),
    BlobCase("present", LARGE, _present),
    BlobCase("small-doubtful", SMALL, _doubtful),
    BlobCase("large-doubtful", LARGE, _doubtful),
    BlobCase("small-corrupt", SMALL, _corrupt),
    BlobCase("large-corrupt", LARGE, _corrupt),
    BlobCase("small-full", SMALL, _full, TIGHT),
    BlobCase("large-full", LARGE, _full, TIGHT),
    BlobCase("full-and-corrupt", LARGE, _full_and_corrupt, TIGHT),
)


@contextlib.contextmanager
def held_back(path: str) -> Iterator[Callable[[], None]]:
    """Whoever opens the file waits in the kernel until the block ends, at most 45 seconds.

    Yields a function that returns when somebody waits. A write lease does it: real threads
    stop at a known place, and nothing is patched.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)  # ignored by default
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)

        def somebody_waits() -> None:
            while fcntl.fcntl(descriptor, fcntl.F_GETLEASE) == fcntl.F_WRLCK:
                os.sched_yield()

        yield somebody_waits
    finally:
        os.close(descriptor)
