"""Keys of service instances: ``domain|name!instance@role (version)``, every part optional.

Serves everything that lets people say which instance they mean. A role that is not given is
the name up to its first dot: ``node.ssh`` has the role ``node``. All of it is lower case.
"""

import re
from typing import NamedTuple

from aysfs.errors import BadName

_PART = r"[a-z0-9_][a-z0-9._-]*"
_KEY = re.compile(
    rf"(?:(?P<domain>{_PART})\|)?(?P<name>{_PART})?(?:!(?P<instance>{_PART}))?"
    rf"(?:@(?P<role>{_PART}))?(?:\s*\((?P<version>[a-z0-9._+-]+)\))?"
)


class ServiceKey(NamedTuple):
    """One key; None for a part that is not given. ``str()`` reads back as the same key."""

    domain: str | None = None
    name: str | None = None
    instance: str | None = None
    role: str | None = None
    version: str | None = None

    def __str__(self) -> str:
        text = f"{self.domain}|" if self.domain else ""
        text += self.name or ""
        text += f"!{self.instance}" if self.instance else ""
        if self.role and self.role != role_of(self.name):
            text += f"@{self.role}"
        return (f"{text} ({self.version})" if self.version else text).strip()


def role_of(name: str | None) -> str | None:
    """The role that a name has when nothing else is said."""
    return name.partition(".")[0] if name else None


def parse_key(text: str) -> ServiceKey:
    """Read a key; BadName for what is none."""
    found = _KEY.fullmatch(text.strip().lower())
    if not found or not any(found.groups()):
        shown = text if text.isprintable() else repr(text)[1:-1]
        raise BadName(
            f"`{shown}` is no key of a service",
            hint="a key is `domain|name!instance@role (version)`, every part optional",
        )
    role = found["role"] or role_of(found["name"])
    return ServiceKey(found["domain"], found["name"], found["instance"], role, found["version"])
