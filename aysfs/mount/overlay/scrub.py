"""Hashing what is cached, slowly, for as long as there are mounts.

An overlay opens a blob without asking anybody, so nobody looks at the blob's stamp then: what
rots on the disk is found here. An entry that is wrong is put aside and fetched again when it is
asked for next; who has it open or mapped keeps the wrong bytes.
"""

import logging
from collections.abc import Iterator
from itertools import islice

import trio

from aysfs.cache.blobs import Cache, Stored
from aysfs.cache.held import let_go
from aysfs.errors import AysfsError

log = logging.getLogger(__name__)

_REST = 19  # times as long as the hashing took: a twentieth of one core and of the disk
_BETWEEN = 86400.0  # seconds from one round to the next
_FIRST = 30.0  # seconds before the first: a daemon that begins has better things to do
_BATCH = 256  # entries that are held at a time: a cache may have millions


async def scrub_slowly(cache: Cache) -> None:
    """Hash every entry, again and again. Runs until cancelled."""
    await trio.sleep(_FIRST)
    while True:
        entries = cache.scan()
        while batch := await trio.to_thread.run_sync(_some_of, entries, cache):
            for stored in batch:
                begun = trio.current_time()
                await _scrub_one(cache, stored)
                await trio.sleep((trio.current_time() - begun) * _REST)
        await trio.sleep(_BETWEEN)


def _some_of(entries: Iterator[Stored], cache: Cache) -> list[Stored]:
    try:
        return list(islice(entries, _BATCH))
    except OSError as error:
        log.warning("the cache %s cannot be checked: %s", cache.root, error)
        return []


async def _scrub_one(cache: Cache, stored: Stored) -> None:
    try:
        good = await trio.to_thread.run_sync(cache.revalidate, stored.digest, stored.size)
    except (AysfsError, OSError) as error:
        log.warning("blob %s cannot be checked: %s", stored.digest.hex(), error)
    else:
        if not good:
            await trio.to_thread.run_sync(let_go, cache.root)
