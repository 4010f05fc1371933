"""From entries to a tree: bases, implied parents, clashes, hard links.

Serves whoever reads lists. One builder takes several lists in order; where two of them name
the same path the first wins and the clash is kept for the report. Inside one list the same
path twice, a file that is also a directory, and a hard link to nothing are refused.
"""

import stat
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple, Protocol

from aysfs.digest import SIZE, ZERO, Digest
from aysfs.errors import BadList
from aysfs.flist.entry import Entry, Ext, Header, Kind
from aysfs.tree.tree import FORMATS, Columns, Tree
from aysfs.tree.view import Node

_IMPLIED = 0  # the line of a directory that no line names


class EntrySource(Protocol):
    """A list being read: FlistReader is one."""

    source: str
    line: int
    header: Header

    def __iter__(self) -> Iterator[Entry]: ...


class Clash(NamedTuple):
    """A path that two lists name with different content; ``loser`` is not shown.

    A directory that both name is joined, and has what the winner says of mode, owner and ext.
    """

    path: bytes
    winner: str
    loser: str


def choose_base(
    header: Header, given: bytes | None, mount_point: bytes | None, paths: Iterable[bytes]
) -> bytes:
    """The path of a list that a mount's root shows (docs/format.md, "Base").

    ``given`` wins, then ``#base``; a list with neither shows what lies below the mount
    point when every path does, else everything. ``paths`` is only read in that last case.
    """
    if given is not None or header.base is not None:
        base = given if given is not None else header.base or b"/"
        return b"/" + base.strip(b"/")
    if mount_point is None or mount_point == b"/":
        return b"/"
    below = mount_point + b"/"
    inside = all(path.startswith(below) or path == mount_point for path in paths)
    return mount_point if inside else b"/"


class TreeBuilder:
    """Collects the entries of lists in arrival order, then sorts them into a Tree."""

    def __init__(self, base: bytes = b"/") -> None:
        self.base = base
        self.clashes: list[Clash] = []
        self.outside = 0
        """Entries left out because they lie outside their list's base."""
        self.named = self.implied = 0
        """Entries that a line names, and directories below the root that none does; once built."""
        self._sources: list[str] = []
        self._interned: dict[bytes, bytes] = {}
        self._directories: dict[bytes, int] = {b"": 0}
        self._children: dict[int, list[int]] = {0: []}
        self._exts: dict[int, Ext] = {}
        self._hardlinks: dict[int, bytes] = {}  # node -> path of the first name, below the base
        # What a list says about a directory that one before it made: (node, list) -> line, entry.
        self._named: dict[tuple[int, int], tuple[int, Entry]] = {}
        self._says: dict[int, int] = {}  # directory -> list it is as, when not its maker
        self._hidden: list[int] = []  # directories that lost to another list's file
        self._names: list[bytes] = []
        self._digests = bytearray()
        self._parents = array("I")
        self._modes = array("I")
        self._uids = array("I")
        self._gids = array("I")
        self._sizes = array("Q")
        self._mtimes = array("q")
        self._lines = array("I")
        self._lists = array("I")
        self._append(b"", 0, 0, _implied(0), _IMPLIED)

    def add(self, reader: EntrySource, base: bytes | None = None, mtime_ns: int = 0) -> None:
        """Take every entry of a list that lies below its base (default: the builder's).

        ``mtime_ns`` dates directories that no line names. BadList when the list is wrong.
        """
        base = self.base if base is None else base
        prefix = b"" if base == b"/" else base
        cut = len(prefix)
        inside = prefix + b"/"
        number = len(self._sources)
        self._sources.append(reader.source)
        if number == 0:
            self._mtimes[0] = mtime_ns  # the root is implied until a line names it
        implied = _implied(mtime_ns)
        last_parent, last_node = b"", 0
        directories, children = self._directories, self._children
        for entry in reader:
            path = entry.path
            if not path.startswith(inside) or path == b"/":
                if path == base:
                    self._directory(b"", entry, reader, number, implied)
                else:
                    self.outside += 1
                continue
            relative = path[cut:]
            if entry.kind == Kind.DIRECTORY:
                self._directory(relative, entry, reader, number, implied)
                continue
            parent, _, name = relative.rpartition(b"/")
            if parent != last_parent:
                found = directories.get(parent)
                last_node = found if found is not None else self._imply(parent, implied, number)
                last_parent = parent
            node = self._append(name, last_node, number, entry, reader.line)
            children[last_node].append(node)
            hardlink = entry.hardlink if entry.ext else None
            if hardlink is not None:
                self._hardlinks[node] = hardlink[cut:] if hardlink.startswith(inside) else b""

    def build(self) -> Tree:
        """The tree of everything added. BadList for what only the whole list shows."""
        order, first, count = self._sorted()
        self.implied = sum(self._lines[old] == _IMPLIED for old in order[1:])
        self.named = len(order) - self.implied - (self._lines[0] == _IMPLIED)
        position = array("I", bytes(4 * len(self._names)))
        for new, old in enumerate(order):
            position[old] = new
        nlinks = array("I", [1]) * len(order)
        parents = array("I", [position[self._parents[old]] for old in order])
        modes = array("I", [self._modes[old] for old in order])
        for node, mode in enumerate(modes):
            if stat.S_ISDIR(mode):
                nlinks[node] += 1
                if node:
                    nlinks[parents[node]] += 1
        hardlinks = self._linked(order, nlinks)
        digests = self._digests
        columns = Columns(
            names=[self._names[old] for old in order],
            parents=parents,
            modes=modes,
            uids=array("I", [self._uids[old] for old in order]),
            gids=array("I", [self._gids[old] for old in order]),
            sizes=array("Q", [self._sizes[old] for old in order]),
            mtimes=array("q", [self._mtimes[old] for old in order]),
            digests=b"".join([digests[old * SIZE : old * SIZE + SIZE] for old in order]),
            first=first,
            count=count,
            nlinks=nlinks,
            exts={Node(position[old]): ext for old, ext in self._exts.items() if old in self._kept},
            hardlinks=hardlinks,
        )
        return Tree(columns, self.base)

    def _append(self, name: bytes, parent: int, number: int, entry: Entry, line: int) -> int:
        node = len(self._names)
        self._names.append(self._interned.setdefault(name, name))
        self._parents.append(parent)
        # A Kind equals and hashes as its number.
        self._modes.append(FORMATS[entry.kind] | entry.mode)  # type: ignore[index]
        self._uids.append(entry.uid)
        self._gids.append(entry.gid)
        self._sizes.append(entry.size)
        self._mtimes.append(entry.mtime_ns)
        self._digests += entry.digest
        self._lines.append(line)
        self._lists.append(number)
        if entry.ext:
            self._exts[node] = entry.ext
        return node

    def _imply(self, path: bytes, attributes: Entry, number: int) -> int:
        """The node of a directory, made with its parents where no line named them yet.

        A loop, outermost first, since lists may nest a thousand deep.
        """
        node, end = 0, 0
        if path in self._directories:
            return self._directories[path]
        while end != -1:
            end = path.find(b"/", end + 1)
            part = path if end == -1 else path[:end]
            known = self._directories.get(part)
            if known is None:
                known = self._append(part.rpartition(b"/")[2], node, number, attributes, _IMPLIED)
                self._children[node].append(known)
                self._children[known] = []
                self._directories[part] = known
            node = known
        return node

    def _directory(
        self, path: bytes, entry: Entry, reader: EntrySource, number: int, implied: Entry
    ) -> None:
        """A line that names a directory: it may already stand there, implied or listed."""
        node = self._directories.get(path)
        if node is None:
            parent, _, name = path.rpartition(b"/")
            above = self._imply(parent, implied, number)
            node = self._append(name, above, number, entry, reader.line)
            self._children[above].append(node)
            self._children[node] = []
            self._directories[path] = node
            return
        if entry.kind != Kind.DIRECTORY:
            raise BadList(reader.source, reader.line, "the base of a list must be a directory")
        if self._lists[node] != number:
            self._name_again(node, entry, reader, number)
        elif self._lines[node] == _IMPLIED:
            self._attribute(node, entry, reader.line)
        elif self._attributes(node) != _attributes(entry) or self._mtimes[node] != entry.mtime_ns:
            raise BadList(reader.source, reader.line, f"the same path twice: {_show(entry.path)}")

    def _name_again(self, node: int, entry: Entry, reader: EntrySource, number: int) -> None:
        """A directory that an earlier list made. The first list that names it says how it is."""
        before = self._named.setdefault((node, number), (reader.line, entry))[1]
        if before is not entry:
            if before != entry:
                twice = f"the same path twice: {_show(entry.path)}"
                raise BadList(reader.source, reader.line, twice)
        elif self._lines[node] == _IMPLIED:
            self._attribute(node, entry, reader.line)
            self._says[node] = number
        elif self._attributes(node) != _attributes(entry):
            winner = self._sources[self._says.get(node, self._lists[node])]
            self.clashes.append(Clash(self._path(node), winner, reader.source))

    def _attribute(self, node: int, entry: Entry, line: int) -> None:
        """Give a directory that was implied until now what its line says."""
        self._lines[node] = line
        self._modes[node] = stat.S_IFDIR | entry.mode
        self._uids[node], self._gids[node] = entry.uid, entry.gid
        self._mtimes[node] = entry.mtime_ns
        if entry.ext:
            self._exts[node] = entry.ext

    def _attributes(self, node: int) -> tuple[object, ...]:
        mode = stat.S_IMODE(self._modes[node])
        return (mode, self._uids[node], self._gids[node], self._exts.get(node, ()))

    def _sorted(self) -> tuple[Sequence[int], "array[int]", "array[int]"]:
        """Old nodes in breadth-first order, and where each one's children begin and end."""
        order = array("I", [0])
        first, count = array("I"), array("I")
        children, names = self._children, self._names
        at = 0
        while at < len(order):
            kids = children.get(order[at])
            first.append(len(order))
            if kids:
                kids.sort(key=names.__getitem__)
                before = len(order)
                order.extend(self._settle(kids))
                count.append(len(order) - before)
            else:
                count.append(0)
            at += 1
        self._check_hidden()
        self._kept = set(self._exts) if len(order) == len(names) else set(order)
        return order, first, count

    def _settle(self, kids: list[int]) -> list[int]:
        """Nodes of one directory, sorted by name, with every name once."""
        names = self._names
        if len({names[node] for node in kids}) == len(kids):
            return kids
        return [self._winner(group) for group in self._by_name(kids)]

    def _by_name(self, kids: list[int]) -> Iterator[list[int]]:
        """Sorted nodes in groups of one path, each in the order of the lists."""
        for _, group in groupby(kids, self._names.__getitem__):
            yield sorted(group, key=lambda node: (self._lists[node], node))

    def _winner(self, group: list[int]) -> int:
        """Which of the nodes of one path is shown: the one whose list was named first."""
        self._check(group)
        winner = group[0]
        for loser in group[1:]:
            if stat.S_ISDIR(self._modes[loser]):
                self._hidden.append(loser)
            if self._content(winner) != self._content(loser):
                names = (self._sources[self._lists[node]] for node in (winner, loser))
                self.clashes.append(Clash(self._path(loser), *names))
        return winner

    def _check(self, group: list[int]) -> None:
        """BadList when a list contradicts itself in one path, whatever other lists say."""
        directory = next((node for node in group if stat.S_ISDIR(self._modes[node])), None)
        first: dict[int, int] = {}
        for node in group:
            if node == directory:
                continue
            number, line, reason = self._lists[node], None, "a file that is also a directory"
            if directory is not None:
                line = self._use(directory, number)
            if line is None:
                other = first.setdefault(number, node)
                if self._content(other) == self._content(node):
                    continue
                line, reason = self._lines[other], "the same path twice with different content"
            source, line = self._sources[number], max(line, self._lines[node])
            raise BadList(source, line, f"{reason}: {_show(self._path(node))}")

    def _use(self, directory: int, number: int) -> int | None:
        """The line by which a list makes this path a directory, None when it does not."""
        if (directory, number) in self._named:
            return self._named[directory, number][0]
        if self._lists[directory] == number:
            return _IMPLIED if directory in self._says else self._lines[directory]
        todo = [directory]
        while todo:
            node = todo.pop()
            if self._lists[node] == number or (node, number) in self._named:
                return _IMPLIED
            todo.extend(self._children.get(node, ()))
        return None

    def _check_hidden(self) -> None:
        """What is not shown may not be contradictory either."""
        while self._hidden:
            kids = self._children[self._hidden.pop()]
            kids.sort(key=self._names.__getitem__)
            for group in self._by_name(kids):
                self._check(group)
            self._hidden.extend(node for node in kids if node in self._children)

    def _content(self, node: int) -> tuple[object, ...]:
        digest = bytes(self._digests[node * SIZE : node * SIZE + SIZE])
        return (self._modes[node], digest, self._sizes[node], self._exts.get(node, ()))

    def _path(self, node: int) -> bytes:
        parts = []
        while node:
            parts.append(self._names[node])
            node = self._parents[node]
        return b"/" + b"/".join(reversed(parts))

    def _linked(self, order: Sequence[int], nlinks: "array[int]") -> dict[Node, Node]:
        """Hard links by new node; link counts of the nodes that carry the inodes."""
        if not self._hardlinks:
            return {}
        new = {old: Node(at) for at, old in enumerate(order)}
        wanted = set(self._hardlinks.values())
        by_path = {}
        for old in new:
            if stat.S_ISREG(self._modes[old]):
                path = self._path(old)
                if path in wanted:
                    by_path[path] = old
        links: dict[Node, Node] = {}
        for old, path in self._hardlinks.items():
            if old not in new or not path:
                continue  # not shown, or linked to a file outside the base: a file of its own
            target = by_path.get(path)
            if target is None:
                lost = len(self._sources) > 1
            else:
                lost = self._lists[target] != self._lists[old]
            if lost:
                continue  # its first name lost a clash to another list: a file of its own
            if target is None or target in self._hardlinks or self._differ(old, target):
                source, line = self._sources[self._lists[old]], self._lines[old]
                raise BadList(source, line, f"a hard link to another or no file: {_show(path)}")
            links[new[old]] = new[target]
            nlinks[new[target]] += 1
        for name, target_node in links.items():
            nlinks[name] = nlinks[target_node]
        return links

    def _differ(self, one: int, other: int) -> bool:
        return self._content(one)[:3] != self._content(other)[:3]


def _attributes(entry: Entry) -> tuple[object, ...]:
    """What two lists may differ in about a directory; times are nobody's concern."""
    return (entry.mode, entry.uid, entry.gid, entry.ext)


def _implied(mtime_ns: int) -> Entry:
    """Attributes of a directory that no line names."""
    return Entry(b"", Kind.DIRECTORY, 0o755, 0, 0, 0, Digest(ZERO), mtime_ns)


def _show(path: bytes) -> str:
    return path.decode(errors="backslashreplace")
