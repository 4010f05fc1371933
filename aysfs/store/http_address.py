"""What an ``http://`` or ``https://`` address of a store says.

Serves the HTTP store. Pure; login and password are held here, and the password comes out of
neither ``str()`` nor ``repr()``.
"""

import re
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

from aysfs.errors import BadConfig
from aysfs.store.address import split_url

SCHEMES = ("http", "https")
EXAMPLE = "https://login:password@host:port/path"

_SAFE = "/%:@!$&'()*+,;=~"  # of a path that is already quoted
_CONTROL = re.compile(r"[\x00-\x20\x7f]")


@dataclass(frozen=True)
class HttpAddress:
    """A place on a web server. ``str()`` is how messages name it."""

    url: str  # what every request begins with: no login, no slash at the end
    login: str | None = None
    password: str | None = field(default=None, repr=False)

    @property
    def is_secure(self) -> bool:
        return self.url.startswith("https:")

    def __str__(self) -> str:
        if self.login is None:
            return self.url
        scheme, _, rest = self.url.partition("://")
        return f"{scheme}://{quote(self.login)}@{rest}"


def parse_http_address(url: str) -> HttpAddress:
    """Read ``https://login:password@host:port/path``.

    Nothing of the URL is repeated in BadConfig: what is wrong with it may be the password.
    """
    parts, port, login, password = split_url(url, "http", EXAMPLE)
    host = parts.hostname
    if parts.scheme not in SCHEMES or not host or parts.query or parts.fragment:
        raise BadConfig("an http:// address that names no store", hint=f"write {EXAMPLE}")
    if _CONTROL.search(unquote(parts.path)[:1] + parts.netloc) or "\0" in unquote(parts.path):
        raise BadConfig("an http:// address with a blank in it", hint=f"write {EXAMPLE}")
    try:
        host = host if host.isascii() else host.encode("idna").decode()
    except UnicodeError as error:
        raise BadConfig(
            "an http:// address with a bad host or port", hint=f"write {EXAMPLE}"
        ) from error
    where = f"[{host}]" if ":" in host else host
    where += f":{port}" if port is not None else ""
    path = quote(parts.path, safe=_SAFE).rstrip("/")
    return HttpAddress(f"{parts.scheme}://{where}{path}", login, password)
