"""``python -m aysfs.mount.overlay.clashing``: what several compiled lists contradict each other in.

In a process of its own, as the lists may share a million paths. Reads the lists of a plan as JSON
from standard input; writes how many clashes there are, and the first, as JSON to standard output.
"""

import json
import sys
from itertools import islice

from aysfs.mount.overlay.named import open_image
from aysfs.mount.overlay.plan import Compiled
from aysfs.tree.clashes import find_clashes

TOLD = 100
"""Clashes that are told one by one."""


def main() -> int:
    """Compare the lists of one plan."""
    lists = [Compiled(**one) for one in json.loads(sys.stdin.read())]
    trees = [open_image(one) for one in lists]
    clashes = find_clashes(trees, [one.source for one in lists])
    told = [
        (clash.path.decode(errors="backslashreplace"), clash.winner, clash.loser)
        for clash in islice(clashes, TOLD)
    ]
    print(json.dumps({"told": told, "count": len(told) + sum(1 for _ in clashes)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
