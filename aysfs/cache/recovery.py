"""After a crash of the host: what was not yet on the disk is hashed before it is used.

A rename can reach the disk before the bytes do. ``synced`` holds the boot and the moment up
to which everything had been flushed by ``syncfs``; in another boot, entries that arrived
later are hashed once, and the torn ones quarantined. Waits for the disk.
"""

import contextlib
import ctypes
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from aysfs.cache.blobs import Cache

_BOOT = Path("/proc/sys/kernel/random/boot_id")
# CLOCK_REALTIME_COARSE, by which files are dated. The exact clock is up to a tick ahead of it:
# what arrives in that tick, while we flush, would count as flushed.
_FILES_CLOCK = 5
_libc = ctypes.CDLL(None, use_errno=True)


def recover(cache: Cache, boot: str | None = None) -> int:
    """Hash what an unclean stop may have torn; how many entries were wrong."""
    boot = boot or _boot()
    known_boot, horizon = _read(cache.root / "synced")
    if known_boot == boot:
        return 0
    wrong = 0
    for stored in list(cache.scan()):
        if stored.arrived_ns >= horizon and not cache.revalidate(stored.digest, stored.size):
            wrong += 1
    with contextlib.suppress(OSError):  # a full disk: what is here can be read all the same
        flush(cache, boot)
    return wrong


def flush(cache: Cache, boot: str | None = None) -> None:
    """Bring the cache's file system to the disk, and remember until when that holds."""
    now = time.clock_gettime_ns(_FILES_CLOCK)
    descriptor = os.open(cache.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(descriptor) != 0:
            return
    finally:
        os.close(descriptor)
    # A name of this thread's own: another may flush at the same time.
    tmp = cache.usage.directory / f"synced-{threading.get_ident()}"
    tmp.write_text(f"{boot or _boot()} {now}\n")
    os.replace(tmp, cache.root / "synced")


def scrub(cache: Cache, progress: Callable[[int, int], None] | None = None) -> tuple[int, int]:
    """Hash every entry: how many there are, and how many were wrong and are quarantined.

    ``progress`` is told after each entry how many are done and the bytes hashed so far.
    """
    checked = wrong = done = 0
    for stored in list(cache.scan()):
        if not cache.revalidate(stored.digest, stored.size):
            wrong += os.path.exists(cache.root / "quarantine" / stored.digest.hex())
        checked, done = checked + 1, done + stored.size
        if progress is not None:
            progress(checked, done)
    return checked, wrong


def look_over(cache: Cache) -> int:
    """Hash the entries whose stamp is broken; how many were wrong and are quarantined.

    For those who cannot check a stamp when a blob is opened. 7 us of CPU an entry.
    """
    doubtful = [stored for stored in cache.scan() if not stored.stamped]
    return sum(not cache.revalidate(stored.digest, stored.size) for stored in doubtful)


def _boot() -> str:
    return _BOOT.read_text().strip()


def _read(path: Path) -> tuple[str, int]:
    """Boot and horizon; a file that is missing or damaged promises nothing."""
    try:
        boot, horizon = path.read_text().split()
        return boot, int(horizon)
    except (OSError, ValueError):
        return "", 0
