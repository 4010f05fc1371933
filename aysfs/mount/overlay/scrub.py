"""Hashing what is cached, slowly, for as long as there are mounts.

An overlay opens a blob without asking anybody, so nobody looks at the blob's stamp then: what
rots on the disk is found here. An entry that is wrong is put aside and fetched again when it is
asked for next; who has it open or mapped keeps the wrong bytes.
"""

import logging

import trio

from aysfs.cache.blobs import Cache, Stored
from aysfs.cache.held import let_go
from aysfs.errors import AysfsError

log = logging.getLogger(__name__)

_REST = 19  # times as long as the hashing took: a twentieth of one core and of the disk
_BETWEEN = 86400.0  # seconds from one round to the next


async def scrub_slowly(cache: Cache) -> None:
    """Hash every entry, again and again. Runs until cancelled."""
    while True:
        for stored in await _everything(cache):
            begun = trio.current_time()
            try:
                good = await trio.to_thread.run_sync(cache.revalidate, stored.digest, stored.size)
            except (AysfsError, OSError) as error:
                log.warning("blob %s cannot be checked: %s", stored.digest.hex(), error)
            else:
                if not good:
                    await trio.to_thread.run_sync(let_go, cache.root)
            await trio.sleep((trio.current_time() - begun) * _REST)
        await trio.sleep(_BETWEEN)


async def _everything(cache: Cache) -> list[Stored]:
    try:
        return await trio.to_thread.run_sync(lambda: list(cache.scan()))
    except OSError as error:
        log.warning("the cache %s cannot be checked: %s", cache.root, error)
        return []
