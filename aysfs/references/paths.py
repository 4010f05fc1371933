"""Which path of a list is which blob, by whole path or by name alone.

Pure; serves the resolution of references. Owns the symlinks of the list, which are followed as the
kernel would. It has nothing but what somebody may refer to: whoever fills it chooses.
"""

import re
from collections.abc import Iterator

NOTHING = -1
"""In place of a blob: the file is there and is empty, so that nothing is read of it."""

_MOST_STEPS = 256
"""Parts of paths, those of symlinks' targets included, that are gone through to find a file."""
_MOST_PATH = 4096

_LIBRARY_NAME = re.compile(rb"\.so(?:\.|$)").search
_LIBRARY_DIRECTORY = re.compile(rb"/lib(?:32|64|x32)?(?:/[^/]*-linux-[^/]*)?$").search
_PROGRAM_DIRECTORY = re.compile(rb"(?:^|/)s?bin$").search


def is_library(name: bytes) -> bool:
    """Whether a file of this name is a shared library."""
    return _LIBRARY_NAME(name) is not None


class Paths:
    """Regular files by path, each with its number, and symlinks. Numbers are the filler's."""

    def __init__(self) -> None:
        self.files: dict[bytes, int] = {}
        self._links: dict[bytes, bytes] = {}
        self._libraries: dict[bytes, bytes] = {}  # name -> path
        self._programs: dict[bytes, bytes] = {}  # name -> path
        self._in_bin: list[bytes] = []

    def add_file(self, path: bytes, number: int) -> None:
        """A regular file. Of two with the same name what is added first counts."""
        self.files[path] = number
        self._add_name(path)

    def add_link(self, path: bytes, target: bytes) -> None:
        """A symlink to what may be there or not."""
        if len(target) <= _MOST_PATH:
            self._links[path] = target
            self._add_name(path)

    def links(self) -> Iterator[bytes]:
        """The paths of all symlinks."""
        return iter(self._links)

    def _add_name(self, path: bytes) -> None:
        directory, _, name = path.rpartition(b"/")
        if is_library(name):
            known = self._libraries.setdefault(name, path).rpartition(b"/")[0]
            if _LIBRARY_DIRECTORY(directory) and not _LIBRARY_DIRECTORY(known):
                self._libraries[name] = path
        if _PROGRAM_DIRECTORY(directory):
            self._programs.setdefault(name, path)
            self._in_bin.append(path)

    def find(self, path: bytes) -> int | None:
        """The number of the file that this path leads to; ``..`` and symlinks are followed."""
        found = self.files.get(path)
        return self._follow(path) if found is None else found

    def _follow(self, path: bytes) -> int | None:
        ahead = path.split(b"/", _MOST_STEPS)[::-1]
        place = b""
        for left in range(_MOST_STEPS, 0, -1):
            if not ahead:
                return self.files.get(place)
            if len(ahead) > left:  # it will not end: a loop of symlinks adds more with each step
                return None
            part = ahead.pop()
            if part == b"..":
                place = place.rpartition(b"/")[0]
            elif part not in (b"", b"."):
                here = place + b"/" + part
                target = self._links.get(here)
                if target is None:
                    place = here
                    continue
                if target.startswith(b"/"):
                    place = b""
                ahead += target.split(b"/", _MOST_STEPS)[::-1]
        return None

    def library(self, name: bytes) -> int | None:
        """Any library of this name: one where the system's are before one that lies elsewhere."""
        path = self._libraries.get(name)
        return None if path is None else self.find(path)

    def program(self, name: bytes) -> int | None:
        """The first program of this name in a directory for programs."""
        path = self._programs.get(name)
        return None if path is None else self.find(path)

    def programs(self) -> Iterator[int]:
        """What the directories for programs have, in the order of the list."""
        for path in self._in_bin:
            number = self.find(path)
            if number is not None and number != NOTHING:
                yield number
