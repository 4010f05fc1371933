"""Bounds that several floors share, and their defaults."""

from typing import NamedTuple

SWITCH = 0.0005
"""Seconds after which a thread that computes lets the event loop run. A read beside a prefetch of
everything over 1 Gbit/s took 24, 24 and 75 ms with it, and 33, 33 and 77 with Python's 5 ms.
"""

DEADLINE = 60.0
"""Seconds without progress after which a fetch has failed."""


LARGE = 64 << 20
"""Bytes; a blob above it is *large*: it has chunks, is read by ranges, and is in no pack."""

CHUNK = 256 << 10
"""Bytes of a chunk of a large blob, whose digest of its own lets it be read before the rest."""


class Limits(NamedTuple):
    """Bounds of a cache in bytes: its own size, and what it must leave free on the disk."""

    size: int = 20 << 30
    keep_free: int = 512 << 20
