"""Where the loader finds what an ELF file names, and the shell what a script does.

Pure; serves the resolution of references. The loader's configuration is not read: a library that
is neither where the file says nor beside it is any of its name.
"""

from collections.abc import Iterator

from aysfs.references.elf import Elf
from aysfs.references.paths import Paths
from aysfs.references.script import Interpreter


def linked(elf: Elf, path: bytes, paths: Paths) -> Iterator[int]:
    """The loader of the file at this path, then its libraries."""
    if elf.interpreter is not None:
        loader = paths.find(elf.interpreter)
        if loader is None:
            loader = paths.library(elf.interpreter.rpartition(b"/")[2])
        if loader is not None:
            yield loader
    here = path.rpartition(b"/")[0]
    search = [_expanded(one, here) for one in elf.search]
    search.append(here)
    for name in elf.needed:
        number = _library(name, search, paths)
        if number is not None:
            yield number


def run_by(interpreter: Interpreter, paths: Paths) -> int | None:
    """The program that runs a script."""
    number = None if interpreter.searched else paths.find(interpreter.program)
    if number is not None:
        return number
    return paths.program(interpreter.program.rpartition(b"/")[2])


def _expanded(directory: bytes, here: bytes) -> bytes:
    return directory.replace(b"$ORIGIN", here, 1).replace(b"${ORIGIN}", here, 1)


def _library(name: bytes, search: list[bytes], paths: Paths) -> int | None:
    if b"/" in name:
        return paths.find(name)
    for directory in search:
        number = paths.find(directory + b"/" + name)
        if number is not None:
            return number
    return paths.library(name)
