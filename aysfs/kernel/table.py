"""The kernel's mount table, as this process's mount namespace has it."""

import os
import re
from pathlib import Path
from typing import NamedTuple

_ESCAPE = re.compile(r"\\([0-7]{3})")


class KernelMount(NamedTuple):
    """A line of the mount table; ``device`` is ``major:minor``, ``options`` the file system's.

    A device number is another file system's as soon as its own is gone.
    """

    point: str
    device: str
    kind: str
    source: str
    options: str

    def option_list(self) -> list[str]:
        """The options of the file system, one by one and as they were given."""
        return [_plain(one) for one in self.options.split(",")]


def kernel_mounts(process: str = "self") -> list[KernelMount]:
    """Everything mounted in the mount namespace of a process (default: ours), in mount order."""
    found = []
    path = f"/proc/{process}/mountinfo"
    with open(path, encoding="utf-8", errors="surrogateescape") as table:
        for line in table:
            left, _, right = line.rstrip("\n").partition(" - ")
            fields, (kind, source, options) = left.split(" "), right.split(" ", 2)
            found.append(KernelMount(_plain(fields[4]), fields[2], kind, _plain(source), options))
    return found


def find_kernel_mount(point: str) -> KernelMount | None:
    """The topmost mount at a point, None when nothing is mounted there."""
    found = [mount for mount in kernel_mounts() if mount.point == point]
    return found[-1] if found else None


def device_of(path: str | Path | int) -> str:
    """The device of what is at a path or open, as the mount table writes it."""
    number = os.stat(path).st_dev
    return f"{os.major(number)}:{os.minor(number)}"


def _plain(text: str) -> str:
    r"""Undo the mount table's ``\040`` for space, tab, newline and backslash."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)
