"""``python -m aysfs.build.enter PID stat|md5|targets``: look at paths as another process sees them.

Serves ``view``, for containers that have no program to look with. Reads paths from standard
input, each but the last ended by a NUL, enters the mount namespace of the process, and answers
as ``view`` reads it. Everything needed is imported before: the other side has no Python.
"""

import ctypes
import hashlib
import os
import stat
import sys

_CLONE_NEWNS = 0x00020000
_CHUNK = 1 << 20


def main() -> None:
    """Enter, look, answer."""
    pid, question = sys.argv[1:]
    answer = {"stat": _stat, "md5": _md5, "targets": _target}[question]
    paths = sys.stdin.buffer.read().split(b"\0")
    _enter(int(pid))
    out = sys.stdout.buffer
    for path in paths:
        try:
            out.write(answer(path))
        except OSError:
            continue  # what cannot be looked at is left out
    out.flush()


def _enter(pid: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY)
    if libc.setns(descriptor, _CLONE_NEWNS) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    os.chdir("/")


def _stat(path: bytes) -> bytes:
    one = os.lstat(path)
    major, minor = os.major(one.st_rdev), os.minor(one.st_rdev)
    fields = (one.st_mode, one.st_uid, one.st_gid, one.st_size, major, minor)
    return b"%x %d %d %d %x %x " % fields + path + b"\0"


def _md5(path: bytes) -> bytes:
    hasher = hashlib.md5(usedforsecurity=False)
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    with open(os.open(path, flags), "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return b""
        while data := file.read(_CHUNK):
            hasher.update(data)
    return hasher.hexdigest().encode() + b"  " + path + b"\0"


def _target(path: bytes) -> bytes:
    return path + b"\0" + os.readlink(path) + b"\0"


if __name__ == "__main__":
    main()
