"""The mount API of Linux 5.2 and later: fsopen(2), fsconfig(2), fsmount(2), move_mount(2).

Serves the overlay engine and the cache. Python has no calls for them; the numbers are the same on
every architecture. Beside an errno the API has words: what the file system said about a wrong
option is read from its context and becomes part of the error.

A mount is made detached, as a descriptor, and goes away with it: a process that dies half way
leaves nothing behind.
"""

import ctypes
import os
import struct
from collections.abc import Sequence

from aysfs.errors import MountFailed

NOSUID, NODEV, NOEXEC = 0x2, 0x4, 0x8
"""Attributes of a mount. All are read-only."""

_READ_ONLY = 0x1

# asm-generic/unistd.h
_MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT, _FSPICK, _OPENAT2 = 429, 430, 431, 432, 433, 437
# linux/mount.h
_SET_FLAG, _SET_STRING, _CREATE, _RECONFIGURE = 0, 1, 6, 7
_CLOEXEC = 1
_MOVE_EMPTY_PATH, _MOVE_BENEATH = 0x4, 0x200
_PICK_NO_AUTOMOUNT = 0x4
# linux/openat2.h
_NO_MAGIC_LINKS, _NO_SYMLINKS, _BENEATH = 0x02, 0x04, 0x08

_AT_FDCWD = -100
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
# linux/sched.h, sys/mount.h
_NEW_NAMESPACE, _RECURSIVE, _SLAVE = 0x20000, 0x4000, 0x80000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

Option = tuple[str, str | None]
"""An option of a file system; None as value makes it a flag."""


class Refused(MountFailed):
    """The kernel said no: ``errno``, and ``words`` when the file system gave a reason."""

    def __init__(self, what: str, number: int, words: str = "") -> None:
        super().__init__(f"{what}: {words or os.strerror(number)}")
        self.errno = number
        self.words = words


def create(kind: str, options: Sequence[Option], attributes: int = NOSUID | NODEV) -> int:
    """A new read-only file system, mounted nowhere yet: the descriptor of its mount.

    Refused when the kernel does not know the kind, or dislikes an option. May wait for what
    the options lead to; call it where that holds up nobody.
    """
    context = _call(f"a file system of kind {kind}", _FSOPEN, kind.encode(), _CLOEXEC)
    try:
        _configure(context, kind, [*options, ("ro", None)], _CREATE)
        return _call(kind, _FSMOUNT, context, _CLOEXEC, attributes | _READ_ONLY)
    finally:
        os.close(context)


def attach(mount: int, point: str, *, beneath: bool = False) -> None:
    """Put a detached mount at a directory; ``beneath`` under what is mounted there (Linux 6.5).

    A mount put beneath shows once the one above it is unmounted: nobody ever sees the bare
    directory.
    """
    flags = _MOVE_EMPTY_PATH | (_MOVE_BENEATH if beneath else 0)
    _call(point, _MOVE_MOUNT, mount, b"", _AT_FDCWD, os.fsencode(point), flags)


def reconfigure(point: str, options: Sequence[Option] = ()) -> None:
    """Remount what is mounted at a point. Without options: drop the inodes that nobody uses."""
    flags = _CLOEXEC | _PICK_NO_AUTOMOUNT
    context = _call(point, _FSPICK, _AT_FDCWD, os.fsencode(point), flags)
    try:
        _configure(context, point, [*options, ("ro", None)], _RECONFIGURE)
    finally:
        os.close(context)


def detach(point: str) -> None:
    """Take a mount out of the tree of names at once; who uses it may go on."""
    if _libc.umount2(os.fsencode(point), _MNT_DETACH | _UMOUNT_NOFOLLOW) != 0:
        raise Refused(point, ctypes.get_errno())


def be_private() -> None:
    """Move this thread, and all that it starts, into a mount namespace of its own.

    What is mounted there is seen nowhere else; what the host mounts and unmounts meanwhile is seen
    there. Threads that run already stay where they are.
    """
    what = "a mount namespace of its own"
    if _libc.unshare(_NEW_NAMESPACE) != 0:
        raise Refused(what, ctypes.get_errno())
    if _libc.mount(None, b"/", None, ctypes.c_ulong(_RECURSIVE | _SLAVE), None) != 0:
        raise Refused(what, ctypes.get_errno())


def open_below(directory: int, path: bytes) -> int:
    """A directory inside another, never followed out of it by a link; a path descriptor.

    ``path`` is relative. Refused when it is not there, or there only by a link.
    """
    how = struct.pack(
        "=QQQ",
        os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC,
        0,
        _BENEATH | _NO_SYMLINKS | _NO_MAGIC_LINKS,
    )
    return _call(os.fsdecode(path), _OPENAT2, directory, path or b".", how, len(how))


def _configure(context: int, what: str, options: Sequence[Option], command: int) -> None:
    try:
        for key, value in options:
            if value is None:
                _call(what, _FSCONFIG, context, _SET_FLAG, key.encode(), None, 0)
            else:
                name, text = key.encode(), os.fsencode(value)
                _call(what, _FSCONFIG, context, _SET_STRING, name, text, 0)
        _call(what, _FSCONFIG, context, command, None, None, 0)
    except Refused as error:
        raise Refused(what, error.errno, _words(context)) from None


def _words(context: int) -> str:
    """What the file system has to say, without the letter that marks an error or a warning."""
    said: list[str] = []
    while True:
        try:
            line = os.read(context, 4096)
        except OSError:  # ENODATA: that was all
            return "; ".join(said)
        said.append(line.decode(errors="replace").strip()[2:])


def _call(what: str, number: int, *arguments: int | bytes | None) -> int:
    words = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    result = int(_libc.syscall(ctypes.c_long(number), *words))
    if result == -1:
        raise Refused(what, ctypes.get_errno())
    return result


def probe(kind: str) -> None:
    """Refused when this kernel has no such file system, or we may not mount it."""
    os.close(_call(kind, _FSOPEN, kind.encode(), _CLOEXEC))
