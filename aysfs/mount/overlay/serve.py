"""``python -m aysfs.mount.overlay.serve``: the daemon of the overlay engine.

One nursery a lifetime: the fault layer's session, the control socket, and every mount. It begins by
mounting again what a daemon before it served and lost, and ends when nothing is mounted or held.
"""

import gc

if __name__ == "__main__":  # collections in vain were a sixth of the start
    gc.disable()

import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pyfuse3
import trio

from aysfs.cache.blobs import Cache
from aysfs.cache.incoming import Incoming
from aysfs.cache.recovery import look_over, recover
from aysfs.errors import AysfsError, ExitCode, MountFailed, first_of
from aysfs.kernel.fuse import tune
from aysfs.limits import CHUNK
from aysfs.mount import arrivals
from aysfs.mount.client import Answer
from aysfs.mount.control import Handler, serve_control
from aysfs.mount.durable import flush_at_last, flush_now_and_then
from aysfs.mount.options import from_json
from aysfs.mount.overlay import stack
from aysfs.mount.overlay.fault import FaultLayer
from aysfs.mount.overlay.host import Host
from aysfs.mount.overlay.options import HostOptions, host_options_from, mount_namespace
from aysfs.mount.overlay.plan import plan_from
from aysfs.mount.overlay.scrub import scrub_slowly
from aysfs.mount.overlay.trees import fault_point
from aysfs.mount.process import be_daemon
from aysfs.mount.runtime import HostClaim, is_mounted, records, sweep

log = logging.getLogger(__name__)

_LOOKUPS = 2000  # answered at a time: each may wait for a store, and must not hold up the others
_STAYS = 60.0  # seconds without a mount at the beginning
_GRACE = 5.0  # seconds that those who hold a tree get when the daemon is told to stop
_READY = 20.0
_MOUNTING = 600.0  # seconds that compiling the largest lists may take
_EXPIRE_EVERY = 15.0
_FAULT_OPTIONS = {"fsname=aysfs-fault", "subtype=aysfs-fault", "ro", "nosuid", "nodev"}


async def serve(options: HostOptions, ready: Callable[[], None]) -> None:
    """Serve the mounts of a cache; ``ready`` is called when the first may be asked for."""
    cache = Cache(Path(options.cache), options.limits, report=log.warning)
    try:
        wrong = await trio.to_thread.run_sync(recover, cache)
        if wrong:
            log.warning("%d cached blobs did not survive the last stop of this host", wrong)
        await _session(options, cache, ready)
        await flush_at_last(cache)
    finally:
        cache.close()


async def _session(options: HostOptions, cache: Cache, ready: Callable[[], None]) -> None:
    incoming = Incoming(cache)
    layer = FaultLayer(incoming)
    folder = options.folder
    _mount(layer, folder)
    try:
        async with trio.open_nursery() as nursery:
            checked = trio.Event()
            host = Host(folder, cache, layer, nursery, checked)
            for task in (
                partial(_look_over, cache, checked),
                partial(_begin, host, options, nursery, ready),
                partial(_stop_on_signal, host, nursery),
                partial(_expire, incoming),
                partial(scrub_slowly, cache),
                partial(flush_now_and_then, cache, lambda: host.sources.fetched_bytes),
                host.watch,
                host.forget_lost,
                host.trees.ask_again,
            ):
                nursery.start_soon(task)
            await pyfuse3.main(max_tasks=_LOOKUPS)
            nursery.cancel_scope.cancel()
    finally:
        pyfuse3.close(unmount=True)
        fault_point(folder).rmdir()


async def _look_over(cache: Cache, checked: trio.Event) -> None:
    """Check every stamp, for seconds in a large cache. Lists can be compiled meanwhile."""
    await trio.to_thread.run_sync(look_over, cache)
    checked.set()


def _mount(layer: FaultLayer, folder: Path) -> None:
    stack.clear(folder)
    point = fault_point(folder)
    point.mkdir(mode=0o700, exist_ok=True)
    arrivals.take_over()
    try:
        pyfuse3.init(layer, str(point), _FAULT_OPTIONS)
    except RuntimeError as error:
        point.rmdir()
        raise MountFailed(
            f"the fault layer cannot be mounted at {point}",
            hint="fuse's reason is in the log; is /dev/fuse there and allowed?",
        ) from error


async def _begin(
    host: Host, options: HostOptions, nursery: trio.Nursery, ready: Callable[[], None]
) -> None:
    """Take up what was lost, then requests."""
    point = fault_point(options.folder)
    try:
        with trio.fail_after(_READY):
            await trio.to_thread.run_sync(os.statvfs, point, abandon_on_cancel=True)
    except (trio.TooSlowError, OSError) as error:
        raise MountFailed(f"the fault layer at {point} does not answer: {error}") from error
    # Of large files; more, and a fault in a mapping would read so much. The table has real paths.
    tune(f"{os.path.realpath(point.parent)}/{point.name}", CHUNK)
    await _repair(host, options)
    host.is_repaired()
    control = options.folder / "control"

    async def mount(argument: str) -> Answer:
        if host.ended.is_set():
            return {"leaving": True}
        await host.mount(from_json(argument))
        return {"mounted": True}

    async def abandoned(_argument: str) -> Answer:
        return {"abandoned": await host.abandoned()}

    if options.stays:
        nursery.start_soon(_end_if_unused, host)
    else:
        host.end_if_empty()
    handlers = {"mount": mount, "abandoned": abandoned}
    await nursery.start(_take_requests, control, handlers, host)
    ready()


async def _take_requests(
    control: Path,
    handlers: Mapping[str, Handler],
    host: Host,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer until the last tree is gone; whoever asked before has an answer, then we leave."""
    await serve_control(
        control, handlers, patience=_MOUNTING, until=host.ended, task_status=task_status
    )
    pyfuse3.terminate()


async def _end_if_unused(host: Host) -> None:
    await trio.sleep(_STAYS)
    host.end_if_empty()


async def _repair(host: Host, options: HostOptions) -> None:
    """Mount again what a daemon that died served in this mount namespace."""
    for record in records(Path(options.runtime)):
        if record.alive or record.plan is None:
            continue
        try:
            plan = plan_from(record.plan)
        except (KeyError, TypeError) as error:
            log.warning("%s cannot be mounted again: its record says %r", record.point, error)
            continue
        if plan.options.cache != options.cache or plan.mount_namespace != mount_namespace():
            continue
        if not is_mounted(record.point):
            log.info("%s was unmounted while nobody served it", record.point)
            sweep(record.folder, record.point)
            continue
        try:
            await host.mount_again(plan)
        except AysfsError as error:
            log.warning("%s cannot be mounted again: %s", record.point, error)
        else:
            log.warning("%s is mounted again: its daemon had died", record.point)


async def _expire(incoming: Incoming) -> None:
    while True:
        await trio.sleep(_EXPIRE_EVERY)
        await trio.to_thread.run_sync(incoming.expire)


async def _stop_on_signal(host: Host, nursery: trio.Nursery) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async for number in signals:
            log.info("stopping on %s", signal.Signals(number).name)
            host.unmount_all()
            host.end_if_empty()
            await trio.sleep(_GRACE)
            nursery.cancel_scope.cancel()


def run(options: HostOptions, ready: Callable[[], None]) -> None:
    """The whole life of a daemon. An AysfsError says why there is none."""
    claim = HostClaim(options.folder)
    try:
        try:
            trio.run(serve, options, ready)
        # Not `except*`: Python 3.11.2, Debian's, would wrap what is raised.
        except BaseExceptionGroup as group:
            raise first_of(group) from None
    finally:
        claim.drop()


def main() -> int:
    """Serve until nothing is mounted; the exit code is that of the error, if any."""
    told = sys.stdin.read()
    if not told:  # whoever started us was killed before a word
        return int(ExitCode.INTERRUPTED)
    options = host_options_from(told)
    return be_daemon(options.log_level, partial(run, options))


if __name__ == "__main__":
    sys.exit(main())
