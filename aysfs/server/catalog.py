"""What the lists of a served store say, for people who look: trees and their sizes.

Serves the page. Owns a few trees that were looked at lately, and the size of every list that was
read. A list is read again only when it has changed.
"""

import os
import stat
from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple

import trio

from aysfs.digest import Digest
from aysfs.errors import BadList, ListMissing
from aysfs.flist.text import FlistReader
from aysfs.names import ServiceName
from aysfs.store.protocol import OpenList, Store
from aysfs.tree import Node, Tree
from aysfs.tree.build import TreeBuilder, choose_base

TREES = 8
FOUND = 200  # of a search that are shown

_FACTS = 10_000


class Facts(NamedTuple):
    """A list in numbers. ``entries`` is None where it cannot be read, or was not yet."""

    name: ServiceName
    mtime_ns: int = 0
    entries: int | None = None
    size: int = 0
    why: str = ""


class Hit(NamedTuple):
    """A path that a search found."""

    name: ServiceName
    path: bytes
    size: int
    digest: Digest


class Catalog:
    """The lists of all namespaces, as they were when somebody looked."""

    def __init__(self) -> None:
        self._trees: OrderedDict[tuple[str, ServiceName], tuple[int, Tree]] = OrderedDict()
        self._facts: OrderedDict[tuple[str, ServiceName], tuple[int, Facts]] = OrderedDict()
        self._one_at_a_time = trio.CapacityLimiter(1)  # reading a list is a second of a core

    async def tree(self, namespace: str, store: Store, name: ServiceName) -> Tree:
        """A list as a tree. ListMissing, BadList or StoreTrouble."""
        opened = await store.open_list(name)
        key = namespace, name
        with opened.file:
            changed = os.fstat(opened.file.fileno()).st_mtime_ns
            known = self._trees.get(key)
            if known is None or known[0] != changed:
                tree = await trio.to_thread.run_sync(_build, opened, limiter=self._one_at_a_time)
                known = changed, tree
            self._trees[key] = known
        self._trees.move_to_end(key)
        if len(self._trees) > TREES:
            self._trees.popitem(last=False)
        return known[1]

    async def facts(
        self, namespace: str, store: Store, name: ServiceName, deadline: float
    ) -> Facts | None:
        """A list in numbers, read now when it is before the deadline. None when it has gone."""
        key = namespace, name
        try:
            with (await store.open_list(name)).file as file:
                changed = os.fstat(file.fileno()).st_mtime_ns
            known = self._facts.get(key)
            if known is not None and known[0] == changed:
                return known[1]
            if trio.current_time() > deadline:
                return Facts(name, changed, why="not read yet")
            tree = await self.tree(namespace, store, name)
            found = Facts(name, changed, len(tree), tree.total_size)
        except ListMissing:
            return None
        except BadList as error:
            found = Facts(name, changed, why=error.reason)
        self._facts[key] = changed, found
        if len(self._facts) > _FACTS:
            self._facts.popitem(last=False)
        return found

    async def search(
        self, namespace: str, store: Store, names: list[ServiceName], words: bytes, deadline: float
    ) -> tuple[list[Hit], bool]:
        """Paths that hold these words, or files of this md5; whether that was all of them."""
        found: list[Hit] = []
        for name in names:
            if trio.current_time() > deadline or len(found) >= FOUND:
                return found, False
            try:
                tree = await self.tree(namespace, store, name)
            except (BadList, ListMissing):
                continue
            room = FOUND - len(found)
            found += await trio.to_thread.run_sync(_search, tree, name, words, room)
        return found, len(found) < FOUND


def _build(opened: OpenList) -> Tree:
    reader = FlistReader(opened.file, source=opened.source, mtime_ns=opened.mtime_ns)
    base = choose_base(reader.header, None, None, (entry.path for entry in reader))
    opened.file.seek(0)
    builder = TreeBuilder(base)
    reader = FlistReader(opened.file, source=opened.source, mtime_ns=opened.mtime_ns)
    builder.add(reader, base, opened.mtime_ns)
    return builder.build()


def _search(tree: Tree, name: ServiceName, words: bytes, room: int) -> list[Hit]:
    found: list[Hit] = []
    for node in _matching(tree, words):
        if len(found) == room:
            break
        digest = tree.digest(node)
        found.append(Hit(name, tree.list_path(node), tree.sizes[node], digest))
    return found


def _matching(tree: Tree, words: bytes) -> Iterator[Node]:
    try:
        digest = bytes.fromhex(words.decode("ascii")) if len(words) == 32 else b""
    except ValueError:
        digest = b""
    whole_path = b"/" in words
    for number in range(len(tree)):
        node = Node(number)
        if digest:
            if tree.digest(node) == digest and stat.S_ISREG(tree.modes[node]):
                yield node
        elif words in (tree.list_path(node) if whole_path else tree.names[node]):
            yield node
