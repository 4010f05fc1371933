"""A tree in columns: a million entries in about 130 bytes each, no object an entry.

Serves the engines, ``ls``, ``stat``, ``cat``, ``fetch`` and ``unpack``. Owns no file and
does no I/O. Nodes are numbered breadth first, so the children of a directory are one
contiguous run of nodes sorted by name: a lookup is a bisection, a listing a slice.

    node   0     1    2    3        4         5
    name   ""    bin  etc  README   redis-cli redis-server
    first  1     4    6    .        .         .
    count  3     2    0    .        .         .
"""

import stat
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from aysfs.chunks import Chunks, parse_chunks
from aysfs.digest import SIZE, ZERO, Digest
from aysfs.flist.entry import Entry, Ext, Kind
from aysfs.tree.view import ROOT, Attributes, Listed, Node, TreeView

FORMATS = {
    Kind.SOCKET: stat.S_IFSOCK,
    Kind.SYMLINK: stat.S_IFLNK,
    Kind.REGULAR: stat.S_IFREG,
    Kind.BLOCK: stat.S_IFBLK,
    Kind.DIRECTORY: stat.S_IFDIR,
    Kind.CHARACTER: stat.S_IFCHR,
    Kind.FIFO: stat.S_IFIFO,
}
KINDS = {value: key for key, value in FORMATS.items()}


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns, one value a node, as ``TreeBuilder`` computes them."""

    names: list[bytes]
    parents: "array[int]"
    modes: "array[int]"  # st_mode: format and permission bits
    uids: "array[int]"
    gids: "array[int]"
    sizes: "array[int]"
    mtimes: "array[int]"  # nanoseconds
    digests: bytes  # 16 bytes a node
    first: "array[int]"  # the first child of a directory
    count: "array[int]"  # children of a directory
    nlinks: "array[int]"
    exts: Mapping[Node, Ext]  # only nodes whose entry has ext pairs
    hardlinks: Mapping[Node, Node]  # other names -> the node that carries the inode


class Tree(TreeView):
    """Names, attributes and digests below one root. Immutable."""

    def __init__(self, columns: Columns, base: bytes) -> None:
        self.columns = columns
        self.base = base
        self.names = columns.names
        self.modes = columns.modes
        self.sizes = columns.sizes
        self.has_xattrs = any(
            key.startswith(b"xattr.") for ext in columns.exts.values() for key, _ in ext
        )
        self.total_size = sum(columns.sizes)
        self.end = len(columns.names)

    def __len__(self) -> int:
        return len(self.names)

    def lookup(self, directory: Node, name: bytes) -> Node | None:
        low = self.columns.first[directory]
        high = low + self.columns.count[directory]
        node = bisect_left(self.names, name, low, high)
        return Node(node) if node < high and self.names[node] == name else None

    def children(self, directory: Node) -> range:
        """The nodes in a directory, in name order; empty for anything else."""
        low = self.columns.first[directory]
        return range(low, low + self.columns.count[directory])

    def listing(self, directory: Node, start: int = 0) -> Iterator[Listed]:
        names = self.names
        for at, node in enumerate(self.children(directory)[start:], start + 1):
            yield Listed(names[node], Node(node), at)

    def parent(self, node: Node) -> Node:
        return Node(self.columns.parents[node])

    def inode(self, node: Node) -> Node:
        return self.columns.hardlinks.get(node, node)

    def attributes(self, node: Node) -> Attributes:
        columns = self.columns
        node = columns.hardlinks.get(node, node)
        mode = columns.modes[node]
        return Attributes(
            mode,
            columns.uids[node],
            columns.gids[node],
            len(self._ext(node, b"target") or b"") if stat.S_ISLNK(mode) else columns.sizes[node],
            columns.mtimes[node],
            columns.nlinks[node],
        )

    def digest(self, node: Node) -> Digest:
        return Digest(self.columns.digests[node * SIZE : node * SIZE + SIZE])

    def is_regular(self, node: Node) -> bool:
        return stat.S_ISREG(self.modes[node])

    def is_directory(self, node: Node) -> bool:
        return stat.S_ISDIR(self.modes[node])

    def entry(self, node: Node) -> Entry:
        """The node as the entry it came from, its path as in the list."""
        column = self.columns
        mode = column.modes[node]
        return Entry(
            path=self.list_path(node),
            kind=KINDS[stat.S_IFMT(mode)],
            mode=stat.S_IMODE(mode),
            uid=column.uids[node],
            gid=column.gids[node],
            size=column.sizes[node],
            digest=self.digest(node) if stat.S_ISREG(mode) else ZERO,
            mtime_ns=column.mtimes[node],
            ext=column.exts.get(node, ()),
        )

    def target(self, node: Node) -> bytes:
        return self._ext(node, b"target") or b""

    def rdev(self, node: Node) -> tuple[int, int]:
        value = self._ext(node, b"rdev")
        if value is None:
            return (0, 0)
        major, _, minor = value.partition(b",")
        return int(major), int(minor)

    def xattrs(self, node: Node) -> dict[bytes, bytes]:
        ext = self.columns.exts.get(self.inode(node), ())
        return {key[6:]: value for key, value in ext if key.startswith(b"xattr.")}

    def chunks(self, node: Node) -> Chunks | None:
        node = self.inode(node)
        value = self._ext(node, b"chunks")
        found = parse_chunks(value) if value is not None else None
        return found if found is not None and found.are_used(self.sizes[node]) else None

    def _ext(self, node: Node, wanted: bytes) -> bytes | None:
        for key, value in self.columns.exts.get(node, ()):
            if key == wanted:
                return value
        return None

    def path(self, node: Node) -> bytes:
        parts = []
        while node != ROOT:
            parts.append(self.names[node])
            node = self.parent(node)
        return b"/" + b"/".join(reversed(parts))

    def walk(self, top: Node = ROOT) -> Iterator[Node]:
        """Every node from ``top`` down, a directory before what it holds, names sorted."""
        todo = [top]
        while todo:
            node = todo.pop()
            yield node
            todo.extend(Node(child) for child in reversed(self.children(node)))
