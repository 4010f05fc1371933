"""What every handler of the server is given.

Owns the bounds that an operator may set; composes nothing, ``aysfs.server.app`` does.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from aysfs.server.accounts import Accounts, Right
from aysfs.server.body import IDLE
from aysfs.server.catalog import Catalog
from aysfs.server.metrics import Metrics
from aysfs.server.place import Place
from aysfs.server.upstream import Upstream


class Bounds(NamedTuple):
    """What one client may ask of the server."""

    blob: int = 1 << 40  # bytes of one blob
    list: int = 4 << 30  # bytes of one list, or of one file below /static/
    rate: float = 0.0  # requests a second of one address; 0 is no bound
    idle: float = IDLE  # seconds that a body may be silent


@dataclass(frozen=True)
class Service:
    """A store that is served, and under which rules."""

    place: Place
    accounts: Accounts
    metrics: Metrics
    bounds: Bounds
    upstream: Upstream | None = None
    catalog: Catalog = field(default_factory=Catalog)


Handler = Callable[[Service, Request], Awaitable[Response]]
Needs = Callable[[Request], tuple[Right, ...]]
"""The rights of which one is enough."""


class Action(NamedTuple):
    """What a method does at a path; ``kind`` is its name in metrics."""

    kind: str
    handler: Handler
    needs: tuple[Right, ...] | Needs
