"""Which server may be talked to: host keys against the files of known hosts.

Serves ``ssh_link``. Reads the user's and the system's known_hosts and one more file; never
writes any: a person compares a new key, or nobody has.
"""

from pathlib import Path
from typing import Any, NoReturn

import paramiko

from aysfs.errors import StoreTrouble
from aysfs.store.ssh_address import home_file

SYSTEM_FILE = "/etc/ssh/ssh_known_hosts"


class _Refuse(paramiko.MissingHostKeyPolicy):  # type: ignore[misc]  # paramiko has no types
    """Refuses a server whose key is in none of the files."""

    def __init__(self, label: str, host: str, port: int, extra: Path | None) -> None:
        self._label = label
        self._scan = f"ssh-keyscan -p {port} {host}"
        self._file = str(extra) if extra else "~/.ssh/known_hosts"

    def missing_host_key(self, _client: Any, hostname: str, key: Any) -> NoReturn:
        raise StoreTrouble(
            f"{self._label}: host key of {hostname} is not known"
            f" ({key.get_name()} {key.fingerprint})",
            hint=f"`{self._scan}`, compare it, append it to {self._file}",
        )


def check_with(client: Any, label: str, host: str, port: int, extra: Path | None) -> None:
    """Make a paramiko client accept known servers and no others."""
    for file in _files(extra):
        try:
            client.load_system_host_keys(file)
        except FileNotFoundError:
            if extra and file == str(extra):
                raise StoreTrouble(f"{label}: there is no known_hosts file {file}") from None
        except OSError as error:
            raise StoreTrouble(f"{label}: {file}: {error.strerror or error}") from error
    client.set_missing_host_key_policy(_Refuse(label, host, port, extra))


def changed(label: str, hostname: str, key: Any, extra: Path | None) -> StoreTrouble:
    """What to raise for a server that has another key than the one that is known."""
    found = filter(None, (_line(file, hostname, key) for file in _files(extra)))
    place = "".join(f"; {line} has another" for line in found)
    return StoreTrouble(
        f"{label}: host key of {hostname} has changed, it is now"
        f" {key.get_name()} {key.fingerprint}{place}",
        hint="somebody may be listening in; when the server was set up anew, replace that line",
    )


def _files(extra: Path | None) -> list[str]:
    own = [home_file("known_hosts"), SYSTEM_FILE]
    return [str(extra), *own] if extra else own


def _line(file: str, hostname: str, key: Any) -> str:
    """``file:line`` of the entry that speaks of this host and kind of key, or nothing."""
    try:
        text = Path(file).read_text(errors="replace")
    except OSError:
        return ""
    for number, line in enumerate(text.splitlines(), 1):
        try:
            entry = paramiko.hostkeys.HostKeyEntry.from_line(line, number)
        except (paramiko.SSHException, ValueError):
            continue
        if entry is None or entry.key.get_name() != key.get_name():
            continue
        known = paramiko.HostKeys()
        for name in entry.hostnames:
            known.add(name, key.get_name(), entry.key)
        if known.lookup(hostname) is not None:
            return f"{file}:{number}"
    return ""
