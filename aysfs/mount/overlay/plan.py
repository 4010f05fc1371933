"""What a mount of the overlay engine shows: what was asked for, and its lists, compiled.

Written down beside the mount, so that a daemon that takes over shows the very same tree, whatever
the store says by then.
"""

from dataclasses import asdict, dataclass
from typing import Any

from aysfs.mount.options import MountOptions, from_values


@dataclass(frozen=True)
class Compiled:
    """One list, compiled. ``size`` is in bytes, ``entries`` and ``size`` are the whole list's."""

    source: str
    sha256: str
    image: str  # path of the tree image
    index: str  # path of its digest index
    base: str  # the path of the list that the mount's root shows
    entries: int
    size: int


@dataclass(frozen=True)
class Plan:
    """A mount whose lists are ready."""

    options: MountOptions
    lists: tuple[Compiled, ...]
    mount_namespace: str  # in which it was asked for, as /proc/self/ns/mnt names it
    clashes: int = 0  # paths that the lists show differently

    def to_values(self) -> dict[str, Any]:
        """Plain values; ``plan_from`` takes them back."""
        return asdict(self)

    @property
    def entries(self) -> int:
        """Entries of all lists."""
        return sum(one.entries for one in self.lists)

    @property
    def size(self) -> int:
        """Bytes of all files of all lists."""
        return sum(one.size for one in self.lists)


def plan_from(values: dict[str, Any]) -> Plan:
    """What ``to_values`` gave. KeyError or TypeError when it is something else."""
    lists = tuple(Compiled(**one) for one in values["lists"])
    options = from_values(values["options"])
    return Plan(options, lists, values["mount_namespace"], values["clashes"])
