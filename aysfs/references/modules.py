"""Which Python module is which blob.

Pure; serves the resolution of references. A module is known by its *stem*: the path of its file
without suffix, or the directory of its ``__init__``. So a name that is looked for in a directory is
one look into a dict, and a directory without ``__init__`` may lie between (a namespace package).
"""

import re
from collections.abc import Iterable, Iterator, Sequence

from aysfs.references.paths import NOTHING
from aysfs.references.python import Import

_MOST_KNOWN = 64
"""Directories of the standard library, and as many of installed packages, that are known."""
_NEAREST = 8
"""Of either that many, those nearest to a module, are where it may import from."""
_MOST_PARTS = 32
"""Parts of a module's name."""

_STANDARD = re.compile(rb"/(?:(?:python|pypy)[23]\.\d+t?|lib-dynload)$").search
_VERSION = re.compile(rb"/((?:python|pypy)[23]\.\d+t?)(?:/|$)").search
_PACKAGES = re.compile(rb"/(?:site|dist)-packages$").search
_INTERPRETER = re.compile(rb"(?:lib)?(python3(?:\.\d+)?)[a-z]*(?:\.so[.\d]*)?").fullmatch
_START = (b"encodings", b"encodings/aliases", b"encodings/utf_8", b"site")
"""Stems of what an interpreter imports before it comes to a program."""

_PACKAGE = b"__init__"
_CACHE = b"/__pycache__"
# Which file of a module Python reads: the least of these that is there. Packages come first.
_EXTENSION, _COMPILED, _OPTIMIZED, _SOURCE, _WITHOUT_SOURCE, _NO_PACKAGE = 0, 1, 2, 3, 4, 8


def is_module(name: bytes) -> bool:
    """Whether a file of this name, or of this path, is a module by its name."""
    return name.endswith((b".py", b".pyc", b".so"))


class Modules:
    """The modules of a list, and what is read when one of them is imported."""

    def __init__(self, files: Iterable[tuple[bytes, int]]) -> None:
        """Of paths of files for which ``is_module`` holds, and their numbers."""
        self._read: dict[bytes, int] = {}  # stem -> what is read
        self._compiled: dict[bytes, list[int]] = {}  # path of a source -> what is read in its place
        self._packages: set[bytes] = set()  # directories with an __init__
        self._roots: dict[bytes, bytes] = {}  # directory -> root
        self._searched: dict[bytes, tuple[bytes, ...]] = {}  # root -> where to look
        directories = self._add(files)
        self._standard: list[bytes] = []
        self._installed: list[bytes] = []
        for root in dict.fromkeys(map(self._root, directories)):
            if _STANDARD(root):
                self._standard.append(root)
            elif _PACKAGES(root):
                self._installed.append(root)
        del self._standard[_MOST_KNOWN:], self._installed[_MOST_KNOWN:]

    def _add(self, files: Iterable[tuple[bytes, int]]) -> Iterable[bytes]:
        """Take all files; the directories that have modules, each once, in order."""
        directories: dict[bytes, None] = {}
        ranks: dict[bytes, int] = {}  # stem -> of what is read
        for path, number in files:
            directory, _, name = path.rpartition(b"/")
            short, _, tag = name.partition(b".")
            rank = _SOURCE
            if name.endswith(b".so"):
                rank = _EXTENSION
            elif name.endswith(b".pyc"):
                rank = _WITHOUT_SOURCE
                if directory.endswith(_CACHE):
                    directory = directory[: -len(_CACHE)]
                    rank = _OPTIMIZED if b".opt-" in tag else _COMPILED
            directories[directory] = None
            if rank in (_EXTENSION, _COMPILED, _OPTIMIZED) and number != NOTHING:
                source = directory + b"/" + short + b".py"
                self._compiled.setdefault(source, []).append(number)
            if short == _PACKAGE:
                stem = directory
                self._packages.add(directory)
            else:
                stem = directory + b"/" + short
                rank += _NO_PACKAGE
            if rank < ranks.get(stem, 2 * _NO_PACKAGE):
                ranks[stem] = rank
                self._read[stem] = number
        return directories

    def _root(self, directory: bytes) -> bytes:
        """Where the names of a directory's modules begin: the nearest one that is no package."""
        root = self._roots.get(directory)
        if root is None:
            root = directory
            while root and root in self._packages:
                root = root.rpartition(b"/")[0]
            self._roots[directory] = root
        return root

    def in_place_of(self, source: bytes) -> Sequence[int]:
        """What is read in place of the source at this path: all variants that are there."""
        return self._compiled.get(source, ())

    def imported(self, found: Iterable[Import], path: bytes) -> Iterator[int]:
        """What is read for these imports of the module at this path, in their order."""
        directory = path.rpartition(b"/")[0]
        anywhere = self._where(self._root(directory))
        for one in found:
            places = anywhere
            if one.level:
                places = (directory if one.level == 1 else _above(directory, one.level - 1),)
            for place in places:
                numbers = self._named(place, one)
                if numbers:
                    yield from (number for number in numbers if number != NOTHING)
                    break

    def _named(self, place: bytes, one: Import) -> list[int]:
        """What of an import is in that place: the packages on the way, the module, its names."""
        found = []
        stem = place
        if one.module:
            for part in one.module.split(b".", _MOST_PARTS)[:_MOST_PARTS]:
                stem += b"/" + part
                number = self._read.get(stem)
                if number is not None:
                    found.append(number)
        if one.names:
            stem += b"/"
            for name in one.names:
                number = self._read.get(stem + name)
                if number is not None:
                    found.append(number)
        return found

    def _where(self, root: bytes) -> tuple[bytes, ...]:
        """Where modules below a root look for others, in the order in which Python does."""
        found = self._searched.get(root)
        if found is None:
            standard = _nearest(root, self._standard)
            installed = _nearest(root, self._installed)
            first = [*standard, root] if _PACKAGES(root) else [root, *standard]
            found = tuple(dict.fromkeys([*first, *installed]))
            self._searched[root] = found
        return found

    def read_at_start(self, path: bytes) -> list[int]:
        """What an interpreter at this path reads of its own accord; nothing if it is none."""
        directory, _, name = path.rpartition(b"/")
        interpreter = _INTERPRETER(name)
        if interpreter is None:
            return []
        version = interpreter[1]
        roots = [root for root in self._standard if root.rpartition(b"/")[2].startswith(version)]
        for root in _nearest(directory, roots):
            stems = (self._read.get(root + b"/" + stem) for stem in _START)
            found = [number for number in stems if number is not None and number != NOTHING]
            if found:
                return found
        return []


def _above(directory: bytes, levels: int) -> bytes:
    for _ in range(levels):
        directory = directory.rpartition(b"/")[0]
    return directory


def _nearest(place: bytes, directories: list[bytes]) -> list[bytes]:
    """Those of the place's own version of Python first, then by the steps from one to the other."""
    parts = place.split(b"/")
    version = _VERSION(place)

    def far(one: bytes) -> tuple[bool, int]:
        theirs = one.split(b"/")
        other = _VERSION(one)
        same = version is None or other is None or version[1] == other[1]
        return not same, len(theirs) - 2 * _in_common(parts, theirs)

    return sorted(directories, key=far)[:_NEAREST]


def _in_common(one: Sequence[bytes], other: Sequence[bytes]) -> int:
    count = 0
    for mine, theirs in zip(one, other, strict=False):
        if mine != theirs:
            break
        count += 1
    return count
