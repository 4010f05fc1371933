"""``python -m aysfs.mount.overlay.compile``: a list into a tree image, in a process of its own.

The daemon has mounts to serve, and compiling a million entries takes seconds of the interpreter and
hundreds of MiB. Reads a ``Work`` as JSON from standard input; writes ``Facts`` as JSON to
standard output, or what is wrong with the list.
"""

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from aysfs.errors import AysfsError, ExitCode
from aysfs.flist import FlistReader
from aysfs.flist.entry import Entry
from aysfs.image import write_image
from aysfs.tree import TreeBuilder


@dataclass(frozen=True)
class Work:
    """A list in a file, where it came from, and where its image and index go."""

    path: str
    source: str
    mtime_ns: int
    image: str
    index: str


@dataclass(frozen=True)
class Facts:
    """What is kept of a list beside its image. Paths are those of the list."""

    base: str | None  # the list's own
    common: str  # the deepest path that all entries share
    entries: int
    size: int


class _Watched(FlistReader):
    """A reader that notes the deepest path common to all entries."""

    common: bytes | None = None

    def __iter__(self) -> Iterator[Entry]:
        for entry in super().__iter__():
            path = entry.path
            if self.common is None:
                self.common = path
            elif not path.startswith(self.common + b"/"):
                self.common = os.path.commonpath([self.common, path])
            yield entry


def compile_list(work: Work) -> Facts:
    """Write the image and the index of a list. BadList or ImageRefused when it has none."""
    builder = TreeBuilder(b"/")
    with open(work.path, "rb") as file:
        reader = _Watched(file, source=work.source, mtime_ns=work.mtime_ns)
        builder.add(reader, b"/", work.mtime_ns)
    tree = builder.build()
    with open(work.image, "w+b") as image, open(work.index, "w+b") as index:
        write_image(tree, image, index)
        for written in (image, index):  # the kernel is to trust them: not torn by a crash
            written.flush()
            os.fsync(written.fileno())
    base = reader.header.base
    return Facts(
        base=None if base is None else os.fsdecode(base),
        common=os.fsdecode(reader.common or b"/"),
        entries=len(tree),
        size=tree.total_size,
    )


def main() -> int:
    """Compile one list."""
    work = Work(**json.loads(sys.stdin.read()))
    try:
        answer = asdict(compile_list(work))
    except AysfsError as error:
        answer = {"failed": str(error), "code": int(error.code), "hint": error.hint}
    except OSError as error:
        where = Path(work.image).parent
        answer = {"failed": f"{where}: {error.strerror}", "code": int(ExitCode.CACHE), "hint": None}
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
