"""What went into a build, kept beside its list, so that nothing is built twice.

Serves builds and ``aysfs log``. A record is JSON (docs/format.md, "Records"); one that cannot
be read is no record, and the service is built again.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from aysfs.names import ServiceName

VERSION = 1


@dataclass(frozen=True)
class Inputs:
    """All that decides what a build gives. Equal inputs are not built again."""

    template: str  # sha256 of the template's folder
    image: str  # id of the image
    revisions: Mapping[str, str] = field(default_factory=dict)  # repository and branch -> commit
    dependencies: Mapping[str, str] = field(default_factory=dict)  # service -> sha256 of its list
    epoch: int | None = None  # SOURCE_DATE_EPOCH

    def digest(self) -> str:
        """A sha256 over all of it."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Record:
    """One build that was published."""

    service: str
    inputs: Inputs
    list_sha256: str
    entries: int
    size: int  # bytes of all regular files
    image_name: str
    server: str
    started: float  # seconds since the epoch
    seconds: float
    verified: bool = False  # before it was published
    version: int = VERSION

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), indent=1, sort_keys=True).encode() + b"\n"


def from_json(data: bytes) -> Record | None:
    """The record, or None for what is none of this version."""
    try:
        fields = json.loads(data)
        if fields.pop("version") != VERSION:
            return None
        inputs = Inputs(**fields.pop("inputs"))
        return Record(inputs=inputs, **fields)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def record_note(name: ServiceName) -> str:
    """Where a service's record is, among the notes of a store."""
    return f"{name}.build"


def log_note(name: ServiceName) -> str:
    """Where the log of the published build is."""
    return f"{name}.log"
