"""Build servers: the Docker of a ``node.ssh``, through a socket that ssh forwards.

Serves builds. Owns the ssh process and its socket: both end with the block, whatever happened in
it. Nothing but sshd and Docker is needed on the server. A password reaches ssh only through
SSH_ASKPASS, and no host key is accepted that the user has not accepted before.
"""

import contextlib
import os
import pwd
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from aysfs.build.connection import LOCAL
from aysfs.build.container import Say
from aysfs.build.engine import Docker
from aysfs.build.kinds import NodeSsh
from aysfs.errors import ServerTrouble

SOCKET = "/var/run/docker.sock"
PATIENCE = 40.0  # seconds until Docker answers through ssh
CONNECT = 20  # seconds until the server's sshd does
ALIVE, ALIVE_COUNT = 15, 3  # a server that is silent for as many times as many seconds is gone
_ENDING = 5.0  # seconds that ssh is given to end: told to, or by itself when it lost the server
_LONGEST = 90  # bytes of a socket's path; the kernel takes 107, and ssh adds to it
_KEYS = ("id_ed25519", "id_ecdsa", "id_rsa")  # a person's own, as ssh looks for them

_ASKPASS = """#!/bin/sh
case $1 in
    *passphrase*) printf '%s\\n' "$AYSFS_SSH_PASSPHRASE" ;;
    *) printf '%s\\n' "$AYSFS_SSH_PASSWORD" ;;
esac
"""


@contextlib.contextmanager
def local(address: str = LOCAL) -> Iterator[Docker]:
    """The Docker of this host, or the one that its user means by ``DOCKER_HOST``."""
    with contextlib.closing(Docker(address)) as engine:
        yield engine


@contextlib.contextmanager
def open_server(
    node: NodeSsh,
    name: str,
    *,
    key: Path | None = None,
    key_alone: bool = True,
    passphrase: str = "",
    known_hosts: Path | None = None,
) -> Iterator[Docker]:
    """The Docker of a build server. ``name`` is what messages call it.

    ``known_hosts`` overrules the user's own file; without ``key_alone`` the user's own keys are
    tried after ``key``. ServerTrouble says what is the matter, also when the server goes away
    while the block runs.
    """
    with tempfile.TemporaryDirectory(prefix="aysfs-", dir=_short_place()) as folder:  # mode 0700
        keys = [] if key is None else [key, *([] if key_alone else _own_keys())]
        forward = _Forward(node, name, keys, key_alone, known_hosts, Path(folder))
        with forward.running(passphrase), contextlib.closing(forward.connect()) as engine:
            engine.reach = f"ssh -t -p {node.port} {node.login}@{node.ip.strip('[]')}"
            try:
                yield engine
            except ServerTrouble as trouble:
                if forward.has_ended(within=_ENDING):
                    raise ServerTrouble(
                        f"build server {name} is gone: {forward.last_words()}"
                    ) from trouble
                raise


def bring_image(source: Docker, target: Docker, image: str, say: Say) -> str:
    """Copy an image from one Docker to another, unless it is there already; its id."""
    identity = source.image_id(image)
    if identity is None:
        raise ServerTrouble(f"{source.label} has no image {image}")
    if target.image_id(image) != identity:
        say(f"bringing image {image} from {source.label} to {target.label}\n".encode())
        target.load(source.save(image))
        if target.image_id(image) != identity:
            raise ServerTrouble(f"{target.label}: image {image} arrived as another one")
    return identity


class _Forward:
    """One ssh process and what it says."""

    def __init__(
        self,
        node: NodeSsh,
        name: str,
        keys: Sequence[Path],
        keys_alone: bool,
        known_hosts: Path | None,
        folder: Path,
    ) -> None:
        self._node = node
        self._host = node.ip.strip("[]")
        self._name = name
        self._keys = keys  # none: the user's own
        self._keys_alone = bool(keys) and keys_alone
        self._known_hosts = known_hosts
        self._folder = folder
        self._socket = folder / "docker.sock"
        self._said = folder / "ssh.log"
        self._process: subprocess.Popen[bytes] | None = None

    @contextlib.contextmanager
    def running(self, passphrase: str) -> Iterator[None]:
        """ssh lives as long as the block, in a session of its own: Ctrl-C is not for it."""
        secrets = {"PASSPHRASE": passphrase, "PASSWORD": self._node.password}
        environment = {**os.environ, "LC_ALL": "C"}
        if any(secrets.values()):
            script = self._folder / "askpass"
            script.write_text(_ASKPASS)
            script.chmod(0o700)
            environment |= {"SSH_ASKPASS": str(script), "SSH_ASKPASS_REQUIRE": "force"}
            environment |= {f"AYSFS_SSH_{name}": value for name, value in secrets.items()}
        command = self._command(may_ask=any(secrets.values()))
        try:
            with self._said.open("wb") as said:
                self._process = subprocess.Popen(
                    command,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=said,
                    start_new_session=True,
                )
        except FileNotFoundError:
            raise ServerTrouble(
                f"build server {self._name} cannot be reached: ssh is not installed",
                hint="install the OpenSSH client (Debian: openssh-client)",
            ) from None
        try:
            yield
        finally:
            _end(self._process)

    def _command(self, *, may_ask: bool) -> list[str]:
        options: dict[str, object] = {
            "BatchMode": "no" if may_ask else "yes",
            "ConnectTimeout": CONNECT,
            "ControlMaster": "no",
            "ControlPath": "none",
            "ExitOnForwardFailure": "yes",
            "ForwardAgent": "no",
            "ForwardX11": "no",
            "IdentitiesOnly": "yes" if self._keys_alone else "no",
            "LogLevel": "INFO",
            "NumberOfPasswordPrompts": 1,
            "PermitLocalCommand": "no",
            "ServerAliveCountMax": ALIVE_COUNT,
            "ServerAliveInterval": ALIVE,
            "StrictHostKeyChecking": "yes",
        }
        if self._known_hosts:
            options["UserKnownHostsFile"] = self._known_hosts
            options["GlobalKnownHostsFile"] = "none"
        words = ["ssh", *self._settings(), "-N", "-T", "-L", f"{self._socket}:{SOCKET}"]
        words += [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        words += [word for key in self._keys for word in ("-i", str(key))]
        return [*words, "-p", str(self._node.port), "-l", self._node.login, "--", self._host]

    def _settings(self) -> list[str]:
        """ssh goes by the account's home, all else by ``$HOME``: where they differ it is told."""
        home = Path("~/.ssh").expanduser()
        if home == Path(_account_home(), ".ssh"):
            return []
        lines = [f'Include "{home}/config"', "Host *", f'UserKnownHostsFile "{home}/known_hosts"']
        if not self._keys:
            lines += [f'IdentityFile "{key}"' for key in _own_keys()]
        lines += ["Include /etc/ssh/ssh_config"]
        file = self._folder / "config"
        file.write_text("".join(f"{line}\n" for line in lines))
        return ["-F", str(file)]

    def connect(self) -> Docker:
        """Wait until Docker answers."""
        end = time.monotonic() + PATIENCE
        while not self._socket.exists():
            if self.has_ended(within=0.05):
                self._refuse()
            if time.monotonic() > end:
                raise ServerTrouble(
                    f"build server {self._name} cannot be reached: no answer of its sshd within"
                    f" {PATIENCE:.0f} seconds"
                )
        try:
            return Docker(f"unix://{self._socket}", f"build server {self._name}")
        except ServerTrouble as trouble:
            if self.has_ended(within=0.5):
                self._refuse()
            if "open failed" in self._text():
                raise ServerTrouble(
                    f"build server {self._name} is there, and its Docker does not answer",
                    hint=f"is Docker running there, and may {self._node.login} use {SOCKET}?",
                ) from trouble
            raise

    def has_ended(self, within: float) -> bool:
        """Whether ssh is gone, or will be in so many seconds."""
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(within)
        return self._process.returncode is not None

    def last_words(self) -> str:
        """The last line that ssh said."""
        lines = [line.strip() for line in self._text().splitlines() if line.strip()]
        return lines[-1] if lines else "ssh ended without a word"

    def _text(self) -> str:
        return self._said.read_text(errors="replace")

    def _refuse(self) -> NoReturn:
        """Why there is no connection, told from what ssh said."""
        node, text, server = self._node, self._text(), f"build server {self._name}"
        at = self._host if node.port == 22 else f"[{self._host}]:{node.port}"
        file = self._known_hosts or "~/.ssh/known_hosts"
        look = f"ssh-keyscan -p {node.port} {self._host}"
        if "IDENTIFICATION HAS CHANGED" in text:
            raise ServerTrouble(
                f"the host key of {server} ({at}) has changed",
                hint=f"if it should have: `ssh-keygen -R '{at}' -f {file}`, accept the new one",
            )
        if "Host key verification failed" in text:
            raise ServerTrouble(
                f"the host key of {server} ({at}) is not known",
                hint=f"look at it: `{look} | ssh-keygen -lf -`; accept it: `{look} >>{file}`",
            )
        if "Permission denied (" in text:
            means = [f"key {key}" for key in self._keys[:1]]
            means += [] if self._keys_alone else ["any of this user's keys"]
            means += ["the password"] if node.password else []
            raise ServerTrouble(f"{server} does not let {node.login} in by {' or '.join(means)}")
        if "Connection refused" in text:
            raise ServerTrouble(
                f"{server} cannot be reached: port {node.port} of {self._host} is closed"
            )
        found = re.search(
            "No route to host|Network is unreachable|timed out|Could not resolve hostname", text
        )
        reason = found[0] if found else self.last_words()
        raise ServerTrouble(f"{server} ({at}) cannot be reached: {reason}")


def _short_place() -> str | None:
    """Where a socket's path stays short; None is the usual place for temporary files."""
    return "/tmp" if len(os.fsencode(tempfile.gettempdir())) > _LONGEST - 30 else None


def _own_keys() -> list[Path]:
    home = Path("~/.ssh").expanduser()
    return [key for key in map(home.joinpath, _KEYS) if key.is_file()]


def _account_home() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:  # an account without a name, as containers have them
        return ""


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_ENDING)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
