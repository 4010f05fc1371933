"""Who still uses a tree that is not mounted any more: containers, shells, open files."""

import os
import re
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from aysfs.kernel.table import device_of, kernel_mounts

_PROC = Path("/proc")
_MAPPED = re.compile(r"^\S+ \S+ \S+ ([0-9a-f]+):([0-9a-f]+) ", re.MULTILINE)


class Holder(NamedTuple):
    """A process that uses a file system. ``how``: cwd, root, file, mapping or mount."""

    device: str
    pid: int
    name: str
    how: str


def holders(devices: Collection[str]) -> list[Holder]:
    """The processes that use file systems of these devices (``major:minor``), once each.

    Of processes that share a mount namespace with such a mount in it, the first is told. Looks
    at every process of this host: some milliseconds. What may not be looked at is left out.
    """
    found = []
    namespaces: set[str] = set()
    for folder in sorted(_PROC.glob("[0-9]*"), key=lambda one: int(one.name)):
        with suppress(OSError):  # it ended, or it is not ours to look at
            held = next((one for one in _held(folder, namespaces) if one[0] in devices), None)
            if held is not None:
                name = (folder / "comm").read_text(errors="replace").strip()
                found.append(Holder(held[0], int(folder.name), name, held[1]))
    return found


def _held(process: Path, namespaces: set[str]) -> Iterator[tuple[str, str]]:
    """Devices that a process uses, and how."""
    for how in ("root", "cwd"):
        with suppress(OSError):
            yield device_of(process / how), how
    for descriptor in os.listdir(process / "fd"):
        with suppress(OSError):
            yield device_of(process / "fd" / descriptor), "file"
    for major, minor in set(_MAPPED.findall((process / "maps").read_text(errors="replace"))):
        yield f"{int(major, 16)}:{int(minor, 16)}", "mapping"
    namespace = os.readlink(process / "ns/mnt")
    if namespace not in namespaces:
        namespaces.add(namespace)
        for mount in kernel_mounts(process.name):
            yield mount.device, "mount"
