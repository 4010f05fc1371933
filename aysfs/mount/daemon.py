"""The daemon of one mount: from the list to a usable tree, and down again.

One nursery a lifetime: the fetch service outside, the control socket and the FUSE session
inside. It ends when anyone unmounts, on ``stop``, and on SIGTERM or SIGINT; then nothing of it is
left but its log.
"""

import ctypes
import gc
import logging
import os
import signal
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pyfuse3
import trio

from aysfs.cache.blobs import Cache
from aysfs.cache.images import ImageCache
from aysfs.cache.recovery import recover
from aysfs.errors import MountFailed, StoreTrouble, first_of
from aysfs.fetch.fetcher import Fetcher, open_fetcher
from aysfs.fetch.flights import in_words
from aysfs.fetch.prefetch import Prefetch, Seen
from aysfs.fetch.workers import FOR_MOUNTS
from aysfs.kernel.fuse import tune
from aysfs.load import Shown, load_view
from aysfs.mount import arrivals
from aysfs.mount.client import Answer
from aysfs.mount.control import Handler, serve_control
from aysfs.mount.durable import flush_at_last, flush_now_and_then
from aysfs.mount.fuse import FuseEngine
from aysfs.mount.options import MountOptions
from aysfs.mount.recording import Recorder
from aysfs.mount.runtime import Claim
from aysfs.store.chain import Chain
from aysfs.store.open import open_stores, side_by_side
from aysfs.store.protocol import Store

log = logging.getLogger(__name__)

_READ_AHEAD = 1 << 20  # bytes of the largest request that the kernel makes, 256 pages
_IDLE = 16  # tasks that may wait for requests: with 1, every fetch would begin one and end one
_GRACE = 5.0  # seconds that requests under way get when the daemon is told to stop


class Daemon:
    """What is being served; the control socket asks it."""

    def __init__(
        self,
        options: MountOptions,
        store: Store,
        fetcher: Fetcher,
        loaded: Shown,
        images: ImageCache,
        prefetch: Prefetch,
    ) -> None:
        self.options = options
        self.store = store
        self.fetcher = fetcher
        self.loaded = loaded
        self.images = images
        self.prefetch = prefetch
        self.recorder = Recorder() if options.record else None
        self.engine = FuseEngine(loaded.tree, fetcher, self.recorder)
        self._started = time.time()

    async def status(self, _argument: str) -> Answer:
        """What ``aysfs status`` shows."""
        counters, fetches = self.engine.counters, self.fetcher.counters
        cache = self.fetcher.cache
        return {
            "services": list(self.options.services),
            "point": self.options.point,
            "engine": "fuse",
            "why": self.options.why,
            "store": self.store.label,
            "resting": [
                {"store": one.label, "seconds": round(one.rest), "why": one.why}
                for one in (self.store.states() if isinstance(self.store, Chain) else [])
                if one.rest
            ],
            "cache": str(cache.root),
            "cache_used": cache.usage.used,
            "base": os.fsdecode(self.engine.tree.base),
            "lists": [{"source": one.source, "sha256": one.sha256} for one in self.loaded.lists],
            "entries": len(self.engine.tree),
            "size": self.engine.tree.total_size,
            "clashes": len(self.loaded.clashes),
            "outside_base": self.loaded.outside,
            "generations": self.engine.generations,
            "opens": counters.opens,
            "open_files": counters.open_files,
            "read_bytes": counters.read_bytes,
            "hits": fetches.hits,
            "misses": fetches.misses,
            "fetched_bytes": fetches.fetched_bytes,
            "failures": fetches.failures,
            **in_words(self.fetcher.in_flight()),
            "ahead": self.prefetch.status(),
            "pid": os.getpid(),
            "uptime": time.time() - self._started,
        }

    async def reload(self, _argument: str) -> Answer:
        """Read the lists again; when one changed, show the newer tree from now on."""
        options = self.options
        loaded = await _load(self.store, options, self.images)
        if [one.sha256 for one in loaded.lists] == [one.sha256 for one in self.loaded.lists]:
            loaded.tree.close()
            return {"changed": False, "entries": len(self.engine.tree)}
        _report_clashes(loaded)
        self.loaded = loaded
        names = self.engine.replace(loaded.tree)
        self.prefetch.shows(_seen(loaded))
        await trio.to_thread.run_sync(_invalidate, names, abandon_on_cancel=True)
        log.info("reloaded: %d entries", len(loaded.tree))
        answer: Answer = {"changed": True, "entries": len(loaded.tree)}
        if self.engine.xattrs_refused and loaded.tree.has_xattrs:
            answer["xattrs"] = "mount again to see extended attributes"
        return answer

    async def stop(self, _argument: str) -> Answer:
        """End the session; the mount goes with it."""
        log.info("told to stop")
        pyfuse3.terminate()
        return {"stopping": True}


def _invalidate(names: list[bytes]) -> None:
    """Make the kernel forget what lies below the root.

    Waits while the kernel holds a directory locked, which may be for an answer of ours.
    """
    for name in names:
        with suppress(OSError):  # the kernel does not know it
            pyfuse3.invalidate_entry(pyfuse3.ROOT_INODE, name)
    with suppress(OSError):
        pyfuse3.invalidate_inode(pyfuse3.ROOT_INODE)


async def serve(options: MountOptions, claim: Claim, ready: Callable[[], None]) -> None:
    """Serve a mount until it is unmounted; ``ready`` is called when its tree is usable.

    Raises an AysfsError when the mount cannot be made, and then leaves nothing behind.
    """
    async with AsyncExitStack() as stack:
        cache = Cache(Path(options.cache), options.limits, report=log.warning)
        stack.callback(cache.close)
        wrong = await trio.to_thread.run_sync(recover, cache)
        if wrong:
            log.warning("%d cached blobs did not survive the last stop of this host", wrong)
        store = open_stores(options.store, namespace=options.namespace)
        stack.push_async_callback(store.aclose)
        fetcher = await stack.enter_async_context(
            open_fetcher(
                cache,
                store,
                deadline=options.deadline,
                parallel=side_by_side(store),
                processes=FOR_MOUNTS,
            )
        )
        async with trio.open_nursery() as beside:
            prefetch = Prefetch(fetcher, options.prefetch, options.prefetch_rate)
            beside.start_soon(prefetch.run, options.refs)
            images = ImageCache(cache.root, report=log.warning)
            loaded = await _load(store, options, images)
            prefetch.shows(_seen(loaded))
            _report_clashes(loaded)
            gc.collect()
            _give_memory_back()
            gc.freeze()  # the tree lives as long as we do: no collection needs to walk it
            daemon = Daemon(options, store, fetcher, loaded, images, prefetch)
            await _session(daemon, claim, ready)
            beside.cancel_scope.cancel()
        await flush_at_last(cache)


def _seen(loaded: Shown) -> Seen:
    """What is shown, as far as fetching ahead is concerned."""
    return Seen([one.sha256 for one in loaded.lists], loaded.tree.blobs)


def _give_memory_back() -> None:
    """Let the kernel have what reading the lists needed: 8 of 90 MiB with 60,000 entries."""
    with suppress(AttributeError):  # the C library is not glibc
        ctypes.CDLL(None).malloc_trim(0)


async def _load(store: Store, options: MountOptions, images: ImageCache) -> Shown:
    base = None if options.base is None else os.fsencode(options.base)
    with trio.move_on_after(options.deadline):
        point = os.fsencode(options.point)
        return await load_view(
            store,
            options.refs,
            images,
            base=base,
            mount_point=point,
            compile_new=True,
            patience=options.deadline / 2,
        )
    raise StoreTrouble(f"{store.label}: no list within {options.deadline:g} s")


def _report_clashes(loaded: Shown) -> None:
    for clash in loaded.clashes[:100]:
        path = clash.path.decode(errors="backslashreplace")
        log.info("%s: the one of %s is shown, not that of %s", path, clash.winner, clash.loser)
    if len(loaded.clashes) > 100:
        log.info("and %d more clashes", len(loaded.clashes) - 100)
    if loaded.outside:
        log.info("%d entries lie outside the base and are not shown", loaded.outside)


async def _session(daemon: Daemon, claim: Claim, ready: Callable[[], None]) -> None:
    """Mount, serve until unmounted, and take the mount down."""
    options = daemon.options
    arrivals.take_over()
    try:
        pyfuse3.init(daemon.engine, options.point, _fuse_options(options))
    except RuntimeError as error:
        asked = f" with -o {','.join(options.fuse_options)}" if options.fuse_options else ""
        raise MountFailed(
            f"{options.point} cannot be mounted{asked}",
            hint=f"fuse's reason is in {options.log}; is /dev/fuse there and allowed?",
        ) from error
    # While the session runs, whoever unmounts ends it; on the way out we unmount ourselves.
    try:
        async with trio.open_nursery() as nursery:
            handlers: dict[str, Handler] = {
                "status": daemon.status,
                "reload": daemon.reload,
                "stop": daemon.stop,
            }
            if daemon.recorder is not None:
                handlers["record"] = daemon.recorder.answer
            await nursery.start(serve_control, claim.folder / "control", handlers)
            nursery.start_soon(_stop_on_signal, nursery)
            fetched = daemon.fetcher.counters
            nursery.start_soon(
                flush_now_and_then, daemon.fetcher.cache, lambda: fetched.fetched_bytes
            )
            nursery.start_soon(_announce, options, claim, ready)
            await pyfuse3.main(min_tasks=_IDLE)
            nursery.cancel_scope.cancel()
    finally:
        pyfuse3.close(unmount=True)
        log.info("unmounted %s", options.point)


def _fuse_options(options: MountOptions) -> set[str]:
    """fuse's own options. Without ``dev`` and ``suid`` the kernel refuses both by default."""
    # fuse's option parser takes a backslash before what would end the value.
    source = options.source.replace("\\", "\\\\").replace(",", "\\,")
    chosen = {f"fsname={source}", "subtype=aysfs", "ro", "default_permissions"}
    chosen |= set(options.fuse_options)
    if not chosen & {"suid"}:
        chosen.add("nosuid")
    if not chosen & {"dev"}:
        chosen.add("nodev")
    if options.allow_other or os.geteuid() == 0:
        chosen.add("allow_other")
    return chosen


async def _announce(options: MountOptions, claim: Claim, ready: Callable[[], None]) -> None:
    """Say that the mount is there, once the kernel has had an answer through it."""
    try:
        with trio.fail_after(options.deadline):
            await trio.to_thread.run_sync(os.statvfs, options.point, abandon_on_cancel=True)
        claim.publish(options.point, list(options.services), options.log)
    except trio.TooSlowError:
        raise MountFailed(
            f"{options.point}: the kernel has no answer within {options.deadline:g} s"
        ) from None
    except OSError as error:
        raise MountFailed(f"{options.point}: {error}") from error
    tune(options.point, _READ_AHEAD)
    log.info("mounted %s at %s", ", ".join(options.services), options.point)
    ready()


async def _stop_on_signal(nursery: trio.Nursery) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async for number in signals:
            log.info("stopping on %s", signal.Signals(number).name)
            pyfuse3.terminate()
            await trio.sleep(_GRACE)
            nursery.cancel_scope.cancel()


def run(options: MountOptions, ready: Callable[[], None]) -> None:
    """The whole life of a daemon. An AysfsError says why there is no mount."""
    claim = Claim(Path(options.runtime), options.point)
    try:
        try:
            trio.run(serve, options, claim, ready)
        # Not `except*`: Python 3.11.2, Debian's, would wrap what is raised.
        except BaseExceptionGroup as group:
            raise first_of(group) from None
    finally:
        claim.drop()
