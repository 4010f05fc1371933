"""Bounds that several floors share, and their defaults."""

from typing import NamedTuple

DEADLINE = 60.0
"""Seconds without progress after which a fetch has failed."""


class Limits(NamedTuple):
    """Bounds of a cache in bytes: its own size, and what it must leave free on the disk."""

    size: int = 20 << 30
    keep_free: int = 512 << 20
