"""Bringing the cache to the disk, now and then: it bounds what a crash of the host makes doubtful.

Serves the daemons of both engines.
"""

import logging
from collections.abc import Callable

import trio

from aysfs.cache.blobs import Cache
from aysfs.cache.recovery import flush

log = logging.getLogger(__name__)

_EVERY = 60.0
_LAST = 5.0  # seconds: the disk may have minutes of others' bytes to write, and umount waits


async def flush_now_and_then(cache: Cache, fetched: Callable[[], int]) -> None:
    """Flush every minute in which the count of bytes that came moved. Runs until cancelled."""
    flushed = 0
    while True:
        await trio.sleep(_EVERY)
        if fetched() != flushed:
            flushed = fetched()
            await _flush(cache)


async def flush_at_last(cache: Cache) -> None:
    """Flush before leaving, unless the disk takes too long."""
    with trio.move_on_after(_LAST) as scope:
        await _flush(cache)
    if scope.cancelled_caught:
        log.info("left the cache %s before it was flushed: the disk is busy", cache.root)


async def _flush(cache: Cache) -> None:
    """Flush, and only say so when it fails: it costs a check after a crash, not the mount."""
    try:
        await trio.to_thread.run_sync(flush, cache, abandon_on_cancel=True)
    except OSError as error:
        log.warning("the cache %s cannot be flushed: %s", cache.root, error.strerror)
