"""A tree image, read where it lies: a million entries without an object for any.

Serves the fuse engine and the commands that look into a service. It trusts no offset, count or
length of the file: every read is checked, a directory is only entered from the one that it
names as its parent, so that the graph has no loops, and damage of any kind is ImageDamaged.
What it cannot see is a file that is cut while it is mapped: images are replaced, never changed.
"""

import mmap
import re
import stat
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from aysfs.chunks import Chunks, parse_chunks
from aysfs.digest import EMPTY, ZERO, Digest
from aysfs.errors import ImageDamaged, PathMissing
from aysfs.flist.rules import MAX_SIZE, MAX_TARGET, MAX_TIME_NS, MIN_TIME_NS
from aysfs.image import erofs
from aysfs.image.erofs import BLOCK, SLOT
from aysfs.image.writer import VOLUME
from aysfs.limits import LARGE
from aysfs.tree import ROOT, Attributes, Listed, Node, TreeView

_REDIRECT_AT = re.compile(rb"/([0-9a-f])/([0-9a-f])/(\1\2[0-9a-f]{30})").fullmatch
_INODES_KEPT = 4096
_BLOCKS_KEPT = 512  # a block of a directory has at most 315 names
_IN_BLOCK = 9  # bits of a place in a listing that count names in a block
_SECOND = 10**9
_DIRECTORY = stat.S_IFDIR >> 12


class _Inode(NamedTuple):
    attributes: Attributes
    layout: int
    size: int  # of its data; that of a directory is nobody else's business
    u: int
    parent: int  # nid of the directory that holds its first name
    xattrs: int  # where its attributes begin
    end: int  # where they end, and an inline tail begins


class _Block(NamedTuple):
    """The names of one block of a directory, sorted, and their nids; ``.`` and ``..`` too."""

    names: list[bytes]
    nids: list[int]


class ImageTree(TreeView):
    """The tree of an image that is held in memory or mapped. Nodes are the image's inodes."""

    def __init__(self, data: bytes | mmap.mmap, *, source: str, base: bytes = b"/") -> None:
        """``base`` is the path in the image that is shown as the root. What lies beside it is
        not shown either, and is counted all the same: that would take a walk.

        ImageDamaged when the data is no image of this version, PathMissing when it has no
        such directory.
        """
        self._data = data
        self._source = source
        self._size = len(data)
        self._inode_at = lru_cache(_INODES_KEPT)(self._read_inode)
        self._blocks_at = lru_cache(_BLOCKS_KEPT)(self._count_blocks)
        self._block_at = lru_cache(_BLOCKS_KEPT)(self._read_block)
        self._top = self._shown = self._superblock()
        self._count, self.total_size, flags = erofs.SUMMARY.unpack_from(data, erofs.SUMMARY_AT)
        self.has_xattrs = bool(flags & erofs.HAS_XATTRS)
        self.end = self._size // SLOT
        self.base = b"/"
        if not self.is_directory(ROOT):
            raise self._damage("its root is no directory")
        if base != b"/":
            self._show(base)

    def _superblock(self) -> int:
        """Check what stands at the beginning; the nid of the root."""
        if self._size < BLOCK or self._size % BLOCK:
            raise self._damage("its length is not that of any")
        found = erofs.SUPER.unpack_from(self._data, erofs.SUPER_AT)
        magic, checksum, compat, bits, slots, root = found[:6]
        blocks, meta, xattr, self.uuid, volume, incompat = found[9:]
        seconds, nanoseconds = found[7:9]
        self._epoch = (seconds - (1 << 64) if seconds >> 63 else seconds) * _SECOND + nanoseconds
        if magic != erofs.MAGIC or volume.rstrip(b"\0") != VOLUME:
            raise self._damage("it is none of this version")
        block = bytearray(self._data[erofs.SUPER_AT : BLOCK])
        block[4:8] = bytes(4)
        if erofs.superblock_checksum(block) != checksum:
            raise self._damage("its superblock was altered")
        features = (compat, incompat, bits, slots, meta, xattr)
        if features != (erofs.COMPAT, erofs.INCOMPAT_CHUNKED, erofs.BLOCK_BITS, 0, 0, 0):
            raise self._damage("it has features that are never written")
        if blocks * BLOCK != self._size:
            raise self._damage(f"it has {self._size} bytes, and should have {blocks * BLOCK}")
        return int(root)

    def _show(self, base: bytes) -> None:
        node = ROOT
        for name in base.strip(b"/").split(b"/"):
            child = self.lookup(node, name)
            if child is None or not self.is_directory(child):
                raise PathMissing(f"no directory {base.decode(errors='replace')} in this list")
            node = child
            self._count -= 1  # what is above the root is not shown
        self._shown, self.base = int(node), base

    def close(self) -> None:
        self._inode_at.cache_clear()
        self._blocks_at.cache_clear()
        self._block_at.cache_clear()
        if isinstance(self._data, mmap.mmap):
            self._data.close()

    def __len__(self) -> int:
        return int(self._count)

    # --- what a view offers ----------------------------------------------------------------

    def lookup(self, directory: Node, name: bytes) -> Node | None:
        nid = directory or self._shown
        blocks = self._blocks_at(nid)
        if not blocks or name in (b".", b".."):
            return None
        number = 0
        if blocks > 1:
            after = bisect_right(range(blocks), name, key=lambda at: self._first_name(nid, at))
            number = max(after - 1, 0)
        block = self._block_at(nid, number)
        at = bisect_left(block.names, name)
        if at == len(block.names) or block.names[at] != name:
            return None
        return self._child(nid, block.nids[at])

    def listing(self, directory: Node, start: int = 0) -> Iterator[Listed]:
        nid = self._nid(directory)
        skip = start & (1 << _IN_BLOCK) - 1
        for number in range(start >> _IN_BLOCK, self._blocks_at(nid)):
            block = self._block_at(nid, number)
            for at in range(skip, len(block.names)):
                if block.names[at] not in (b".", b".."):
                    after = number << _IN_BLOCK | at + 1
                    yield Listed(block.names[at], self._child(nid, block.nids[at]), after)
            skip = 0

    def parent(self, node: Node) -> Node:
        if node == ROOT:
            return ROOT
        return self._node(self._parent_nid(self._nid(node)))

    def inode(self, node: Node) -> Node:
        return node

    def attributes(self, node: Node) -> Attributes:
        return self._inode_at(self._nid(node)).attributes

    def digest(self, node: Node) -> Digest:
        inode = self._inode_at(self._nid(node))
        if not stat.S_ISREG(inode.attributes.mode):
            return ZERO
        if not inode.attributes.size:
            return EMPTY
        redirect = dict(self._entries(inode)).get((4, erofs.REDIRECT), b"")
        found = _REDIRECT_AT(redirect)
        if not found:
            raise self._damage(f"inode {node} has content and names no blob")
        return Digest(bytes.fromhex(found[3].decode()))

    def target(self, node: Node) -> bytes:
        inode = self._inode_at(self._nid(node))
        if not stat.S_ISLNK(inode.attributes.mode):
            return b""
        size = inode.attributes.size
        if not 0 < size <= MAX_TARGET:
            raise self._damage(f"the target of symlink {node} has {size} bytes")
        target = self._data_of(inode, 0)
        if b"\0" in target:
            raise self._damage(f"NUL in the target of symlink {node}")
        return target

    def rdev(self, node: Node) -> tuple[int, int]:
        inode = self._inode_at(self._nid(node))
        mode = inode.attributes.mode
        return erofs.decode_rdev(inode.u) if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else (0, 0)

    def xattrs(self, node: Node) -> dict[bytes, bytes]:
        found = {}
        for (index, name), value in self._entries(self._inode_at(self._nid(node))):
            if index == 1 or (index, name) == (6, b"capability"):
                found[erofs.XATTR_PREFIXES[index] + name] = value
            elif index != 4 or name not in (erofs.REDIRECT, erofs.CHUNKS):
                raise self._damage(f"inode {node} has an attribute that no list names")
        return found

    def chunks(self, node: Node) -> Chunks | None:
        inode = self._inode_at(self._nid(node))
        if not stat.S_ISREG(inode.attributes.mode) or inode.attributes.size <= LARGE:
            return None
        value = dict(self._entries(inode)).get((4, erofs.CHUNKS))
        if value is None:
            return None
        found = parse_chunks(value)
        if found is None or not found.are_used(inode.attributes.size):
            raise self._damage(f"inode {node} names chunks that nobody uses")
        return found

    def path(self, node: Node) -> bytes:
        path = self.list_path(node)
        return path if self.base == b"/" else path[len(self.base) :] or b"/"

    def list_path(self, node: Node) -> bytes:
        parts: list[bytes] = []
        seen = set()
        nid = self._nid(node)
        while nid != self._top:
            if nid in seen:
                raise self._damage("a directory inside itself")
            seen.add(nid)
            above = self._parent_nid(nid)
            parts.append(self._name_in(above, nid))
            nid = above
        return b"/" + b"/".join(reversed(parts))

    def path_of(self, directory: int, ordinal: int) -> bytes:
        """The path in the list of an entry that the digest index speaks of."""
        name, _ = self._entry_of(directory, ordinal)
        return self.list_path(self._node(directory)).rstrip(b"/") + b"/" + name

    def node_of(self, directory: int, ordinal: int) -> Node:
        """The node of an entry that the digest index speaks of."""
        _, nid = self._entry_of(directory, ordinal)
        return self._child(directory, nid)

    def _entry_of(self, directory: int, ordinal: int) -> tuple[bytes, int]:
        left = ordinal
        for number in range(self._blocks_at(directory)):
            block = self._block_at(directory, number)
            if left < len(block.names):
                return block.names[left], block.nids[left]
            left -= len(block.names)
        raise self._damage(f"directory {directory} has no entry {ordinal}")

    # --- nodes and directories ---------------------------------------------------------------

    def _nid(self, node: Node) -> int:
        return node or self._shown

    def _node(self, nid: int) -> Node:
        return ROOT if nid == self._shown else Node(nid)

    def _child(self, directory: int, nid: int) -> Node:
        """An entry's node. A directory must name the one that it was found in as its parent."""
        at = nid * SLOT
        if not erofs.ROOT_NID * SLOT <= at <= self._size - erofs.COMPACT.size:
            raise self._damage(f"no inode {nid}")
        # The upper byte of the mode: what is no directory is not looked into before it must.
        if self._data[at + 5] >> 4 == _DIRECTORY and (
            self._inode_at(nid).parent != directory or nid == directory
        ):
            raise self._damage(f"directory {nid} is found where it does not belong")
        return Node(nid)

    def _parent_nid(self, nid: int) -> int:
        above = self._inode_at(nid).parent
        if not stat.S_ISDIR(self._inode_at(above).attributes.mode):
            raise self._damage(f"inode {nid} is in no directory")
        return above

    def _name_in(self, directory: int, nid: int) -> bytes:
        for number in range(self._blocks_at(directory)):
            block = self._block_at(directory, number)
            for name, one in zip(block.names, block.nids, strict=True):
                if one == nid and name not in (b".", b".."):
                    return name
        raise self._damage(f"inode {nid} is not in its directory")

    def _count_blocks(self, nid: int) -> int:
        """How many blocks a directory has; 0 for anything else."""
        inode = self._inode_at(nid)
        if not stat.S_ISDIR(inode.attributes.mode):
            return 0
        return -(-inode.size // BLOCK)

    # --- records -----------------------------------------------------------------------------

    def _read_inode(self, nid: int) -> _Inode:
        at = nid * SLOT
        if nid < erofs.ROOT_NID or at + erofs.COMPACT.size > self._size:
            raise self._damage(f"no inode {nid}")
        if self._data[at] & 1:
            xattrs = at + erofs.EXTENDED.size
            if xattrs > self._size:
                raise self._damage(f"inode {nid} is cut off")
            (form, units, mode, _, size, u, parent, uid, gid, seconds, nanoseconds, nlink) = (
                erofs.EXTENDED.unpack_from(self._data, at)
            )
            if seconds >> 63:
                seconds -= 1 << 64
            mtime_ns = seconds * _SECOND + nanoseconds
        else:
            xattrs = at + erofs.COMPACT.size
            form, units, mode, nlink, size, _, u, parent, uid, gid, _ = erofs.COMPACT.unpack_from(
                self._data, at
            )
            mtime_ns, nanoseconds = self._epoch, 0
        end = xattrs + erofs.XATTR_HEADER.size + 4 * (units - 1) if units else xattrs
        if (
            form >> 1 not in (erofs.PLAIN, erofs.INLINE, erofs.CHUNKED)
            or mode & 0o170000 not in erofs.FILE_TYPES
            or size > MAX_SIZE
            or nanoseconds >= _SECOND
            or not MIN_TIME_NS <= mtime_ns <= MAX_TIME_NS
            or end > self._size
        ):
            raise self._damage(f"inode {nid} is malformed")
        shown = size
        if stat.S_ISDIR(mode):
            shown = 0
            if size > self._size:
                raise self._damage(f"directory {nid} is larger than the image")
        attributes = Attributes(mode, uid, gid, shown, mtime_ns, nlink)
        return _Inode(attributes, form >> 1, size, u, parent, xattrs, end)

    def _data_of(self, inode: _Inode, number: int) -> bytes:
        """One block of the data of a directory or symlink, the last one as long as it is."""
        length = min(BLOCK, inode.size - number * BLOCK)
        if inode.layout == erofs.INLINE and length == inode.size - number * BLOCK:
            at = inode.end
        elif inode.layout == erofs.CHUNKED:
            raise self._damage("a directory or symlink without data")
        else:
            at = (inode.u + number) * BLOCK
        if at + length > self._size:
            raise self._damage("data beyond its end")
        return self._data[at : at + length]

    def _first_name(self, nid: int, number: int) -> bytes:
        """The first name in a block of a directory, without a look at the rest."""
        data = self._data_of(self._inode_at(nid), number)
        start, end = self._names_at(data), len(data)
        if start > erofs.DIRENT.size:
            end = erofs.DIRENT.unpack_from(data, erofs.DIRENT.size)[1]
        return data[start:end].rstrip(b"\0")

    def _names_at(self, data: bytes) -> int:
        """Where the names in a block of a directory begin, right after its records."""
        start = erofs.DIRENT.unpack_from(data)[1] if len(data) > erofs.DIRENT.size else 0
        if not 0 < start < len(data) or start % erofs.DIRENT.size:
            raise self._damage("a directory block is malformed")
        return int(start)

    def _read_block(self, nid: int, number: int) -> _Block:
        data = self._data_of(self._inode_at(nid), number)
        start = self._names_at(data)
        records = list(erofs.DIRENT.iter_unpack(data[:start]))
        names = data.rstrip(b"\0")
        places = [place for _, place, _ in records]
        places.append(len(names))
        found = [names[place:end] for place, end in pairwise(places)]
        if (
            b"/" in names[start:]
            or b"\0" in names[start:]
            or places[0] != start
            or any(not 0 < len(name) <= erofs.MAX_NAME for name in found)
            or any(one >= other for one, other in pairwise(found))
            or sum(map(len, found)) != len(names) - start
        ):
            raise self._damage(f"block {number} of directory {nid} is malformed")
        return _Block(found, [one for one, _, _ in records])

    def _entries(self, inode: _Inode) -> Iterator[tuple[tuple[int, bytes], bytes]]:
        """Attributes that stand with an inode: index of the prefix and name, and the value."""
        if inode.xattrs == inode.end:
            return
        data = self._data[inode.xattrs : inode.end]
        _, shared = erofs.XATTR_HEADER.unpack_from(data)
        at = erofs.XATTR_HEADER.size + 4 * shared
        if at > len(data):
            raise self._damage("the attributes of an inode are cut off")
        while at < len(data):
            name, index, value = erofs.XATTR_ENTRY.unpack_from(data, at)
            at += erofs.XATTR_ENTRY.size
            end = at + name + value
            if end > len(data):
                raise self._damage("the attributes of an inode are cut off")
            yield (index, data[at : at + name]), data[at + name : end]
            at = end + -end % 4

    def _damage(self, why: str) -> ImageDamaged:
        return ImageDamaged(f"{self._source}: damaged tree image: {why}")
