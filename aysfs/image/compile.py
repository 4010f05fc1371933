"""From a list to its tree: read once, and noted on the way what that tells.

Serves whoever makes an image: the cache of one host, and a push for all of them.
"""

import os
from bisect import insort
from collections.abc import Iterator
from typing import BinaryIO, Literal

from aysfs.flist import FlistReader
from aysfs.flist.entry import Entry
from aysfs.flist.lineage import Resolve, host_id
from aysfs.image.facts import Facts, Owner, slashed
from aysfs.tree import Tree, TreeBuilder


class WatchedReader(FlistReader):
    """A reader that notes where its list's entries are, and whom it names."""

    def __init__(
        self, file: BinaryIO, *, source: str, mtime_ns: int, resolve: Resolve = host_id
    ) -> None:
        self.trunk = b"/"
        """The deepest path that every entry is at, below, or a directory above of."""
        self.above: list[bytes] = []
        """The entries above it, the uppermost first."""
        self._known: dict[tuple[Literal["user", "group"], bytes], int | None] = {}
        self._ask = resolve
        super().__init__(file, source=source, mtime_ns=mtime_ns, resolve=self._resolve)

    def __iter__(self) -> Iterator[Entry]:
        entries = super().__iter__()
        first = next(entries, None)
        if first is None:
            return
        # While all entries are on one path, the trunk is the deepest of them.
        self.trunk, inside, forked = first.path, slashed(first.path), False
        yield first
        for entry in entries:
            path = entry.path
            if not path.startswith(inside):
                if self.trunk.startswith(slashed(path)):
                    insort(self.above, path)
                elif path != self.trunk:
                    self.trunk, forked = os.path.commonpath([self.trunk, path]), True
                    self.above = [one for one in self.above if len(one) < len(self.trunk)]
                    inside = slashed(self.trunk)
            elif not forked:
                self.above.append(self.trunk)
                self.trunk, inside = path, slashed(path)
            yield entry

    @property
    def owners(self) -> tuple[Owner, ...]:
        """The names that were looked up, and what they meant."""
        return tuple(
            Owner(what, os.fsdecode(name), id_) for (what, name), id_ in self._known.items()
        )

    def _resolve(self, what: Literal["user", "group"], name: bytes) -> int | None:
        if (what, name) not in self._known:
            self._known[what, name] = self._ask(what, name)
        return self._known[what, name]


def read_tree(
    file: BinaryIO, source: str, mtime_ns: int, resolve: Resolve = host_id
) -> tuple[Tree, Facts]:
    """The tree of a whole list, read from its first byte. Raises BadList."""
    builder = TreeBuilder(b"/")
    reader = WatchedReader(file, source=source, mtime_ns=mtime_ns, resolve=resolve)
    builder.add(reader, b"/", mtime_ns)
    tree = builder.build()
    facts = Facts(
        base=reader.header.base,
        trunk=reader.trunk,
        above=tuple(reader.above),
        named=builder.named,
        implied=builder.implied,
        owners=reader.owners,
    )
    return tree, facts
