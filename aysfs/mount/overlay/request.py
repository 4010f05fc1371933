"""What the daemon of the overlay engine is asked to mount, as it travels in JSON."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from aysfs.mount.options import MountOptions, from_values


@dataclass(frozen=True)
class Compiled:
    """One list, compiled: what a mount shows of it."""

    source: str
    sha256: str
    image: str  # path of the tree image
    index: str  # path of its digest index
    base: str  # the path of the list that the mount's root shows


@dataclass(frozen=True)
class Request:
    """A mount whose lists are ready. Written down beside the mount, so that it can be repaired."""

    options: MountOptions
    why: str  # why this engine
    mount_namespace: str  # in which it was asked for, as /proc/self/ns/mnt names it
    lists: tuple[Compiled, ...]
    entries: int
    size: int
    outside: int  # entries outside their base

    def to_values(self) -> dict[str, Any]:
        """Plain values; ``from_values`` takes them back."""
        return asdict(self)

    def to_json(self) -> str:
        return json.dumps(self.to_values())


def request_from(values: dict[str, Any]) -> Request:
    """What ``to_values`` gave. KeyError or TypeError when it is something else."""
    lists = tuple(Compiled(**one) for one in values["lists"])
    return Request(**{**values, "options": from_values(values["options"]), "lists": lists})
