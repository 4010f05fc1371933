"""The references between the blobs of one list.

Serves who makes packs. Owns what may be read, what of it is kept, and the order of the answers.
It reads no file: whoever has the blobs hands them in.
"""

import re
from array import array
from collections.abc import Iterable, Iterator
from itertools import chain, islice

from aysfs.digest import Digest
from aysfs.flist.entry import Entry, Kind
from aysfs.limits import LARGE
from aysfs.references.elf import read_elf
from aysfs.references.libraries import linked, run_by
from aysfs.references.modules import Modules, is_module
from aysfs.references.paths import NOTHING, Paths, is_library
from aysfs.references.python import imports
from aysfs.references.script import interpreter

MOST = 255
"""References of one blob that are kept."""
_MOST_SOURCE = 1 << 20
"""Bytes of a Python module that is read; larger ones are tables."""
_MOST_PATHS = 64
"""Paths of one blob whose modules get references of their own."""

Blob = tuple[Digest, int]
"""A digest and a size."""

_NO_PROGRAM = re.compile(
    rb"\.(?:a|c|cc|cfg|conf|cpp|css|csv|dat|gif|gz|h|hpp|html?|ico|ini|jar|jpe?g|js|json|la|map|md"
    rb"|mo|o|pc|pdf|png|po|pyi|rst|svg|tcl|tgz|toml|ts|ttf|txt|whl|woff2?|xml|xz|ya?ml|zip|zst)$"
).search
"""Names that are read as no program, whatever the mode: in old lists every file is executable."""


class References:
    """What the blobs of a list refer to: read each of ``to_read()``, then ask.

    Not all need to be read, and in any order: a blob that was not has no references.
    """

    def __init__(self, entries: Iterable[Entry]) -> None:
        """Of the entries of the whole list, which are read once."""
        self._digests: list[Digest] = []  # by number
        self._numbers: dict[Digest, int] = {}
        self._sizes = array("Q")
        self._paths = Paths()
        self._to_read: dict[int, list[bytes]] = {}  # number -> the paths it is read as
        self._scripts: set[int] = set()  # what may be executed
        for entry in entries:
            if entry.kind == Kind.REGULAR:
                self._add(entry)
            elif entry.kind == Kind.SYMLINK and (target := entry.target) is not None:
                self._paths.add_link(entry.path, target)
        self._modules = Modules(self._module_files())
        self._elf: set[int] = set()
        self._linked: dict[int, tuple[int, ...]] = {}
        self._imported: dict[int, tuple[int, ...]] = {}

    def _add(self, entry: Entry) -> None:
        """Keep a file that may be referred to, or may refer to others."""
        path, size = entry.path, entry.size
        name = path[path.rfind(b"/") + 1 :]
        program = (entry.mode & 0o111 or is_library(name)) and not _NO_PROGRAM(name)
        if size > LARGE or not (program or is_module(name)):
            return
        if size == 0:
            self._paths.add_file(path, NOTHING)
            return
        number = self._numbers.setdefault(entry.digest, len(self._digests))
        if number == len(self._digests):
            self._digests.append(entry.digest)
            self._sizes.append(size)
        self._paths.add_file(path, number)
        source = path.endswith(b".py")
        if path.endswith(b".pyc") or (source and size > _MOST_SOURCE):
            return
        if entry.mode & 0o111:
            self._scripts.add(number)
        paths = self._to_read.setdefault(number, [])
        if len(paths) < (_MOST_PATHS if source else 1):
            paths.append(path)

    def _module_files(self) -> Iterator[tuple[bytes, int]]:
        """Paths of modules, symlinks to them included."""
        for path, number in self._paths.files.items():
            if is_module(path):
                yield path, number
        for path in self._paths.links():
            if is_module(path) and (found := self._paths.find(path)) is not None:
                yield path, found

    def to_read(self) -> list[Blob]:
        """The blobs whose bytes say something, each once, in the order of the list."""
        return [(self._digests[number], self._sizes[number]) for number in self._to_read]

    def read(self, digest: Digest, data: bytes) -> None:
        """Take the bytes of one of ``to_read()``; those of another blob say nothing."""
        number = self._numbers.get(digest)
        paths = None if number is None else self._to_read.get(number)
        if number is None or not paths:
            return
        if elf := read_elf(data):
            self._elf.add(number)
            self._keep(self._linked, number, linked(elf, paths[0], self._paths))
            return
        runs_it = interpreter(data) if number in self._scripts else None
        if runs_it is not None:
            program = run_by(runs_it, self._paths)
            self._keep(self._linked, number, () if program is None else (program,))
        is_python = runs_it is not None and b"python" in runs_it.program
        modules = [path for path in paths if is_python or path.endswith(b".py")]
        if modules:
            found = imports(data)
            for path in modules:
                self._read_module(number, path, tuple(self._modules.imported(found, path)))

    def _read_module(self, number: int, path: bytes, found: tuple[int, ...]) -> None:
        """Keep what the source of a module imports, for all that is read in its place as well."""
        for one in (number, *self._modules.in_place_of(path)):
            self._keep(self._imported, one, found)

    def _keep(self, kept: dict[int, tuple[int, ...]], number: int, found: Iterable[int]) -> None:
        """The first that are found for a blob stay."""
        targets = tuple(islice(dict.fromkeys(one for one in found if one != NOTHING), MOST))
        if targets:
            kept.setdefault(number, targets)

    def _starting(self) -> dict[int, list[int]]:
        """What each Python interpreter reads at its start."""
        found: dict[int, list[int]] = {}
        for path, number in self._paths.files.items():
            if number in self._elf:
                start = self._modules.read_at_start(path)
                if start:
                    found.setdefault(number, start)
        return found

    def _direct(self) -> dict[int, tuple[int, ...]]:
        """All references by number."""
        starting = self._starting()
        found = {}
        for number in range(len(self._digests)):
            targets = dict.fromkeys(
                chain(
                    self._linked.get(number, ()),
                    self._imported.get(number, ()),
                    starting.get(number, ()),
                )
            )
            targets.pop(number, None)
            if targets:
                found[number] = tuple(islice(targets, MOST))
        return found

    def finished(self) -> dict[Digest, tuple[Digest, ...]]:
        """The blobs that each blob refers to itself, in the order in which it will read them.

        At most ``MOST`` of them, each once, and never itself. A blob without any is not a key.
        """
        name = self._digests
        return {
            name[number]: tuple(name[target] for target in targets)
            for number, targets in self._direct().items()
        }

    def likely_start(self, most_blobs: int = 512, most_content: int = 64 << 20) -> list[Digest]:
        """What a start probably reads, in order: the programs, their loaders and libraries.

        Empty when this is more than so many blobs or so many bytes: then nobody knows.
        """
        direct = self._direct()
        programs = (number for number in self._paths.programs() if number in self._elf)
        found: dict[int, None] = {}
        content = 0
        for number in _depth_first(programs, direct):
            found[number] = None
            content += self._sizes[number]
            if len(found) > most_blobs or content > most_content:
                return []
        return [self._digests[number] for number in found]


def _depth_first(starts: Iterable[int], direct: dict[int, tuple[int, ...]]) -> Iterator[int]:
    """All that is reached, each once and before what it refers to."""
    seen: set[int] = set()
    waiting = [iter(starts)]
    while waiting:
        number = next(waiting[-1], None)
        if number is None:
            waiting.pop()
        elif number not in seen:
            seen.add(number)
            yield number
            waiting.append(iter(direct.get(number, ())))
