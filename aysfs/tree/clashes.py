"""Where trees that are shown in one place contradict each other; the first named wins.

Serves the overlay engine, whose kernel joins the trees and says nothing. ``TreeBuilder`` finds the
same clashes while it joins lists.
"""

import stat
from collections.abc import Iterator, Sequence

from aysfs.tree.build import Clash
from aysfs.tree.view import ROOT, Node, TreeView

_Place = tuple[int, Node]  # which of the trees, and a node of it


def find_clashes(trees: Sequence[TreeView], sources: Sequence[str]) -> Iterator[Clash]:
    """Every path that two trees show differently, below their roots. Times are nobody's concern.

    Only directories that several trees have are entered.
    """
    todo: list[tuple[bytes, list[_Place]]] = [(b"", [(at, ROOT) for at in range(len(trees))])]
    while todo:
        path, places = todo.pop()
        named: dict[bytes, list[_Place]] = {}
        for at, directory in places:
            for one in trees[at].listing(directory):
                named.setdefault(one.name, []).append((at, one.node))
        for name, found in named.items():
            if len(found) < 2:
                continue
            here = path + b"/" + name
            winner = found[0]
            for loser in found[1:]:
                if _content(trees, winner) != _content(trees, loser):
                    yield Clash(here, sources[winner[0]], sources[loser[0]])
            directories = [(at, node) for at, node in found if trees[at].is_directory(node)]
            if directories[:1] == [winner] and len(directories) > 1:
                todo.append((here, directories))


def _content(trees: Sequence[TreeView], place: _Place) -> tuple[object, ...]:
    tree, node = trees[place[0]], place[1]
    about = tree.attributes(node)
    if stat.S_ISDIR(about.mode):
        return (about.mode, about.uid, about.gid, tree.xattrs(node))
    return (
        about.mode,
        about.size,
        tree.digest(node),
        tree.target(node),
        tree.rdev(node),
        tree.xattrs(node),
    )
