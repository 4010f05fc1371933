"""The life of a mount, from outside: start its daemon, find it, take it down, repair.

Serves the commands. Never touches a mounted file system itself, except to unmount it.
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

from aysfs.errors import MountBusy, MountFailed
from aysfs.kernel.table import find_kernel_mount, kernel_mounts
from aysfs.mount.options import MountOptions
from aysfs.mount.overlay.life import clear_away
from aysfs.mount.runtime import (
    PATIENCE,
    Record,
    folder_of,
    is_ours,
    is_served,
    read_record,
    records,
    sweep,
)
from aysfs.mount.spawn import command_of, end_daemon, start_daemon


def check_point(point: Path) -> str:
    """The absolute mount point; MountFailed when there is none. Clears away a dead mount."""
    name = os.path.realpath(point)
    _clear_dead(name)
    try:
        is_directory = os.path.isdir(name) if os.path.lexists(name) else None
    except OSError as error:
        raise MountFailed(f"{name}: {error.strerror}") from error
    if is_directory is None:
        raise MountFailed(f"there is no {name}", hint=f"`mkdir -p {name}` first")
    if not is_directory:
        raise MountFailed(f"{name} is not a directory")
    return name


def _clear_dead(point: str) -> None:
    mount = find_kernel_mount(point)
    if mount is not None and is_ours(mount) and not _answers(point):
        unmount_kernel(point, lazy=True)


def _answers(point: str) -> bool:
    """Whether a mounted tree still answers: a dead daemon's says ENOTCONN at once."""
    try:
        os.statvfs(point)
    except OSError:
        return False
    return True


def start(options: MountOptions) -> int:
    """Start a daemon and wait until its tree is usable; its pid. Raises its own error."""

    def abandon(daemon: "subprocess.Popen[bytes]") -> None:
        """End it, and clear away what it leaves when it has to be killed."""
        end_daemon(daemon)
        _clear_dead(options.point)
        sweep(folder_of(Path(options.runtime), options.point), options.point)

    return start_daemon("aysfs.mount", options.to_json(), Path(options.log), abandon)


def become(options: MountOptions) -> NoReturn:
    """Turn this process into the daemon: it logs to standard error and ends with the mount."""
    receiver, sender = os.pipe()
    os.write(sender, options.to_json().encode())
    os.close(sender)
    os.dup2(receiver, 0)
    os.execv(sys.executable, command_of("aysfs.mount", -1))


def find(runtime: Path, point: Path) -> Record:
    """The mount at a point; MountFailed when there is none."""
    name = os.path.realpath(point)
    record = read_record(folder_of(runtime, name))
    if record is None:
        raise MountFailed(f"nothing of ours is mounted at {name}", hint="`aysfs status` lists all")
    return record


def stop(runtime: Path, point: Path, *, lazy: bool = False) -> None:
    """Unmount and wait until the daemon has left. MountBusy when somebody uses the mount."""
    name = os.path.realpath(point)
    record = read_record(folder_of(runtime, name))
    mount = find_kernel_mount(name)
    if mount is None or not is_ours(mount):
        if record is None:
            raise MountFailed(
                f"nothing of ours is mounted at {name}", hint="`aysfs status` lists all"
            )
    else:
        unmount_kernel(name, lazy=lazy)
    if record is not None:
        _wait_for_exit(record, lazy=lazy)
        if record.plan is not None and not record.alive:
            clear_away(runtime)


def _wait_for_exit(record: Record, *, lazy: bool) -> None:
    """Until the daemon let go of its folder; a dead one's folder is removed."""
    deadline = time.monotonic() + (0.0 if lazy else PATIENCE)
    while is_served(record.folder):
        if time.monotonic() > deadline:
            if lazy:
                return  # it serves whoever still holds the tree, then ends
            raise MountFailed(
                f"{record.point} is unmounted, but its daemon {record.pid} has not ended",
                hint=f"see {record.log}",
            )
        time.sleep(0.01)
    sweep(record.folder, record.point)


def unmount_kernel(point: str, *, lazy: bool = False) -> None:
    """Take a mount out of the tree of names; MountBusy when it is in use."""
    if os.geteuid() == 0:
        command = ["umount", "-i", *(["-l"] if lazy else []), point]
    else:
        command = ["fusermount3", "-u", *(["-z"] if lazy else []), point]
    environment = {**os.environ, "LC_ALL": "C"}  # what is said is read below
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    reason = done.stderr.strip().removeprefix("umount: ")
    if "busy" in reason.lower():
        raise MountBusy(
            f"{point} is in use",
            hint=f"`fuser -vm {point}` says by whom; `aysfs umount --lazy` detaches it now",
        )
    raise MountFailed(f"{point} cannot be unmounted: {reason}")


def strays(runtime: Path) -> list[str]:
    """Mount points of ours in the kernel's table that no record speaks of."""
    known = {record.point for record in records(runtime)}
    found = {mount.point for mount in kernel_mounts() if is_ours(mount)}
    return sorted(found - known)
