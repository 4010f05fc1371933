"""By what the cache knows the image of a list. Imports nothing: every command asks for it."""

from typing import NamedTuple

OWN = ""
"""The origin of what was compiled here."""


class ListKey(NamedTuple):
    """A list, as far as its image depends on it: its bytes, and the time of what has none."""

    sha256: str
    mtime_ns: int
