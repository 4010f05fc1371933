"""A connection to a host over SSH: made when needed, shared by threads, made again after trouble.

Serves the SSH store and the builds that prepare a host. Owns the connection, its channels and
every wait on them; one connection carries all channels (sshd allows ten by default). With
``ssh_hosts`` and ``ssh_wire`` the only place that knows paramiko, whose exceptions end in
``speaking``. Everything here blocks: call it from worker threads.
"""

import contextlib
import getpass
import logging
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import paramiko

from aysfs.errors import StoreTrouble
from aysfs.store.ssh_address import SshAddress, SshCredentials, home_file
from aysfs.store.ssh_hosts import changed, check_with
from aysfs.store.ssh_wire import Wire, speaking

CONNECT = 15.0  # seconds for each step of a login
IDLE = 30.0  # seconds without a byte, then the server has failed
KEEPALIVE = 30  # seconds: a connection without traffic is forgotten by routers

_CLOSING = 1.0  # seconds that a close waits for a login under way

# What paramiko logs of a lost connection comes with the traceback of its own thread, and is
# said again by the exception that it raises.
_SILENT = "aysfs.paramiko"
logging.getLogger(_SILENT).propagate = False
logging.getLogger(_SILENT).addHandler(logging.NullHandler())
logging.getLogger(_SILENT).setLevel(logging.CRITICAL)


class Ran(NamedTuple):
    """What a command on the host did."""

    code: int
    out: bytes
    err: bytes


class Link:
    """One host, logged in to on first use."""

    def __init__(
        self,
        address: SshAddress,
        credentials: SshCredentials,
        *,
        connect: float = CONNECT,
        idle: float = IDLE,
    ) -> None:
        self.label = address.where
        self._address = address
        self._credentials = credentials
        self._connect = connect
        self._idle = idle
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._client: Any = None
        self._sock: socket.socket | None = None
        self._proxy: subprocess.Popen[bytes] | None = None
        self._free: list[Wire] = []

    @contextlib.contextmanager
    def wire(self) -> Iterator[Wire]:
        """A channel that speaks SFTP, for one thread; kept for the next unless it failed."""
        with self._lock:
            client = self._ready()
            wire = self._free.pop() if self._free else None
        if wire is None:
            wire = self._open_wire(client)
        try:
            yield wire
        finally:
            self._give_back(wire, client)

    def run(self, command: str, stdin: bytes = b"") -> Ran:
        """Run a command in the login's shell. Nothing secret may be in ``command``."""
        with self._lock:
            client = self._ready()
        with speaking(self.label, self._idle):
            channel = client.get_transport().open_session(timeout=self._connect)
            with contextlib.closing(channel):
                channel.settimeout(self._idle)
                with self._bounded(channel):
                    channel.exec_command(command)
                channel.sendall(stdin)
                channel.shutdown_write()
                out = channel.makefile("rb").read()
                err = channel.makefile_stderr("rb").read()
                if not channel.status_event.wait(self._idle):
                    raise TimeoutError
                return Ran(channel.recv_exit_status(), out, err)

    def close(self) -> None:
        """Let go of it, for good. A login under way ends by itself, and is then dropped."""
        self._closed.set()
        if self._lock.acquire(timeout=_CLOSING):
            try:
                self._drop()
            finally:
                self._lock.release()

    # --- channels ----------------------------------------------------------------------------

    def _open_wire(self, client: Any) -> Wire:
        try:
            with speaking(self.label, self._connect, "no SFTP channel could be opened"):
                channel = client.get_transport().open_session(timeout=self._connect)
                channel.settimeout(self._idle)
                with self._bounded(channel):
                    channel.invoke_subsystem("sftp")
                    return Wire(paramiko.SFTPClient(channel), self.label, self._idle)
        except StoreTrouble as error:
            with self._lock:
                if client is self._client:
                    self._drop()
            if error.hint is None:
                error.hint = "does its sshd have a `Subsystem sftp`, and may this login use it?"
            raise

    def _give_back(self, wire: Wire, client: Any) -> None:
        """Keep a channel; trouble on one is the whole connection's, which is made again."""
        with self._lock:
            if client is not self._client:
                return
            if wire.failed:
                self._drop()
            else:
                self._free.append(wire)

    @contextlib.contextmanager
    def _bounded(self, channel: Any) -> Iterator[None]:
        """End a step that paramiko waits for without a bound."""
        timer = threading.Timer(self._connect, channel.close)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    # --- the connection; under the lock ------------------------------------------------------

    def _ready(self) -> Any:
        """The connection, made anew when there is none that lives."""
        if self._closed.is_set():
            raise self._was_closed()
        if self._client is not None:
            transport = self._client.get_transport()
            if transport is not None and transport.is_active():
                return self._client
            self._drop()
        self._client = self._log_in()
        if self._closed.is_set():  # meanwhile
            self._drop()
            raise self._was_closed()
        return self._client

    def _was_closed(self) -> StoreTrouble:
        return StoreTrouble(f"{self.label}: the store was closed")

    def _drop(self) -> None:
        client, self._client = self._client, None
        self._free.clear()
        if client is not None:
            client.close()
        if self._sock is not None:
            self._sock.close()  # paramiko keeps it open when a login came to nothing
            self._sock = None
        if self._proxy is not None:
            self._proxy.kill()
            self._proxy.wait()
            self._proxy = None

    def _log_in(self) -> Any:
        own = _own_settings(self.label, self._address.host)
        host = str(own.get("hostname", self._address.host))
        port = self._address.port or _port(own)
        login = self._address.login or str(own.get("user") or _whoami(self.label))
        known_hosts = self._credentials.known_hosts
        client = paramiko.SSHClient()
        client.set_log_channel(_SILENT)
        try:
            check_with(client, self.label, host, port, known_hosts)
            with speaking(self.label, self._connect, "cannot be reached"):
                self._sock = self._socket(host, port, own)
            with speaking(self.label, self._connect, f"no login as {login}"):
                try:
                    client.connect(host, port, login, sock=self._sock, **self._logging_in(own))
                except paramiko.BadHostKeyException as error:
                    name = host if port == paramiko.config.SSH_PORT else f"[{host}]:{port}"
                    raise changed(self.label, name, error.key, known_hosts) from None
                except paramiko.AuthenticationException as error:
                    raise _refused(self.label, login, self._credentials, error) from None
                client.get_transport().set_keepalive(KEEPALIVE)
        except BaseException:
            client.close()
            self._drop()
            raise
        return client

    def _logging_in(self, own: Mapping[str, Any]) -> dict[str, Any]:
        """What paramiko's ``connect`` needs beside host, port and login."""
        given = self._credentials.key_file
        if given is not None and not given.is_file():
            raise StoreTrouble(f"{self.label}: there is no key file {given}")
        alone = given is not None and self._credentials.alone
        files = [str(given)] if given else []
        files += [] if alone else [f for f in own.get("identityfile", []) if _is_file(f)]
        only = alone or own.get("identitiesonly") == "yes"
        return {
            "key_filename": files or None,
            "allow_agent": not only,
            "look_for_keys": not only,
            "password": self._address.password or self._credentials.password,
            "passphrase": self._credentials.passphrase,
            "timeout": self._connect,
            "banner_timeout": self._connect,
            "auth_timeout": self._connect,
            "channel_timeout": self._connect,
        }

    def _socket(self, host: str, port: int, own: Mapping[str, Any]) -> socket.socket:
        command = str(own.get("proxycommand", "none"))
        if command == "none":
            plain = socket.create_connection((host, port), self._connect)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        else:
            plain, theirs = socket.socketpair()
            with theirs:
                self._proxy = subprocess.Popen(
                    ["/bin/sh", "-c", f"exec {command}"],
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                )
        return _BoundedSocket(plain, self._idle)


class _BoundedSocket(socket.socket):
    """A socket whose peer must take bytes in time.

    paramiko tries again for ever when its own short timeout passes in a ``send``.
    """

    def __init__(self, plain: socket.socket, idle: float) -> None:
        super().__init__(plain.family, plain.type, plain.proto, plain.detach())
        self._idle = idle
        self._since: float | None = None

    def send(self, data: Any, flags: int = 0, /) -> int:
        try:
            count = super().send(data, flags)
        except TimeoutError:
            now = time.monotonic()
            self._since = self._since or now
            if now - self._since > self._idle:
                raise ConnectionAbortedError from None
            raise
        self._since = None
        return count


def _own_settings(label: str, host: str) -> Mapping[str, Any]:
    """What the person's ``~/.ssh/config`` says about a host."""
    file = home_file("config")
    try:
        config = paramiko.SSHConfig.from_path(file)
        found: Mapping[str, Any] = config.lookup(host)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise StoreTrouble(f"{label}: {file}: {error.strerror or error}") from error
    except (paramiko.SSHException, ValueError, ImportError) as error:
        raise StoreTrouble(f"{label}: {file}: {error}") from error
    return found


def _port(own: Mapping[str, Any]) -> int:
    text = str(own.get("port", paramiko.config.SSH_PORT))
    return int(text) if text.isdecimal() else int(paramiko.config.SSH_PORT)


def _whoami(label: str) -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        raise StoreTrouble(f"{label}: this user has no name", hint="write login@host") from None


def _is_file(path: str) -> bool:
    return os.path.isfile(os.path.expanduser(path))


def _refused(label: str, login: str, credentials: SshCredentials, error: Exception) -> StoreTrouble:
    key = credentials.key_file
    if isinstance(error, paramiko.PasswordRequiredException):
        locked = f"key {key} has a passphrase" if key else "a key has a passphrase"
        return StoreTrouble(f"{label}: {locked}", hint="add it to the agent: `ssh-add`")
    by = f" with key {key}" if isinstance(key, Path) else ""
    return StoreTrouble(
        f"{label}: the server refused the login {login}{by}",
        hint=f"its public key belongs in {login}'s ~/.ssh/authorized_keys there",
    )
