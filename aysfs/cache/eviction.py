"""Making room: the oldest arrivals go first, what is being read stays.

One process at a time, by a lock. A blob that anybody has open or mapped, in any process, is
left alone, so its bytes are never counted as freed while they are not: the kernel grants a
write lease only on a file that nobody else has open. What an overlay's idle inodes hold is made
free before it is counted. What is in the page cache, and what an overlay has just asked for and
may not have opened yet, gets a second chance. Waits for the disk: run it in a thread.
"""

import errno
import fcntl
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

from aysfs.cache.blobs import Cache, Stored, in_page_cache
from aysfs.cache.held import let_go
from aysfs.cache.incoming import KEPT
from aysfs.cache.root import translated
from aysfs.cache.usage import on_disk
from aysfs.errors import NoSpace

_YOUNG_NS = int(KEPT * 1e9)


class Evicted(NamedTuple):
    """What an eviction did."""

    blobs: int = 0
    size: int = 0
    in_use: int = 0


def make_room(cache: Cache, wanted: int) -> Evicted:
    """Evict until a blob of ``wanted`` bytes fits, and some more, and reserve its room.

    Reserving under the same lock: of several that wait for room, each finds its own. Recounts
    what the cache holds on the way. NoSpace when it cannot fit, and then evicts nothing, or
    when all that is left is in use.
    """
    with _one_at_a_time(cache):
        done = Evicted()
        while True:
            is_all, before = False, done.blobs
            if cache.usage.excess(wanted) > 0:
                if not cache.usage.can_ever_fit(wanted):
                    raise NoSpace(f"{wanted} bytes can never fit into the cache or on its disk")
                cache.recount()
                done, is_all = _evict(cache, cache.everything(), wanted, done)
            try:
                cache.usage.reserve(wanted)
            except NoSpace:
                # A download that found room without asking us may have taken what we made, or
                # what the recount showed to be there.
                if is_all and done.blobs == before:
                    raise
            else:
                return done


def shrink(cache: Cache, size: int) -> Evicted:
    """Evict, oldest first, until the objects take at most ``size`` bytes."""
    with _one_at_a_time(cache):
        cache.recount()
        found = cache.everything()
        total = sum(on_disk(stored.size) for stored in found)
        done = Evicted()
        for stored in found:
            if total - done.size <= size:
                break
            done = _drop(cache, stored, done)
        _free(cache, done.size)
        return done


def _evict(cache: Cache, found: list[Stored], wanted: int, done: Evicted) -> tuple[Evicted, bool]:
    """Evict what is needed; what was done so far, and whether that is all that could be."""
    before = done.size
    goal = before + cache.usage.excess(wanted)
    late = []
    young = time.time_ns() - _YOUNG_NS
    for stored in found:
        if done.size >= goal:
            break
        path = cache.place_of(stored)
        if (stored.linked and stored.arrived_ns > young) or _in_page_cache(path):
            late.append(stored)
        else:
            done = _drop(cache, stored, done)
    _free(cache, done.size - before)
    for stored in late:
        if done.size >= goal or not cache.usage.excess(wanted):
            return done, False
        before = done.size
        done = _drop(cache, stored, done)
        _free(cache, done.size - before)
    return done, done.size < goal


def _free(cache: Cache, size: int) -> None:
    """Count bytes on the disk as free once they are."""
    if size:
        let_go(cache.root)
        cache.usage.freed(size)


def _drop(cache: Cache, stored: Stored, done: Evicted) -> Evicted:
    # Who opens an entry of ``partial`` would wait for our lease, and then have a removed one.
    with cache.partial_lock() if stored.partial else nullcontext():
        return _drop_unless_used(cache, stored, done)


def _drop_unless_used(cache: Cache, stored: Stored, done: Evicted) -> Evicted:
    try:
        descriptor = os.open(cache.place_of(stored), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return done
    try:
        if not _only_ours(descriptor):
            return done._replace(in_use=done.in_use + 1)
        if not cache.unlink(stored):
            return done
    finally:
        os.close(descriptor)
    return done._replace(blobs=done.blobs + 1, size=done.size + on_disk(stored.size))


def _only_ours(descriptor: int) -> bool:
    """Whether nobody else has this file open; held until the descriptor is closed.

    A lease that is broken sends a signal, SIGIO by default, which would kill us: SIGURG is
    ignored by default. File systems without leases (EINVAL) have no answer: then unlinking
    is still safe for readers, and only the count may be early.
    """
    fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except OSError as error:
        return error.errno == errno.EINVAL
    return True


def _in_page_cache(path: str) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return in_page_cache(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _one_at_a_time(cache: Cache) -> Iterator[None]:
    try:
        descriptor = os.open(cache.root / "evicting", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise translated(error, cache.root) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
