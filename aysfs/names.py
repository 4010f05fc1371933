"""Names of services: ``domain__name``, with an optional ``@tag``.

Domain, name and tag match ``[a-z0-9][a-z0-9._-]*``; a domain holds no ``__``, so the full
name splits at its first ``__``. A bare name means the default domain.
"""

import re
from pathlib import Path
from typing import NamedTuple

from aysfs.errors import BadName

DEFAULT_DOMAIN = "jumpscale"

_PART = re.compile(r"[a-z0-9][a-z0-9._-]*")


class ServiceName(NamedTuple):
    """A full service name; ``str()`` is how stores and people write it."""

    domain: str
    name: str
    tag: str | None = None

    def __str__(self) -> str:
        tag = f"@{self.tag}" if self.tag is not None else ""
        return f"{self.domain}__{self.name}{tag}"


def published_names(name: ServiceName, tag: str | None) -> list[ServiceName]:
    """Under what a list is published: the tag first, so that what is current has it."""
    return [name] if tag is None else [tagged(name, tag), name]


def tagged(name: ServiceName, tag: str) -> ServiceName:
    """The name under a tag; BadName for a bad tag, or a name that has one."""
    if name.tag is not None:
        raise BadName(f"`{name}` has a tag already", hint="name the service without `@`")
    return parse_name(f"{name}@{tag}")


ListRef = ServiceName | Path
"""A service of a store, or a list file on this host."""


def parse_name(text: str, default_domain: str = DEFAULT_DOMAIN) -> ServiceName:
    """Read ``name``, ``domain__name`` or either with ``@tag``; BadName for anything else."""
    full, at, tag = text.partition("@")
    domain, separator, name = full.partition("__")
    if not separator:
        domain, name = default_domain, full
    for what, part in (("domain", domain), ("name", name), *([("tag", tag)] if at else [])):
        if not _PART.fullmatch(part):
            raise BadName(
                f"`{text}` is no service name: bad {what} `{part}`",
                hint="names are lower-case letters, digits, `.`, `_` and `-`: `domain__name@tag`",
            )
    return ServiceName(domain, name, tag if at else None)
