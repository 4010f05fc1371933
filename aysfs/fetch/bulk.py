"""Many blobs at once: what ``fetch`` needs, each blob once."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import trio

from aysfs.digest import Digest
from aysfs.errors import AysfsError, NoSpace
from aysfs.fetch.fetcher import Fetcher


class Wanted(NamedTuple):
    """A blob and what it is for."""

    digest: Digest
    size: int
    why: str


class BulkReport(NamedTuple):
    """How a bulk fetch ended; ``failures`` are the first few, with their reason."""

    blobs: int
    failed: int
    failures: tuple[str, ...]
    first_error: AysfsError | None


Progress = Callable[[int, int], None]
"""Told after each blob: blobs done, bytes done."""

AHEAD = 64  # blobs under way or waiting for the crew: its 16 always find one
_SHOWN = 10
_AT_ONCE = 16  # blobs that are there already, before others may run


async def fetch_all(
    fetcher: Fetcher, wanted: Iterable[Wanted], progress: Progress, ahead: int = AHEAD
) -> BulkReport:
    """Have every blob in the cache. Goes on past blobs that fail; NoSpace ends it."""
    tally = _Tally(progress)
    try:
        for one in wanted:
            if fetcher.start(one.digest, one.size, one.why, partial(tally.landed, one)):
                tally.under_way += 1
                if tally.under_way >= ahead:
                    await tally.at_most(ahead // 2)
            else:
                tally.count(one)
                if tally.done % _AT_ONCE == 0:  # hits do not wait for anything
                    await trio.lowlevel.checkpoint()
        await tally.at_most(0)
    finally:
        tally.is_over = True
    return BulkReport(tally.done, tally.failed, tuple(tally.failures), tally.first_error)


class _Tally:
    """What has become of the blobs so far."""

    def __init__(self, progress: Progress) -> None:
        self.under_way = self.done = self.size = self.failed = 0
        self.failures: list[str] = []
        self.first_error: AysfsError | None = None
        self.is_over = False  # what lands after that, nobody is told
        self._progress = progress
        self._no_space: NoSpace | None = None
        self._few = 0  # under way: ``_are_few`` is set when there are no more
        self._are_few = trio.Event()

    def landed(self, one: Wanted, error: AysfsError | None) -> None:
        self.under_way -= 1
        if isinstance(error, NoSpace):
            self._no_space = error
        elif not self.is_over:
            if error is not None:
                self._note(one, error)
            self.count(one)
        if self.under_way <= self._few or self._no_space is not None:
            self._are_few.set()

    def _note(self, one: Wanted, error: AysfsError) -> None:
        self.failed += 1
        self.first_error = self.first_error or error
        if len(self.failures) < _SHOWN:
            self.failures.append(f"{one.why}: {error}")

    def count(self, one: Wanted) -> None:
        self.done, self.size = self.done + 1, self.size + one.size
        self._progress(self.done, self.size)

    async def at_most(self, count: int) -> None:
        """Wait until no more than this are under way; raises NoSpace when one has met it."""
        if self.under_way > count:
            self._few, self._are_few = count, trio.Event()
            await self._are_few.wait()
        if self._no_space is not None:
            raise self._no_space
