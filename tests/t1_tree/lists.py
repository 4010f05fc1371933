"""Lists in a few words, and the tree that they make."""

import io

import pytest

from aysfs import digest
from aysfs.errors import BadList
from aysfs.flist import FlistReader
from aysfs.tree import Node, Tree, TreeBuilder

LISTED = 5_000_000_000
ZEROS = "0" * 32


def file(path: str, content: str = "x", mode: str = "0644", ext: str = "") -> str:
    data = content.encode()
    return (
        f"{path}|{digest.of(data).hex()}|{len(data)}|0|0|{mode}|2|1.000000000|1.000000000|{ext}\n"
    )


def directory(path: str, mode: str = "0700", uid: int = 0, ext: str = "") -> str:
    return f"{path}|{ZEROS}|0|{uid}|0|{mode}|4|2.000000000|2.000000000|{ext}\n"


def symlink(path: str, target: str) -> str:
    return f"{path}|{ZEROS}|0|0|0|0777|1|1.000000000|1.000000000|target={target}\n"


def lineage_file(path: str, content: str = "x") -> str:
    return f"{path}|{digest.of(content.encode()).hex()}|{len(content)}\n"


def lineage_directory(path: str, mode: str = "755") -> str:
    return f"{path}|{ZEROS}|0|0|0|{mode}|4|1|1|\n"


def reader(*lines: str, source: str = "a.flist", header: str = "#flist 2\n") -> FlistReader:
    data = (header + "".join(lines)).encode()
    return FlistReader(io.BytesIO(data), source=source, mtime_ns=LISTED)


def lineage(*lines: str, source: str = "a.flist") -> FlistReader:
    return reader(*lines, source=source, header="")


def build(*lists: FlistReader, base: bytes = b"/") -> Tree:
    builder = TreeBuilder(base)
    for one in lists:
        builder.add(one, mtime_ns=LISTED)
    return builder.build()


def paths(tree: Tree) -> list[bytes]:
    return [tree.path(node) for node in tree.walk()]


def find(tree: Tree, path: bytes) -> Node:
    return tree.resolve(path, follow=False)


def refusal(*lists: FlistReader) -> BadList:
    with pytest.raises(BadList) as caught:
        build(*lists)
    return caught.value
