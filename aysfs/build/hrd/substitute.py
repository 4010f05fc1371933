"""``$(name)``: values in the place of names. Serves ``Hrd``.

Owns the bounds: names that need each other stay as they are written, and a small recipe
cannot become a large text.
"""

import re
from collections.abc import Callable

MAX_LENGTH = 1 << 20
MAX_STEPS = 10_000
MAX_DEPTH = 64

_NAME = re.compile(r"\$\(([\w.]*)\)")

Lookup = Callable[[str], str | None]
"""The text of a name before substitution; None when nobody knows it."""


class TooLarge(Exception):
    """A substitution that grows beyond the bounds."""


class Substitution:
    """One substitution: what it may still cost is counted over all that it reaches."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup
        self._steps = 0

    def text(self, text: str, inside: tuple[str, ...] = ()) -> str:
        """The text with each known name replaced; unknown ones stay literal."""

        def replace(match: re.Match[str]) -> str:
            name = match[1].lower()
            self._steps += 1
            if self._steps > MAX_STEPS or len(inside) > MAX_DEPTH:
                raise TooLarge
            found = None if name in inside else self._lookup(name)
            return match[0] if found is None else self.text(found, (*inside, name))

        replaced = _NAME.sub(replace, text)
        if len(replaced) > MAX_LENGTH:
            raise TooLarge
        return replaced
