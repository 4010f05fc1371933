"""What a mount is asked for: plain values that travel to the daemon as JSON."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from aysfs.fetch.modes import PROFILE
from aysfs.limits import DEADLINE, Limits
from aysfs.names import ListRef, parse_name


@dataclass(frozen=True)
class MountOptions:
    """Everything a daemon needs to know; paths are absolute."""

    services: tuple[str, ...]
    point: str
    store: tuple[str, ...] = field(repr=False)  # URLs, which may hold a password
    cache: str
    runtime: str
    log: str
    namespace: str = "dedupe"
    source: str = "aysfs"  # what the mount table says is mounted: `mount -a` compares it
    base: str | None = None
    engine: str = "fuse"
    why: str = "asked for"  # why this engine
    # Stores whose images root's kernel may read; those of `store` that are among them count.
    trust_images: tuple[str, ...] = field(default=(), repr=False)
    allow_other: bool = False
    fuse_options: tuple[str, ...] = ()
    prefetch: str = PROFILE  # one of MODES
    prefetch_rate: int | None = None  # bytes a second of that, at most
    deadline: float = DEADLINE
    cache_size: int = field(default=Limits().size)
    keep_free: int = field(default=Limits().keep_free)
    record: bool = False  # which blobs are read, and when: every one is a first access then
    log_level: str = "info"

    @property
    def refs(self) -> list[ListRef]:
        """The lists: full service names, or paths of list files."""
        return [Path(one) if one.startswith("/") else parse_name(one) for one in self.services]

    @property
    def limits(self) -> Limits:
        """The bounds of the cache."""
        return Limits(self.cache_size, self.keep_free)

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def from_json(text: str) -> MountOptions:
    """What ``to_json`` wrote."""
    return from_values(json.loads(text))


def from_values(values: dict[str, Any]) -> MountOptions:
    """Options from plain values, lists for tuples."""
    names = ("services", "store", "fuse_options", "trust_images")
    tuples = {name: tuple(values[name]) for name in names if name in values}
    return MountOptions(**(values | tuples))
