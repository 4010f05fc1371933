"""The stamp of a verified blob: its mtime, a checksum of what it is.

A blob that has been verified gets the mtime ``f(inode, size, digest)``: whole seconds, so
that file systems without nanoseconds keep it. Writing to the file or truncating it moves the
mtime, a copied cache has other inodes, a torn rename another size: each breaks the stamp, and
a blob without a valid stamp is hashed again before it is used. No index has to be kept, and
the check costs the one ``fstat`` that an open needs anyway. What a stamp cannot show is
bytes that rot on the disk: the scrub finds those.
"""

import os
import zlib

from aysfs.digest import Digest

_POSITIVE = 0x7FFFFFFF  # a signed 32-bit time, which every file system can hold


def expected(inode: int, size: int, digest: Digest) -> int:
    """The mtime in seconds that marks this file as verified."""
    return zlib.crc32(b"%d.%d." % (inode, size) + digest) & _POSITIVE


def is_valid(status: os.stat_result, size: int, digest: Digest) -> bool:
    """Whether this file was verified as this blob and not changed since."""
    return (
        status.st_size == size
        and status.st_mtime_ns == expected(status.st_ino, size, digest) * 1_000_000_000
    )


def apply(descriptor: int, digest: Digest) -> None:
    """Mark an open file, whose bytes have just been verified."""
    status = os.fstat(descriptor)
    seconds = expected(status.st_ino, status.st_size, digest)
    os.utime(descriptor, ns=(status.st_atime_ns, seconds * 1_000_000_000))
