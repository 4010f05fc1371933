"""What the addresses of servers have in common: host, port, login and password.

Pure. Nothing of a URL is repeated in an error: what is wrong with it may be the password.
"""

from typing import NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

from aysfs.errors import BadConfig


class ServerUrl(NamedTuple):
    """A URL in its parts; ``login`` and ``password`` are unquoted."""

    parts: SplitResult
    port: int | None
    login: str | None
    password: str | None


def split_url(url: str, kind: str, example: str) -> ServerUrl:
    """Take ``scheme://login:password@host:port/path`` apart; BadConfig names ``kind``."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise BadConfig(
            f"an {kind}:// address with a bad host or port", hint=f"write {example}"
        ) from error
    login = unquote(parts.username) if parts.username else None
    password = unquote(parts.password) if parts.password else None
    return ServerUrl(parts, port, login, password)
