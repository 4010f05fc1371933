"""What an address of a host reached over SSH says, and the person's own settings for it.

Serves the SSH store and the builds. Pure but for reading ``~/.ssh/config``; a password is held
here and comes out of neither ``str()`` nor ``repr()``.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote

from aysfs.errors import BadConfig
from aysfs.store.address import split_url

SCHEMES = ("ssh", "sftp")
EXAMPLE = "ssh://login@host:port/path"


@dataclass(frozen=True)
class SshCredentials:
    """How to log in, where the person's own keys and settings are not what is meant."""

    key_file: Path | None = None
    known_hosts: Path | None = None  # asked beside the user's and the system's
    password: str | None = field(default=None, repr=False)
    passphrase: str | None = field(default=None, repr=False)  # of the key file
    alone: bool = True  # the key file, and none of the person's own keys after it


@dataclass(frozen=True)
class SshAddress:
    """A place on a host. ``str()`` is how messages name it."""

    host: str
    path: str
    login: str | None = None
    port: int | None = None
    password: str | None = field(default=None, repr=False)

    @property
    def where(self) -> str:
        """The host's part of the address."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        login = f"{self.login}@" if self.login else ""
        return f"ssh://{login}{host}" + (f":{self.port}" if self.port else "")

    @property
    def url(self) -> str:
        """What ``parse_address`` reads as the same place; without the password."""
        return self.where + quote(self._path)

    @property
    def _path(self) -> str:
        return self.path if self.path.startswith("/") else f"/~/{self.path}"

    def __str__(self) -> str:
        return self.where + self._path


def parse_address(url: str) -> SshAddress:
    """Read ``ssh://login:password@host:port/path``; ``/~/path`` starts at the login's home.

    Nothing of the URL is repeated in BadConfig: what is wrong with it may be the password.
    """
    parts, port, login, password = split_url(url, "ssh", EXAMPLE)
    host = parts.hostname
    path = unquote(parts.path)
    dangerous = not host or host.startswith("-") or "\0" in path or ".." in path.split("/")
    if dangerous or parts.query or parts.fragment or not path.startswith("/"):
        raise BadConfig("an ssh:// address that names no directory", hint=f"write {EXAMPLE}")
    if path == "/~" or path.startswith("/~/"):
        path = path[2:].strip("/") or "."
    else:
        path = "/" + path.strip("/")
    return SshAddress(host or "", path, login, port, password)


def without_password(url: str) -> str:
    """Any URL as messages may show it."""
    head, separator, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    user, at, host = authority.rpartition("@")
    if not separator or not at or ":" not in user:
        return url
    return f"{head}://{user.partition(':')[0]}@{host}{slash}{path}"


def home_file(name: str) -> str:
    """A file of the person's ``.ssh`` folder."""
    return os.path.expanduser(f"~/.ssh/{name}")
