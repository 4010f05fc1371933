"""The life of overlay mounts, from outside: ask the daemon, start it, and again when it died.

Serves the commands.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from aysfs.errors import MountFailed
from aysfs.mount.client import Answer, NoAnswer, ask
from aysfs.mount.options import MountOptions
from aysfs.mount.overlay.options import HostOptions, mount_namespace
from aysfs.mount.overlay.plan import plan_from
from aysfs.mount.runtime import PATIENCE, is_mounted, is_served, records
from aysfs.mount.spawn import end_daemon, start_daemon

_MODULE = "aysfs.mount.overlay"
_ATTEMPTS = 5
_COMPILING = 300.0  # seconds that the largest lists may take


def host_of(options: MountOptions) -> HostOptions:
    """The daemon that a mount is served by."""
    return HostOptions(
        cache=options.cache,
        runtime=options.runtime,
        log=options.log,
        cache_size=options.cache_size,
        keep_free=options.keep_free,
        log_level=options.log_level,
    )


def mount(options: MountOptions) -> int | None:
    """Mount a tree; returns when it is usable. Raises the daemon's error.

    The pid of the daemon's supervisor, if one had to be started.
    """
    host = host_of(options)
    patience = _COMPILING + 2 * options.deadline
    started = None
    for _ in range(_ATTEMPTS):
        started = _ensure(host) or started
        try:
            answer = ask(host.folder / "control", "mount", options.to_json(), patience=patience)
        except NoAnswer:
            if is_served(host.folder):
                raise
            continue  # it was about to leave, or was killed
        except KeyboardInterrupt:
            if started is not None:  # it drops the request with the connection, and leaves
                _wait_for(partial(_has_ended, started))
            raise
        if "leaving" not in answer:
            return started
        _wait_for(lambda: not is_served(host.folder))
    raise MountFailed("no daemon stays alive long enough to mount", hint=f"see {host.log}")


def repair(runtime: Path) -> None:
    """Start the daemons that died and whose mounts are still in this mount namespace."""
    here = mount_namespace()
    for record in records(runtime):
        if record.alive or record.plan is None:
            continue
        try:
            plan = plan_from(record.plan)
        except (KeyError, TypeError):  # of another version, whose daemon will know it
            continue
        if plan.mount_namespace == here and is_mounted(record.point):
            _ensure(host_of(plan.options))


def abandoned(runtime: Path) -> list[Answer]:
    """Trees that are not mounted any more and that somebody holds, of every daemon."""
    found: list[Answer] = []
    for folder in runtime.glob("host-*"):
        if is_served(folder):
            try:
                trees = ask(folder / "control", "abandoned")["abandoned"]
            except MountFailed:  # leaving, or stuck: its mounts say so
                continue
            assert isinstance(trees, list)
            found.extend(trees)
    return found


def _ensure(host: HostOptions) -> int | None:
    """Have a daemon that answers; several commands at once start one. The pid of a new one."""
    with _one_at_a_time(Path(host.runtime)):
        if not is_served(host.folder):
            try:
                return start_daemon(_MODULE, host.to_json(), Path(host.log), end_daemon)
            except MountFailed:
                if not is_served(host.folder):  # else its supervisor was quicker
                    raise
    return None


def _has_ended(child: int) -> bool:
    return os.waitpid(child, os.WNOHANG) != (0, 0)


def _wait_for(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happened() and time.monotonic() < deadline:
        time.sleep(0.01)


@contextmanager
def _one_at_a_time(runtime: Path) -> Iterator[None]:
    runtime.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(runtime, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
