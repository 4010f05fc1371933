"""What the daemon of the overlay engine is told when it is started."""

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

import aysfs
from aysfs.limits import Limits


@dataclass(frozen=True)
class HostOptions:
    """One daemon serves a cache, in a mount namespace. Paths are absolute."""

    cache: str
    runtime: str
    log: str
    cache_size: int = field(default=Limits().size)
    keep_free: int = field(default=Limits().keep_free)
    log_level: str = "info"
    stays: bool = True  # a while without a mount, for the first to be asked for

    @property
    def folder(self) -> Path:
        """The daemon's own folder. A newer version serves new mounts beside an older one."""
        key = f"{self.cache}\n{mount_namespace()}\n{aysfs.__version__}"
        name = hashlib.sha256(os.fsencode(key)).hexdigest()[:16]
        return Path(self.runtime) / f"host-{name}"

    @property
    def limits(self) -> Limits:
        """The bounds of the cache, until a mount is asked for with others."""
        return Limits(self.cache_size, self.keep_free)

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def host_options_from(text: str) -> HostOptions:
    """What ``to_json`` wrote."""
    return HostOptions(**json.loads(text))


def mount_namespace() -> str:
    """The mount namespace of this process, as the kernel names it."""
    return os.readlink("/proc/self/ns/mnt")
