"""``python -m aysfs.mount.overlay.clashing``: what several compiled lists contradict each other in.

In a process of its own, as the lists may share a million paths. Reads a ``Comparison`` as JSON from
standard input; writes how many clashes there are, and the first, as JSON to standard output.
"""

import json
import sys
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from aysfs.cache.images import ImageCache
from aysfs.mount.overlay.named import open_lists
from aysfs.mount.overlay.plan import ShownList
from aysfs.tree.clashes import find_clashes

TOLD = 100
"""Clashes that are told one by one."""


@dataclass(frozen=True)
class Comparison:
    """Lists whose images are in a cache."""

    cache: str
    lists: tuple[ShownList, ...]


def main() -> int:
    """Compare the lists of one plan."""
    asked: dict[str, Any] = json.loads(sys.stdin.read())
    lists = [ShownList(**one) for one in asked["lists"]]
    opened = open_lists(ImageCache(Path(asked["cache"])), lists)
    if opened is None:
        print(json.dumps({"told": [], "count": 0}))
        return 0
    clashes = find_clashes(opened.trees, [one.source for one in lists])
    told = [
        (clash.path.decode(errors="backslashreplace"), clash.winner, clash.loser)
        for clash in islice(clashes, TOLD)
    ]
    print(json.dumps({"told": told, "count": len(told) + sum(1 for _ in clashes)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
