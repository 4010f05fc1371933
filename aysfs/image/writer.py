"""From a tree to an EROFS image without data, and to the index of the digests that it names.

Serves the overlay engine, which mounts the image, and whoever reads a list for the second time.
The same tree gives the same bytes. Two passes over the columns: the first finds every inode its
place, the second writes, so that memory is a few bytes an entry whatever the tree.

Places. Superblock and shared attributes are in block 0, and right after them the root, whose
number has only 16 bits; then all inodes, breadth first, each with its attributes and the tail of
its data; then the blocks of large directories. docs/format.md ("Tree image") has the rest.
"""

import hashlib
import stat
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from struct import Struct
from typing import BinaryIO, NamedTuple, NoReturn

from aysfs.digest import SIZE
from aysfs.errors import ImageRefused
from aysfs.image import erofs
from aysfs.image.blocks import dirents, split
from aysfs.image.erofs import BLOCK, SLOT, SLOTS_A_BLOCK
from aysfs.image.index import RECORD, IndexBuilder
from aysfs.tree import ROOT, Node, Tree

WRITER_VERSION = 2
"""Goes up whenever the same tree would give other bytes: images are cached by it."""

VOLUME = b"aysfs-%d" % WRITER_VERSION

# What a file with content has after its inode: attributes (one shared, one of its own), one chunk.
_FILE_TAIL = Struct("<IB7xIBBH16s37s3xI")
_COMPACT_FILE = Struct(erofs.COMPACT.format + _FILE_TAIL.format[1:] + "16x")
_EXTENDED_FILE = Struct(erofs.EXTENDED.format + _FILE_TAIL.format[1:] + "16x")
_FILE_UNITS = erofs.xattr_units(_FILE_TAIL.size - 4)

_MAX_NID = (1 << 32) - 1  # the index has 32 bits for it
_FLUSH = 1 << 20
_SECOND = 10**9
_MAX_U64 = (1 << 64) - 1


def write_image(tree: Tree, image: BinaryIO, index: BinaryIO) -> None:
    """Compile the tree of one whole list (base ``/``) into two empty seekable files.

    ImageRefused when the list names what no image can hold.
    """
    _Writer(tree).write(image, index)


class _Blocks(NamedTuple):
    """Data of a directory or symlink that has blocks of its own."""

    first: int  # counted from the first block after the inodes
    whole: int  # how many; what is left after them is inline


class _Output:
    """Bytes for ascending places of a file, in large pieces, hashed in the order of writing."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._at = 0
        self._pending = bytearray()
        self.hasher = hashlib.sha256()

    def put(self, place: int, data: bytes) -> None:
        """Continue at a place not before the end of what was put; the gap is zeros."""
        gap = place - self._at - len(self._pending)
        if gap:
            self._pending += bytes(gap)
        self._pending += data
        if len(self._pending) >= _FLUSH:
            self.flush()

    def flush(self) -> None:
        self._file.seek(self._at)
        self._file.write(self._pending)
        self.hasher.update(self._pending)
        self._at += len(self._pending)
        self._pending.clear()

    def put_aside(self, place: int, data: bytes) -> None:
        """Write elsewhere, without a move of where ``put`` goes on."""
        self._file.seek(place)
        self._file.write(data)
        self.hasher.update(data)


class _Writer:
    """One image. ``plan`` gives places, ``write`` fills them."""

    def __init__(self, tree: Tree) -> None:
        if tree.base != b"/":
            raise ValueError("an image is made of a whole list")
        self.tree = tree
        self.columns = tree.columns
        # Compact inodes have no time of their own: theirs is the superblock's.
        self.epoch = Counter(tree.columns.mtimes).most_common(1)[0][0]
        self.types = bytes([erofs.FILE_TYPES[stat.S_IFMT(mode)] for mode in tree.modes])
        self.own = dict(self._own_xattrs())
        self.nids = array("I", bytes(4 * len(tree)))
        self.compact = bytearray(len(tree))
        self.blocks: dict[int, _Blocks] = {}
        self.data_blocks = 0
        self.inode_blocks = self._plan()
        self.index = IndexBuilder()

    def _own_xattrs(self) -> Iterator[tuple[Node, bytes]]:
        """Packed attributes of inodes whose list names some, or chunks that they are read by."""
        for node in self.columns.exts:
            if node in self.columns.hardlinks:
                continue
            entries = b"".join(_xattr(*one) for one in sorted(self.tree.xattrs(node).items()))
            if (chunks := self.tree.chunks(node)) is not None:
                entries = _packed(4, erofs.CHUNKS, chunks.value) + entries
            if erofs.xattr_units(len(entries) + _FILE_TAIL.size) > erofs.MAX_XATTR_UNITS:
                self._refuse(node, f"{len(entries)} bytes of attributes, over 256 KiB")
            if entries:
                yield node, entries

    # --- places --------------------------------------------------------------------------

    def _plan(self) -> int:
        """Give every inode its number; the blocks that inodes take, block 0 included."""
        columns, own, links, epoch = self.columns, self.own, self.columns.hardlinks, self.epoch
        nids, compacts, slot = self.nids, self.compact, erofs.ROOT_NID
        limit, largest = erofs.COMPACT_LIMIT, erofs.MAX_CHUNK
        rows = zip(
            *(columns.sizes, columns.uids, columns.gids, columns.mtimes, columns.nlinks),
            strict=True,
        )
        for node, (size, uid, gid, mtime, nlink) in enumerate(rows):
            if node in links:
                continue
            compact = (
                mtime == epoch and size < 1 << 32 and uid < limit and gid < limit and nlink < limit
            )
            compacts[node] = compact
            if not compact and slot % SLOTS_A_BLOCK == SLOTS_A_BLOCK - 1:
                slot += 1  # an inode does not cross a block
            if 0 < size <= largest and node not in own:
                nids[node] = slot
                slot += 4 if compact else 5
            else:
                slot = self._place(Node(node), slot)
            if slot > _MAX_NID:
                raise ImageRefused(f"more than {_MAX_NID * SLOT} bytes of names and attributes")
        for node, first in links.items():
            nids[node] = nids[first]
        return -(-slot // SLOTS_A_BLOCK)

    def _place(self, node: Node, slot: int) -> int:
        """Give one of the rarer inodes its number, not before ``slot``; where it ends."""
        size = self.columns.sizes[node]
        if size > erofs.MAX_SIZE:
            self._refuse(node, f"{size} bytes, over {erofs.MAX_SIZE} that a tree image takes")
        head = self._head_size(node, size)
        whole, tail = self._data_size(node, self.columns.modes[node])
        if tail and head + tail > BLOCK:
            whole, tail = whole + 1, 0
        if whole:
            self.blocks[node] = _Blocks(self.data_blocks, whole)
            self.data_blocks += whole
        if tail and (slot * SLOT + head) % BLOCK + tail > BLOCK:
            slot += -slot % SLOTS_A_BLOCK  # an inline tail does not cross a block
        self.nids[node] = slot
        return slot + -(-(head + tail) // SLOT)

    def _refuse(self, node: Node, why: str) -> NoReturn:
        path = self.tree.path(node).decode(errors="backslashreplace")
        raise ImageRefused(f"{path}: {why}")

    def _head_size(self, node: int, size: int) -> int:
        """Bytes of an inode, its attributes and, of a file with content, its chunk."""
        head = erofs.COMPACT.size if self.compact[node] else erofs.EXTENDED.size
        own = len(self.own.get(Node(node), b""))
        if size:
            return head + _FILE_TAIL.size - 4 + own + 4 * erofs.chunks(size)
        return head + (erofs.XATTR_HEADER.size + own if own else 0)

    def _data_size(self, node: Node, mode: int) -> tuple[int, int]:
        """Whole blocks of data, and bytes after them."""
        if stat.S_ISDIR(mode):
            names, _, _ = self._names(node)
            sizes = split(names)
            return len(sizes) - 1, sizes[-1].size
        if stat.S_ISLNK(mode):
            return 0, len(self.tree.target(node))
        return 0, 0

    def _names(self, directory: Node) -> tuple[list[bytes], int, int]:
        """What a directory holds, sorted; where ``.`` and ``..`` are among it."""
        children = self.tree.children(directory)
        names = self.tree.names[children.start : children.stop]
        if not names or names[0] > b"..":
            return [b".", b"..", *names], 0, 1
        own = bisect_left(names, b".")
        names.insert(own, b".")
        above = bisect_left(names, b"..")
        names.insert(above, b"..")
        return names, own, above

    # --- bytes ---------------------------------------------------------------------------

    def write(self, image: BinaryIO, index: BinaryIO) -> None:
        output = _Output(image)
        output.put(erofs.SHARED_AT, erofs.METACOPY)
        flags = erofs.HAS_XATTRS if self.tree.has_xattrs else 0
        size = min(self.tree.total_size, _MAX_U64)
        output.put(erofs.SUMMARY_AT, erofs.SUMMARY.pack(len(self.tree), size, flags))
        self._special(output, ROOT, ROOT, 0)
        columns, links, own = self.columns, self.columns.hardlinks, self.own
        sizes = columns.sizes
        for directory, count in enumerate(columns.count):
            if not count:
                continue
            first = columns.first[directory]
            ordinals = self._ordinals(Node(directory))
            for node, ordinal in zip(range(first, first + count), ordinals, strict=True):
                if node in links:
                    continue
                if 0 < sizes[node] <= erofs.MAX_CHUNK and node not in own:
                    self._file(output, node, directory, ordinal)
                else:
                    self._special(output, Node(node), Node(directory), ordinal)
        end = (self.inode_blocks + self.data_blocks) * BLOCK
        output.put(self.inode_blocks * BLOCK, b"")
        output.flush()
        uuid = output.hasher.digest()[:16]
        self._superblock(image, end, uuid)
        self.index.write(index, uuid)

    def _ordinals(self, directory: Node) -> Sequence[int]:
        """Where the children of a directory stand among its entries."""
        children = self.tree.children(directory)
        if self.tree.names[children.start] > b"..":
            return range(2, len(children) + 2)
        _, *dots = self._names(directory)
        return [at for at in range(len(children) + 2) if at not in dots]

    def _file(self, output: _Output, node: int, directory: int, ordinal: int) -> None:
        """A file with content and no attributes of its own: nearly every entry there is."""
        columns = self.columns
        size, nid, above = columns.sizes[node], self.nids[node], self.nids[directory]
        digest = columns.digests[node * SIZE : node * SIZE + SIZE]
        u = erofs.chunk_bits(size)
        tail = (
            0,
            1,
            erofs.METACOPY_ID,
            16,
            4,
            erofs.REDIRECT_SIZE,
            erofs.REDIRECT,
            _redirect(digest),
        )
        owner = (columns.uids[node], columns.gids[node])
        if self.compact[node]:
            record = _COMPACT_FILE.pack(
                *(erofs.CHUNKED << 1, _FILE_UNITS, columns.modes[node], columns.nlinks[node]),
                *(size, 0, u, above, *owner, 0, *tail, erofs.NULL_BLOCK),
            )
        else:
            seconds, nanoseconds = divmod(columns.mtimes[node], _SECOND)
            record = _EXTENDED_FILE.pack(
                *(
                    erofs.CHUNKED << 1 | 1,
                    _FILE_UNITS,
                    columns.modes[node],
                    0,
                    size,
                    u,
                    above,
                    *owner,
                ),
                *(seconds & _MAX_U64, nanoseconds, columns.nlinks[node], *tail, erofs.NULL_BLOCK),
            )
        output.put(nid * SLOT, record)
        self.index.buckets[digest[0]] += RECORD.pack(digest, size, above, ordinal)

    def _special(self, output: _Output, node: Node, directory: Node, ordinal: int) -> None:
        """Any other inode: the rare shapes, one branch each."""
        tree, mode = self.tree, self.tree.modes[node]
        own = self.own.get(node, b"")
        xattrs = erofs.XATTR_HEADER.pack(0, 0) + own if own else b""
        data, size, layout, u = b"", 0, erofs.PLAIN, 0
        blocks = self.blocks.get(node)
        if stat.S_ISDIR(mode):
            size, data = self._directory(output, node, directory)
        elif stat.S_ISLNK(mode):
            data = tree.target(node)
            size = len(data)
            if blocks:
                self._put_block(output, blocks.first, data)
                data = b""
        elif stat.S_ISREG(mode):
            size = tree.sizes[node]
            if size:
                digest = tree.digest(node)
                layout, u = erofs.CHUNKED, erofs.chunk_bits(size)
                data = b"\xff" * (4 * erofs.chunks(size))
                xattrs = (
                    erofs.XATTR_HEADER.pack(0, 1)
                    + erofs.METACOPY_ID.to_bytes(4, "little")
                    + erofs.REDIRECT_ENTRY.pack(
                        16, 4, erofs.REDIRECT_SIZE, erofs.REDIRECT, _redirect(digest)
                    )
                    + own
                )
                above = self.nids[directory]
                self.index.buckets[digest[0]] += RECORD.pack(digest, size, above, ordinal)
        elif stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            u = erofs.encode_rdev(*tree.rdev(node))
        if not stat.S_ISREG(mode) and data:
            layout = erofs.INLINE
        if blocks:
            u = self.inode_blocks + blocks.first
        inode = self._inode(node, directory, layout, len(xattrs), size, u)
        output.put(self.nids[node] * SLOT, inode + xattrs + data)

    def _inode(
        self, node: Node, directory: Node, layout: int, xattrs: int, size: int, u: int
    ) -> bytes:
        columns, above = self.columns, self.nids[directory]
        units, mode, nlink = erofs.xattr_units(xattrs), columns.modes[node], columns.nlinks[node]
        uid, gid = columns.uids[node], columns.gids[node]
        if self.compact[node]:
            return erofs.COMPACT.pack(
                layout << 1, units, mode, nlink, size, 0, u, above, uid, gid, 0
            )
        seconds, nanoseconds = divmod(columns.mtimes[node], _SECOND)
        time = (seconds & _MAX_U64, nanoseconds)
        return erofs.EXTENDED.pack(
            layout << 1 | 1, units, mode, 0, size, u, above, uid, gid, *time, nlink
        )

    def _directory(self, output: _Output, node: Node, directory: Node) -> tuple[int, bytes]:
        """Write what of a directory's data has blocks; its size, and the rest, for inline."""
        names, own, above = self._names(node)
        children = self.tree.children(node)
        nids = self.nids[children.start : children.stop]
        types = bytearray(self.types[children.start : children.stop])
        for at, dot in ((own, node), (above, directory)):
            nids.insert(at, self.nids[dot])
            types.insert(at, erofs.FILE_TYPES[stat.S_IFDIR])
        blocks = self.blocks.get(node, _Blocks(0, 0))
        tail, size = b"", 0
        for number, (start, end, length) in enumerate(split(names)):
            data = dirents(names[start:end], nids[start:end], types[start:end])
            size = number * BLOCK + length
            if number < blocks.whole:
                self._put_block(output, blocks.first + number, data)
            else:
                tail = data
        return size, tail

    def _put_block(self, output: _Output, number: int, data: bytes) -> None:
        output.put_aside((self.inode_blocks + number) * BLOCK, data.ljust(BLOCK, b"\0"))

    def _superblock(self, image: BinaryIO, end: int, uuid: bytes) -> None:
        """Written last, over the zeros that stood there: now all of it is known."""
        seconds, nanoseconds = divmod(self.epoch, _SECOND)
        inodes = len(self.tree) - len(self.columns.hardlinks)
        fields = (
            *(erofs.COMPAT, erofs.BLOCK_BITS, 0, erofs.ROOT_NID),
            *(inodes, seconds & _MAX_U64, nanoseconds, end // BLOCK, 0, 0),
            *(uuid, VOLUME, erofs.INCOMPAT_CHUNKED),
        )
        image.seek(erofs.SHARED_AT)
        rest = image.read(BLOCK - erofs.SHARED_AT)
        checksum = erofs.superblock_checksum(erofs.SUPER.pack(erofs.MAGIC, 0, *fields) + rest)
        image.seek(erofs.SUPER_AT)
        image.write(erofs.SUPER.pack(erofs.MAGIC, checksum, *fields))


def _redirect(digest: bytes) -> bytes:
    """Where overlayfs finds the blob, from the root of a data-only layer."""
    digits = digest.hex().encode()
    return b"/%c/%c/%b" % (digits[0], digits[1], digits)


def _xattr(name: bytes, value: bytes) -> bytes:
    """One packed attribute.

    DANGER: `trusted.overlay.*` from a list would redirect a file to any blob. Lists that name
    others than these two are refused; this is where it would matter.
    """
    if name.startswith(b"user."):
        index, rest = 1, name[5:]
    elif name == b"security.capability":
        index, rest = 6, name[9:]
    else:
        raise ImageRefused(f"an attribute that no list may name: {name.decode('ascii', 'replace')}")
    if len(value) > erofs.MAX_XATTR_VALUE:
        raise ImageRefused(f"an attribute of {len(value)} bytes, over {erofs.MAX_XATTR_VALUE}")
    return _packed(index, rest, value)


def _packed(index: int, rest: bytes, value: bytes) -> bytes:
    entry = erofs.XATTR_ENTRY.pack(len(rest), index, len(value)) + rest + value
    return entry + bytes(-len(entry) % 4)
