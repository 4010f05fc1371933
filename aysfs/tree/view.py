"""What engines and commands see of a tree, whether it is in memory or in a mapped image.

A node is a number, below ``end``; ``ROOT`` is the directory shown as the root. Names are a
directory's, everything else is an inode's: the names of a hard link share one.
"""

import stat
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import NamedTuple, NewType, Protocol

from aysfs.chunks import Chunks
from aysfs.digest import Digest
from aysfs.errors import PathMissing
from aysfs.limits import LARGE

Node = NewType("Node", int)
ROOT = Node(0)

_MAX_SYMLINKS = 40  # the kernel's own limit (path_resolution(7))


class Attributes(NamedTuple):
    """What stat(2) says of an inode; ``size`` of a symlink is the length of its target."""

    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    nlink: int


class Listed(NamedTuple):
    """One name in a directory, and where a listing goes on after it."""

    name: bytes
    node: Node
    after: int


class Blob(NamedTuple):
    """A blob of a tree. ``chunks`` by which a large one can be read, where its list has them."""

    digest: Digest
    size: int
    chunks: Chunks | None = None


class TreeView(Protocol):
    """Names, attributes and digests below one root. Nothing of it ever changes."""

    base: bytes
    """The path in the lists that the root shows, ``b"/"`` for all of them."""
    has_xattrs: bool
    """Whether any entry has extended attributes."""
    total_size: int
    """Bytes of all files."""
    end: int
    """All nodes are below it."""

    @abstractmethod
    def __len__(self) -> int:
        """How many entries there are, the root among them."""

    @abstractmethod
    def lookup(self, directory: Node, name: bytes) -> Node | None:
        """The child of this name, None when there is none or this is no directory."""

    @abstractmethod
    def listing(self, directory: Node, start: int = 0) -> Iterator[Listed]:
        """A directory by name, from its beginning or from some ``after``; else empty."""

    @abstractmethod
    def parent(self, node: Node) -> Node:
        """The directory that holds a node; the root's parent is the root."""

    @abstractmethod
    def inode(self, node: Node) -> Node:
        """The node that carries the inode: hard links share one."""

    @abstractmethod
    def attributes(self, node: Node) -> Attributes:
        """The attributes of a node's inode."""

    @abstractmethod
    def digest(self, node: Node) -> Digest:
        """The digest of a regular file, zero for anything else."""

    @abstractmethod
    def target(self, node: Node) -> bytes:
        """Where a symlink points; empty for anything else."""

    @abstractmethod
    def rdev(self, node: Node) -> tuple[int, int]:
        """Major and minor of a device, (0, 0) for anything else."""

    @abstractmethod
    def xattrs(self, node: Node) -> dict[bytes, bytes]:
        """Extended attributes by full name."""

    @abstractmethod
    def chunks(self, node: Node) -> Chunks | None:
        """What a regular file is read by in parts; None for one that is read whole."""

    @abstractmethod
    def path(self, node: Node) -> bytes:
        """The path below the root, ``b"/"`` for the root itself."""

    def close(self) -> None:
        """Let go of what it is read from. Nothing can be read any more."""
        return

    def list_path(self, node: Node) -> bytes:
        """The path as the list wrote it: the base and the path below it."""
        return self.listed(self.path(node))

    def listed(self, path: bytes) -> bytes:
        """A path below the root as the list wrote it."""
        if self.base == b"/":
            return path
        return self.base if path == b"/" else self.base + path

    def paths(self, top: Node = ROOT) -> Iterator[tuple[bytes, Node]]:
        """Every path and node from ``top`` down, a directory before what it holds, by name."""
        todo = [(self.path(top), top)]
        while todo:
            path, node = todo.pop()
            yield path, node
            above = path if path.endswith(b"/") else path + b"/"
            inside = [(above + one.name, one.node) for one in self.listing(node)]
            todo.extend(reversed(inside))

    def blobs(self) -> Iterator[Blob]:
        """Every blob, once."""
        for _, node, digest, size in self._blobs_below([ROOT]):
            yield Blob(digest, size, self.chunks(node) if size > LARGE else None)

    def blobs_below(self, tops: Sequence[Node]) -> Iterator[tuple[bytes, Digest, int]]:
        """Every blob below some nodes, once: a path of it below the root, its digest and size."""
        return ((path, digest, size) for path, _, digest, size in self._blobs_below(tops))

    def _blobs_below(self, tops: Sequence[Node]) -> Iterator[tuple[bytes, Node, Digest, int]]:
        seen: set[Digest] = set()
        for top in tops:
            for path, node in self.paths(top):
                mode, _, _, size, _, _ = self.attributes(node)
                if not size or not stat.S_ISREG(mode):
                    continue
                inode = self.inode(node)
                digest = self.digest(inode)
                if digest not in seen:
                    seen.add(digest)
                    yield path, inode, digest, size

    def resolve(self, path: bytes, *, follow: bool = True) -> Node:
        """The node at a path below the root or, where that is none, a path as in the list.

        Symlinks are followed as the mount would show them: an absolute target counts from
        the root when it lies below the base. ``follow=False`` leaves the last one alone.
        PathMissing when nothing is there.
        """
        return self.locate(path, follow=follow)[0]

    def locate(self, path: bytes, *, follow: bool = True) -> tuple[Node, bytes]:
        """As ``resolve``; also the shortest path below the root, by the name that was asked."""
        found = self._locate(path, follow)
        if found is None and self.base != b"/":
            below = _below(path, self.base)
            if below is not None:
                found = self._locate(below, follow)
        if found is None:
            raise PathMissing(f"no such path in this service: {path.decode(errors='replace')}")
        return found

    def _locate(self, path: bytes, follow: bool) -> tuple[Node, bytes] | None:
        node, links = ROOT, 0
        names: list[bytes] = []
        todo = [part for part in reversed(path.split(b"/")) if part]
        while todo:
            part = todo.pop()
            if part == b".":
                continue
            if part == b"..":
                node = self.parent(node)
                del names[-1:]
                continue
            child = self.lookup(node, part)
            if child is None:
                return None
            target = self.target(child) if todo or follow else b""
            if target:
                links += 1
                if links > _MAX_SYMLINKS:
                    return None
                if target.startswith(b"/"):
                    below = _below(target, self.base)
                    if below is None:
                        return None
                    node, target, names = ROOT, below, []
                todo.extend(part for part in reversed(target.split(b"/")) if part)
            else:
                node = child
                names.append(part)
        return node, b"/" + b"/".join(names)

    def is_regular(self, node: Node) -> bool:
        return stat.S_ISREG(self.attributes(node).mode)

    def is_directory(self, node: Node) -> bool:
        return stat.S_ISDIR(self.attributes(node).mode)


def _below(path: bytes, base: bytes) -> bytes | None:
    """What is left of a path below a base, with its leading slash; None when outside."""
    if base == b"/" or path == base:
        return path if base == b"/" else b"/"
    return path[len(base) :] if path.startswith(base + b"/") else None
