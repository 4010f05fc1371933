"""What is known of a list that its image does not say: where its entries are, and whom it names.

Serves whoever keeps an image, which has these beside it, and whoever shows one.
"""

import os
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple


class Owner(NamedTuple):
    """A name in a lineage list and what it meant on this host, None when it is unknown."""

    what: Literal["user", "group"]
    name: str
    id: int | None


class Facts(NamedTuple):
    """What is known of a list that its image does not say. Paths are those of the list."""

    base: bytes | None
    """The base that the list names."""
    trunk: bytes
    """The deepest path that every entry is at, below, or a directory above of."""
    above: tuple[bytes, ...]
    """The entries above the trunk, the uppermost first."""
    named: int
    """Entries that a line names."""
    implied: int
    """Directories below ``/`` that no line names."""
    owners: tuple[Owner, ...] = ()

    def to_values(self) -> dict[str, Any]:
        """Plain values for JSON; ``facts_from`` takes them back."""
        return self._asdict() | {
            "base": None if self.base is None else os.fsdecode(self.base),
            "trunk": os.fsdecode(self.trunk),
            "above": [os.fsdecode(one) for one in self.above],
        }

    @property
    def common(self) -> bytes:
        """The deepest path that every entry is at or below."""
        return self.above[0] if self.above else self.trunk

    def outside(self, base: bytes) -> int | None:
        """Entries that are not at or below a base; None when they were not counted."""
        if base != self.trunk and not self.trunk.startswith(slashed(base)):
            return None
        return sum(len(one) < len(base) for one in self.above)


def slashed(directory: bytes) -> bytes:
    """What the paths below a directory begin with."""
    return directory.rstrip(b"/") + b"/"


def facts_from(values: Mapping[str, Any]) -> Facts:
    """What ``to_values`` gave. ValueError, LookupError or TypeError when it is something else."""
    return Facts(
        base=None if values["base"] is None else os.fsencode(values["base"]),
        trunk=os.fsencode(values["trunk"]),
        above=tuple(os.fsencode(one) for one in values["above"]),
        named=int(values["named"]),
        implied=int(values["implied"]),
        owners=tuple(Owner(*one) for one in values["owners"]),
    )
