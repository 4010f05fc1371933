"""Stores on nodes: preparing what an ``ays_stor.ssh`` describes, finding what a client means.

Serves builds. Owns what is done to the parent node of a store: its root, its two accounts and
who may log in as them; each step is done only where it is not done yet. Everything blocks: call
it from worker threads.
"""

import contextlib
import shlex
from dataclasses import replace
from typing import NamedTuple

from aysfs.build.instances import Instance, Services
from aysfs.build.kinds import NodeSsh, SshKey, Stor, StorClient
from aysfs.errors import BadRecipe, ServerTrouble
from aysfs.store import layout
from aysfs.store.ssh_address import SshAddress, SshCredentials
from aysfs.store.ssh_link import Link

# Run by sh on the node, with root, read login and write login as arguments; the public keys
# come in the variables `read_key` and `write_key`. The writer owns the store and is alone in
# writing it; the reader is in the writer's group only to reach a root that others cannot.
_PREPARE = """\
set -eu
root=$1 namespace=$2 read=$3 write=$4
mkdir -p "$root/$namespace/md"
[ "$(id -u)" = 0 ] || exit 0
account() {
    id "$1" >/dev/null 2>&1 && return 0
    if getent group "$1" >/dev/null; then set -- "$1" -g "$1"; else set -- "$1" -U; fi
    login=$1; shift
    useradd -m -s /bin/sh "$@" "$login"
    usermod -p '*' "$login"  # no password, and not locked: sshd refuses keys of a locked account
}
allow() {
    [ -n "$2" ] || return 0
    home=$(getent passwd "$1" | cut -d: -f6)
    group=$(id -gn "$1")
    [ -d "$home/.ssh" ] || install -d -m 700 -o "$1" -g "$group" "$home/.ssh"
    file=$home/.ssh/authorized_keys
    [ -f "$file" ] || install -m 600 -o "$1" -g "$group" /dev/null "$file"
    grep -qxF -- "$2" "$file" || printf '%s\\n' "$2" >>"$file"
}
account "$write"
account "$read"
allow "$write" "$write_key"
allow "$read" "$read_key"
group=$(id -gn "$write")
if [ "$read" != "$write" ]; then
    id -nG "$read" | tr ' ' '\\n' | grep -qxF -- "$group" || usermod -a -G "$group" "$read"
fi
chown "$write:$group" "$root"
chmod 2750 "$root"
# Also what another login made there before: never more than some hundred directories.
find "$root/$namespace" -maxdepth 2 -type d ! -user "$write" -exec chown "$write:$group" {} +
"""


class StorAddress(NamedTuple):
    """Where a store is and how to log in there: what ``open_store`` takes. Holds no password."""

    url: str
    credentials: SshCredentials


def prepare(
    services: Services, stor: Instance, *, namespace: str = layout.DEFAULT_NAMESPACE
) -> None:
    """Make the root of a store on its node, and as root there its accounts too."""
    node, kind = stor.parent, stor.view()
    if not isinstance(kind, Stor):
        raise BadRecipe(f"`{stor}` is no ays_stor.ssh")
    if node is None or not isinstance(node.view(), NodeSsh):
        raise BadRecipe(
            f"`{stor}` is on no node", hint="make it with a `node.ssh` instance as its parent"
        )
    address, credentials = log_in(services, node)
    command = shlex.join(
        [
            "sh",
            "-s",
            kind.root,
            layout.check_namespace(namespace),
            kind.read_login,
            kind.write_login,
        ]
    )
    keys = f"read_key={shlex.quote(_public_key(stor, 'key.read'))}\n"
    keys += f"write_key={shlex.quote(_public_key(stor, 'key.write'))}\n"
    with contextlib.closing(Link(address, credentials)) as link:
        done = link.run(command, (keys + _PREPARE).encode())
    if done.code:
        said = done.err.decode(errors="replace").strip().splitlines()
        why = said[-1] if said else f"exit code {done.code}"
        raise ServerTrouble(f"`{stor}` could not be prepared on {address.where}: {why}")


def address_of(services: Services, client: Instance) -> StorAddress:
    """The store that an ``ays_stor_client.ssh`` stands for, as a build writes it.

    Its own key comes first (an ``sshkey`` that it consumes), then the key of the node of the
    store that it consumes; without either the person's own are taken. A client of the store's
    reader, as the manual's, may not write: a build logs in there as the node's own login does.
    """
    kind = client.view()
    if not isinstance(kind, StorClient):
        raise BadRecipe(f"`{client}` is no ays_stor_client.ssh")
    root, login = kind.root, kind.login
    own = _consumed_key(client)
    credentials = own or SshCredentials()
    for stor in client.producers("ays_stor"):
        view = stor.view()
        if isinstance(view, Stor):
            root = view.root  # as it is now: the client's copy is from when it consumed
            if stor.parent is not None and isinstance(stor.parent.view(), NodeSsh):
                node, of_node = log_in(services, stor.parent)
                if kind.login == view.read_login != view.write_login:
                    login, own = node.login or login, None
                is_node = (node.host, node.login) == (_host(kind.ip), login)
                credentials = own or (of_node if is_node else replace(of_node, password=None))
    return StorAddress(SshAddress(_host(kind.ip), root, login, kind.port).url, credentials)


def log_in(services: Services, node: Instance) -> tuple[SshAddress, SshCredentials]:
    """How a node is reached: its address, and the key and password of its instance."""
    kind = node.view()
    if not isinstance(kind, NodeSsh):
        raise BadRecipe(f"`{node}` is no node.ssh")
    key = _consumed_key(node) or _named_key(services, node, kind.sshkey) or _only_key(services)
    address = SshAddress(_host(kind.ip), "/", kind.login, kind.port)
    return address, replace(key, password=kind.password or None)


def _consumed_key(consumer: Instance) -> SshCredentials | None:
    keys = map(_key_of, consumer.producers("sshkey"))
    return next((key for key in keys if key is not None), None)


def _named_key(services: Services, node: Instance, name: str) -> SshCredentials | None:
    """The key that ``sshkey`` names: an instance, or its ``key.name``."""
    if not name:
        return None
    for one in services.list("sshkey"):
        kind = one.view()
        if isinstance(kind, SshKey) and name.lower() in (one.instance, str(one), kind.name.lower()):
            return _key_of(one)
    raise BadRecipe(
        f"`{node}` names the key `{name}`, and no sshkey instance is called that",
        hint=f"`aysfs service new sshkey {name}`",
    )


def _only_key(services: Services) -> SshCredentials:
    """The manual's node names no key: the one that there is comes before the person's own."""
    keys = services.list("sshkey")
    found = _key_of(keys[0]) if len(keys) == 1 else None
    return SshCredentials() if found is None else replace(found, alone=False)


def _key_of(instance: Instance) -> SshCredentials | None:
    kind = instance.view()
    if not isinstance(kind, SshKey):
        return None
    return SshCredentials(instance.private_key(), passphrase=kind.passphrase or None)


def _public_key(stor: Instance, field: str) -> str:
    """A public key of one line; BadHrd for anything else, above all a private one."""
    text = stor.hrd.get_str(field, "").strip()
    if text and ("\n" in text or not text.startswith(("ssh-", "ecdsa-", "sk-"))):
        stor.hrd.refuse(field, "must be a public key: one line, as in a file `*.pub`")
    return text


def _host(ip: str) -> str:
    return ip.strip("[]")
