"""Platforms of recipes: which items are for a machine. Pure; serves ``recipe``.

An item for ``linux`` is for ``ubuntu64`` too: a platform is all that its ancestors are.
"""

from collections.abc import Iterable

_PARENTS: dict[str, tuple[str, ...]] = {
    "unknown": (),
    "generic": ("unknown",),
    "unix": ("generic",),
    "darwin": ("unix",),
    "linux": ("unix",),
    "linux32": ("linux",),
    "linux64": ("linux",),
    "debian": ("linux",),
    "debian64": ("debian", "linux64"),
    "ubuntu": ("linux",),
    "ubuntu32": ("ubuntu", "linux32"),
    "ubuntu64": ("ubuntu", "linux64"),
    "mint": ("ubuntu",),
    "mint64": ("mint", "ubuntu64"),
    "arch": ("linux",),
    "arch64": ("arch", "linux64"),
    "win": ("generic",),
    "win32": ("win",),
    "win64": ("win",),
}


def is_known(platform: str) -> bool:
    return platform in _PARENTS


def ancestors(platform: str) -> frozenset[str]:
    """A platform with all that it is; one that is not known is only itself."""
    found = {platform}
    for parent in _PARENTS.get(platform, ()):
        found |= ancestors(parent)
    return frozenset(found)


def matches(wanted: Iterable[str], running: str) -> bool:
    """Whether something for these platforms is for the running one; for none means for all."""
    asked = frozenset(wanted)
    return not asked or not asked.isdisjoint(ancestors(running))
