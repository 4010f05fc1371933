"""Where running mounts are known: one folder a mount under the runtime directory.

    <runtime>/<id>/mount.json   what was asked for; id is derived from the mount point
    <runtime>/<id>/lock         held by the daemon as long as it lives
    <runtime>/<id>/control      its socket

A daemon of the fuse engine has one such folder. That of the overlay engine serves every mount of
its cache and has a folder of its own beside them, ``<runtime>/host-<id>``.

Serves the daemon, the life of a mount, and ``status``. Reads the kernel's mount table and
never touches a mounted file system, which may be one that does not answer.
"""

import fcntl
import hashlib
import json
import logging
import os
import re
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from aysfs.errors import MountFailed
from aysfs.kernel.table import KernelMount, kernel_mounts

log = logging.getLogger(__name__)

FILE_SYSTEM = "fuse.aysfs"
PATIENCE = 15.0  # seconds in which a daemon that was unmounted should have left

_CAREFULLY = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_LONGEST_RECORD = 1 << 20
_OVERLAY = re.compile(r"datadir\+=[^,]*/host-[0-9a-f]{16}/fault/")


class Record(NamedTuple):
    """A mount as its folder tells it; ``alive`` when its daemon runs.

    ``plan`` is what the overlay engine needs to mount it again, None with the fuse engine.
    """

    folder: Path
    point: str
    services: tuple[str, ...]
    log: str
    pid: int
    alive: bool
    plan: dict[str, Any] | None

    @property
    def control(self) -> Path:
        """The daemon's socket."""
        return self.folder / "control"


def is_ours(mount: KernelMount) -> bool:
    """Whether a line of the mount table is a tree of ours, of either engine."""
    if mount.kind == "overlay":
        return _OVERLAY.search(mount.options) is not None
    return mount.kind == FILE_SYSTEM


def is_mounted(point: str) -> bool:
    """Whether a tree of ours is mounted at a point, be it below another mount."""
    return any(one.point == point and is_ours(one) for one in kernel_mounts())


def folder_of(runtime: Path, point: str) -> Path:
    """The folder of the mount at this point."""
    return runtime / hashlib.sha256(os.fsencode(point)).hexdigest()[:16]


def records(runtime: Path) -> list[Record]:
    """Every mount that a daemon was started for and not cleaned up after, by mount point."""
    found = []
    try:
        _check_private(runtime)
        folders = sorted(runtime.iterdir())
    except FileNotFoundError:
        return []
    for folder in folders:
        record = read_record(folder)
        if record is not None:
            found.append(record)
    return sorted(found, key=lambda record: record.point)


def read_record(folder: Path) -> Record | None:
    """The mount of a folder; None when there is none, or it is half written.

    MountFailed when somebody else could have written it.
    """
    try:
        _check_private(folder.parent)
        text = json.loads(_read_file(folder / "mount.json"))
        return Record(
            folder,
            str(text["point"]),
            tuple(text["services"]),
            str(text["log"]),
            int(text["pid"]),
            is_served(folder),
            text.get("plan"),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _read_file(path: Path) -> bytes:
    """A regular file, and nothing that a link leads to or that makes us wait."""
    with open(os.open(path, _CAREFULLY), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError(f"{path} is not a file")
        return file.read(_LONGEST_RECORD)


class Claim:
    """A daemon's hold on its folder, from before the mount until after the unmount."""

    def __init__(self, runtime: Path, point: str, patience: float = PATIENCE) -> None:
        """MountFailed when another daemon serves this mount point.

        Without a mount there, as after a plain umount(8), the other is leaving (or about to
        mount): its end is waited for, at most ``patience`` seconds.
        """
        self.folder = folder_of(runtime, point)
        _private_directory(runtime)
        deadline = None
        lock = None
        while lock is None:
            try:
                lock = _take_lock(self.folder, point)
            except MountFailed:
                if is_mounted(point):
                    raise
                if deadline is None:
                    log.info("waiting for the daemon that served %s before to leave", point)
                    deadline = time.monotonic() + patience
                if time.monotonic() >= deadline:
                    raise _still_there(self.folder, point) from None
                time.sleep(0.01)
        self._lock = lock

    def publish(
        self, point: str, services: list[str], log: str, plan: dict[str, Any] | None = None
    ) -> None:
        """Write down what is mounted, in one step."""
        text = {"point": point, "services": services, "log": log, "pid": os.getpid()}
        tmp = self.folder / "mount.json.tmp"
        tmp.write_text(json.dumps(text | {"plan": plan}))
        tmp.rename(self.folder / "mount.json")

    def drop(self) -> None:
        """Remove the folder and let go of it."""
        _remove(self.folder, self._lock)


class HostClaim:
    """The hold of a daemon that serves every mount of its cache on its own folder."""

    def __init__(self, folder: Path) -> None:
        """MountFailed when another daemon has it."""
        self.folder = folder
        _private_directory(folder.parent)
        lock = None
        while lock is None:
            lock = _take_lock(folder, "this cache")
        self._lock = lock

    def drop(self) -> None:
        """Remove the folder and let go of it."""
        _remove(self.folder, self._lock)


def sweep(folder: Path, point: str) -> None:
    """Remove what a dead daemon left; the folder of a living one stays."""
    if folder.exists():
        with suppress(MountFailed):
            lock = _take_lock(folder, point)
            if lock is not None:
                _remove(folder, lock)


def _remove(folder: Path, lock: int) -> None:
    """Remove a folder whose lock we hold: the lock last, as the next daemon may come then."""
    for name in ("control", "mount.json.tmp", "mount.json", "lock"):
        (folder / name).unlink(missing_ok=True)
    with suppress(OSError):  # the next daemon is there already
        folder.rmdir()
    os.close(lock)


def _take_lock(folder: Path, point: str) -> int | None:
    """The lock of a folder, MountFailed when a daemon has it.

    None means try again: the daemon before us removed it meanwhile, or somebody looks at it.
    """
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        return None
    except FileExistsError:  # it was there, and is no directory: or not there any more
        if folder.is_file():
            raise MountFailed(f"{folder} is not a directory") from None
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(lock), os.stat(folder / "lock")):
            return lock
    except BlockingIOError:
        if _is_exclusive(lock):
            os.close(lock)
            raise MountFailed(
                f"{point} is mounted already", hint=f"`aysfs umount {point}` first"
            ) from None
    except FileNotFoundError:
        pass
    os.close(lock)
    return None


def _still_there(folder: Path, point: str) -> MountFailed:
    record = read_record(folder)
    who = f"daemon {record.pid}" if record is not None else "daemon"
    log = f"; its log is {record.log}" if record is not None else ""
    return MountFailed(
        f"{point} is not mounted, but the {who} that served it has not left",
        hint=f"somebody may still use the tree that it served{log}",
    )


def _private_directory(path: Path) -> None:
    """A directory of ours alone: whoever can write there could answer for our daemons."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_private(path)


def _check_private(path: Path) -> None:
    status = path.lstat()
    if status.st_uid != os.geteuid() or status.st_mode & 0o022 or not path.is_dir():
        raise MountFailed(f"the runtime directory {path} is not ours alone")


def is_served(folder: Path) -> bool:
    """Whether a living daemon holds this folder."""
    try:
        descriptor = os.open(folder / "lock", _CAREFULLY)
    except FileNotFoundError:
        return False
    try:
        return _is_exclusive(descriptor)
    finally:
        os.close(descriptor)


def _is_exclusive(lock: int) -> bool:
    """Whether a daemon holds a lock. Who only looks, as here, shares it, and for a moment."""
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False
