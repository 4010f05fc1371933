"""The four kinds of instances that a build needs, as typed views of their HRD.

Serves builds and ``instances``, which checks new instances with them. Any other kind of
instance may exist; nothing is known about its fields.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from aysfs.build.hrd import Hrd
from aysfs.build.hrd.values import show

DEFAULT_ROOT = "/mnt/data/stor"

_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@-]*")
_LOGIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*\$?")
_ADDRESS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*|\[?[0-9A-Fa-f:]*:[0-9A-Fa-f:.]+(?:%\w+)?\]?")


@dataclass(frozen=True)
class SshKey:
    """``sshkey``: a key by the name of its file."""

    name: str
    private: str = field(repr=False)
    passphrase: str = field(repr=False)


@dataclass(frozen=True)
class NodeSsh:
    """``node.ssh``: a machine that is reached over SSH."""

    ip: str
    port: int
    login: str
    password: str = field(repr=False)
    sshkey: str


@dataclass(frozen=True)
class Stor:
    """``ays_stor.ssh``: a store on its parent node, and who may read and write it."""

    root: str
    read_login: str
    write_login: str


@dataclass(frozen=True)
class StorClient:
    """``ays_stor_client.ssh``: where a store is reached, and whether it is only a cache."""

    ip: str
    port: int
    login: str
    cache: bool
    root: str


Kind = SshKey | NodeSsh | Stor | StorClient


def view(name: str, hrd: Hrd) -> Kind | None:
    """The fields of an instance of this template, checked; None for a kind that is not known."""
    read = _KINDS.get(name)
    return read(hrd) if read else None


def sshkey(hrd: Hrd) -> SshKey:
    name = _matching(hrd, "key.name", hrd.get_str("service.instance", ""), _FILE_NAME)
    return SshKey(name, hrd.get_str("key.priv", ""), hrd.get_str("key.pass", ""))


def node_ssh(hrd: Hrd) -> NodeSsh:
    return NodeSsh(
        _address(hrd, "node.tcp.addr"),
        _port(hrd),
        _matching(hrd, "login", "root", _LOGIN),
        hrd.get_str("password", ""),
        hrd.get_str("sshkey", ""),
    )


def stor(hrd: Hrd) -> Stor:
    return Stor(
        _root(hrd),
        _matching(hrd, "read.login", "read", _LOGIN),
        _matching(hrd, "write.login", "write", _LOGIN),
    )


def stor_client(hrd: Hrd) -> StorClient:
    return StorClient(
        _address(hrd, "tcp.addr"),
        _port(hrd),
        _matching(hrd, "login", "root", _LOGIN),
        hrd.get_bool("cache", False),
        _root(hrd),
    )


_KINDS: dict[str, Callable[[Hrd], Kind]] = {
    "sshkey": sshkey,
    "node.ssh": node_ssh,
    "ays_stor.ssh": stor,
    "ays_stor_client.ssh": stor_client,
}


def _matching(hrd: Hrd, key: str, default: str, pattern: re.Pattern[str]) -> str:
    """A text of this form. What ends on a command line cannot start with a dash."""
    text = hrd.get_str(key, default) or default
    if not pattern.fullmatch(text):
        hrd.refuse(key, f"cannot be `{show(text)}`" if text else "is not given")
    return text


def _address(hrd: Hrd, other: str) -> str:
    """``ip``, or the longer name that the field had elsewhere, which wins."""
    return _matching(hrd, other if hrd.exists(other) else "ip", "", _ADDRESS)


def _port(hrd: Hrd) -> int:
    port = hrd.get_int("ssh.port", 22)
    if not 0 < port < 65536:
        hrd.refuse("ssh.port", "is no port: 1 to 65535")
    return port


def _root(hrd: Hrd) -> str:
    root = hrd.get_str("root", DEFAULT_ROOT)
    if not root.startswith("/") or ".." in root.split("/") or root.strip("/") == "":
        hrd.refuse("root", "must be an absolute path below `/`, without `..`")
    return root.rstrip("/")
