"""What a mount of the overlay engine shows: what was asked for, and which lists.

Written down beside the mount, so that a daemon that takes over shows the very same tree, whatever
the store says by then.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from aysfs.cache.list_key import OWN, ListKey
from aysfs.mount.options import MountOptions, from_values


@dataclass(frozen=True)
class ShownList:
    """One list, whose image is in the cache under its key."""

    source: str
    sha256: str
    mtime_ns: int
    base: str  # the path of the list that the mount's root shows
    origin: str = field(default=OWN, compare=False)
    """Where the image comes from: the list is the same wherever that is."""

    @property
    def key(self) -> ListKey:
        """By which the cache knows its image."""
        return ListKey(self.sha256, self.mtime_ns)


@dataclass(frozen=True)
class Plan:
    """A mount whose lists are compiled."""

    options: MountOptions
    lists: tuple[ShownList, ...]
    mount_namespace: str  # in which it was asked for, as /proc/self/ns/mnt names it
    clashes: int = 0  # paths that the lists show differently
    lost: tuple[str, ...] = ()  # devices of trees here whose daemons died; they may be held

    def to_values(self) -> dict[str, Any]:
        """Plain values; ``plan_from`` takes them back."""
        return asdict(self)


def plan_from(values: dict[str, Any]) -> Plan:
    """What ``to_values`` gave. KeyError or TypeError when it is something else."""
    lists = tuple(ShownList(**one) for one in values["lists"])
    options = from_values(values["options"])
    return Plan(options, lists, values["mount_namespace"], values["clashes"], tuple(values["lost"]))
