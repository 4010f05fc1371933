"""``python -m aysfs.mount.overlay.compile``: a list into a tree image, in a process of its own.

The daemon has mounts to serve, and compiling a million entries takes seconds of the interpreter and
hundreds of MiB. Reads a ``Work`` as JSON from standard input; writes to standard output, as JSON,
nothing or what is wrong.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from aysfs.cache.compile import compile_list
from aysfs.cache.images import ImageCache
from aysfs.cache.list_key import ListKey
from aysfs.errors import AysfsError


@dataclass(frozen=True)
class Work:
    """A list in a file, where it came from, and the cache that its image goes into."""

    cache: str
    path: str
    source: str
    sha256: str
    mtime_ns: int


def main() -> int:
    """Compile one list."""
    work = Work(**json.loads(sys.stdin.read()))
    answer: dict[str, object] = {}
    try:
        with open(work.path, "rb") as file:
            images = ImageCache(Path(work.cache))
            compile_list(images, ListKey(work.sha256, work.mtime_ns), file, work.source).close()
    except AysfsError as error:
        answer = {"failed": str(error), "code": int(error.code), "hint": error.hint}
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
