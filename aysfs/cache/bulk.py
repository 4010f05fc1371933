"""Many blobs at once: what ``fetch`` and ``unpack`` need, each blob once."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import trio

from aysfs.cache.fetch import Fetcher
from aysfs.digest import Digest
from aysfs.errors import AysfsError, NoSpace


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

_SHOWN = 10
_AT_ONCE = 16  # blobs that are there already, before others may run


async def fetch_all(
    fetcher: Fetcher, wanted: Iterable[Wanted], progress: Progress, workers: int = 16
) -> BulkReport:
    """Have every blob in the cache. Goes on past blobs that fail; NoSpace ends it."""
    done = size = failed = 0
    failures: list[str] = []
    first: AysfsError | None = None
    todo = iter(wanted)

    async def work() -> None:
        nonlocal done, size, failed, first
        for one in todo:  # shared: taking the next is one step without an await
            try:
                await fetcher.ensure(one.digest, one.size, one.why)
            except NoSpace:
                raise
            except AysfsError as error:
                failed += 1
                first = first or error
                if len(failures) < _SHOWN:
                    failures.append(f"{one.why}: {error}")
            done, size = done + 1, size + one.size
            progress(done, size)
            if done % _AT_ONCE == 0:  # hits do not wait for anything
                await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for _ in range(workers):
            nursery.start_soon(work)
    return BulkReport(done, failed, tuple(failures), first)
