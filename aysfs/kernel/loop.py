"""Loop devices: for kernels before 6.12, whose EROFS mounts no plain file.

The device frees itself with its last user (LO_FLAGS_AUTOCLEAR): nothing has to be taken down.
"""

import errno
import fcntl
import os
import struct

from aysfs.errors import MountFailed

# linux/loop.h
_CONFIGURE = 0x4C0A
_GET_FREE = 0x4C82
_READ_ONLY, _AUTOCLEAR = 1, 4
_BLOCK = 4096
# struct loop_config: the file, the block size, a loop_info64 of which only the flags matter
_CONFIG = struct.Struct("=II 52x I 176x 64x")

_ATTEMPTS = 64  # another process may take the free device before us


def open_loop(image: int) -> tuple[int, str]:
    """A read-only block device showing an open file: a descriptor that keeps it, and its path."""
    try:
        return _configured(image)
    except OSError as error:
        raise MountFailed(f"no loop device: {error.strerror}") from error


def _configured(file: int) -> tuple[int, str]:
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_ATTEMPTS):
            path = f"/dev/loop{fcntl.ioctl(control, _GET_FREE)}"
            device = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                config = _CONFIG.pack(file, _BLOCK, _READ_ONLY | _AUTOCLEAR)
                fcntl.ioctl(device, _CONFIGURE, config)
            except OSError as error:
                os.close(device)
                if error.errno != errno.EBUSY:
                    raise
            else:
                return device, path
    finally:
        os.close(control)
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
