"""The part of the EROFS format that a tree image uses: numbers, records, nothing that acts.

Source of every number: the kernel's ``fs/erofs/erofs_fs.h`` and its documentation page. All
integers are little-endian. An inode's number (*nid*) is its place: ``nid * SLOT`` bytes into
the image, since ``meta_blkaddr`` is 0 in ours.
"""

import stat
from struct import Struct

BLOCK_BITS = 12
BLOCK = 1 << BLOCK_BITS
SLOT_BITS = 5
SLOT = 1 << SLOT_BITS
SLOTS_A_BLOCK = BLOCK // SLOT

SUPER_AT = 1024
SUPER_SIZE = 128
MAGIC = 0xE0F5E1E2
COMPAT = 0x1 | 0x2  # the superblock has a checksum; times are mtimes
INCOMPAT_CHUNKED = 0x4

# magic, checksum, compat, block bits, slots, root nid, inodes, build time (s, ns), blocks,
# meta block, xattr block, uuid, volume name, incompat
SUPER = Struct("<IIIBBHQQIIII16s16sI44x")
# format, xattr count, mode, nlink, size, 0, u, ino, uid, gid, 0
COMPACT = Struct("<HHHHIIIIHHI")
# format, xattr count, mode, 0, size, u, ino, uid, gid, mtime (s, ns), nlink, 0
EXTENDED = Struct("<HHHHQIIIIQII16x")
DIRENT = Struct("<QHBx")  # nid, offset of the name in its block, type
XATTR_HEADER = Struct("<IB7x")  # name filter, how many shared ones follow
XATTR_ENTRY = Struct("<BBH")  # length of the name, index of its prefix, length of the value

# Ours, between the superblock and the root: what else only a walk over all entries would tell.
# Entries (each name of a hard link is one), bytes of all files, flags.
SUMMARY = Struct("<QQI")
HAS_XATTRS = 0x1

SHARED_AT = SUPER_AT + SUPER_SIZE  # the shared attributes: there is one
METACOPY = XATTR_ENTRY.pack(16, 4, 0) + b"overlay.metacopy"
METACOPY_ID = SHARED_AT // 4  # shared attributes are numbered by where they begin
REDIRECT_ENTRY = Struct("<BBH16s37s3x")
REDIRECT = b"overlay.redirect"
CHUNKS = b"overlay.aysfs.chunks"  # ours; overlayfs shows nobody what is below trusted.overlay.
REDIRECT_SIZE = 37  # of its value, "/h/h/" and 32 digits
SUMMARY_AT = SHARED_AT + len(METACOPY)
ROOT_NID = -(-(SUMMARY_AT + SUMMARY.size) // SLOT)

COMPACT_LIMIT = 1 << 16  # of owners and link counts
PLAIN, INLINE, CHUNKED = 0, 2, 4  # data layouts
CHUNK_BITS_MASK = 0x1F
CHUNK_INDEXES = 0x20
NULL_BLOCK = 0xFFFFFFFF  # of a chunk: a hole
MAX_CHUNK = BLOCK << CHUNK_BITS_MASK  # 8 TiB, the most that one chunk can cover
MAX_SIZE = 64 * MAX_CHUNK  # of a file in our images: a claimed size must not fill disks here

MAX_NAME = 255
MAX_XATTR_VALUE = (1 << 16) - 1
MAX_XATTR_UNITS = (1 << 16) - 1  # header and entries of an inode, counted as `xattr count` does
XATTR_PREFIXES = {1: b"user.", 4: b"trusted.", 6: b"security."}

FILE_TYPES = {
    stat.S_IFREG: 1,
    stat.S_IFDIR: 2,
    stat.S_IFCHR: 3,
    stat.S_IFBLK: 4,
    stat.S_IFIFO: 5,
    stat.S_IFSOCK: 6,
    stat.S_IFLNK: 7,
}


def chunk_bits(size: int) -> int:
    """Bits above the block size of the chunks of a file: one covers it, up to MAX_CHUNK."""
    return min(CHUNK_BITS_MASK, max(0, (size - 1).bit_length() - BLOCK_BITS))


def chunks(size: int) -> int:
    """How many chunks of that size a file has."""
    return -(-size // (BLOCK << chunk_bits(size)))


def xattr_units(length: int) -> int:
    """An inode's xattr count for so many bytes of header and entries; 0 for none."""
    return (length - XATTR_HEADER.size) // 4 + 1 if length else 0


def encode_rdev(major: int, minor: int) -> int:
    """A device number as the kernel's ``new_encode_dev`` writes it."""
    return minor & 0xFF | major << 8 | (minor & ~0xFF) << 12


def decode_rdev(value: int) -> tuple[int, int]:
    """Major and minor, as the kernel's ``new_decode_dev`` reads them."""
    return value >> 8 & 0xFFF, value & 0xFF | value >> 12 & 0xFFF00


def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return tuple(table)


_CRC32C = _crc_table()


def superblock_checksum(data: bytes | bytearray) -> int:
    """crc32c over the superblock, its checksum as zero, to the end of its block (not inverted)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC32C[(crc ^ byte) & 0xFF]
    return crc
