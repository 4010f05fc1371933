"""Real servers on loopback for the tests of any floor, each below a directory of the test's.

Nothing of this host is touched: keys, configuration and logs are the server's own.
"""

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

PATIENCE = 10.0
CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
AuthorizedKeysFile {folder}/authorized_keys .ssh/authorized_keys
PidFile none
UsePAM no
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
"""
SFTP = "Subsystem sftp internal-sftp\n"


def free_port() -> int:
    """A port of loopback that nobody listens on at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Sshd:
    """OpenSSH's server with a host key and one login key of its own.

    ``key`` is the private key that root may log in with, ``known_hosts`` names this server.
    """

    def __init__(self, folder: Path, *, sftp: bool = True, more: str = "") -> None:
        self.folder = folder
        self.key = folder / "key"
        self.known_hosts = folder / "known_hosts"
        self.authorized_keys = folder / "authorized_keys"
        self.port = free_port()
        self._sftp = sftp
        self._more = more
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True)
        make_key(self.key)
        self.authorized_keys.write_bytes(self.key.with_suffix(".pub").read_bytes())
        self.new_host_key()
        self.known_hosts.write_text(self.host_line())

    def new_host_key(self) -> None:
        """Be another server from the next start on; ``known_hosts`` stays."""
        for name in ("host", "host.pub"):
            (self.folder / name).unlink(missing_ok=True)
        make_key(self.folder / "host")

    def host_line(self) -> str:
        """The line of this server in a file of known hosts."""
        kind, text, *_ = (self.folder / "host.pub").read_text().split()
        return f"[127.0.0.1]:{self.port} {kind} {text}\n"

    def url(self, path: Path | str) -> str:
        return f"ssh://root@127.0.0.1:{self.port}{path}"

    def make_home(self, home: Path) -> Path:
        """A home whose ``.ssh`` knows this server and has the key to it."""
        (home / ".ssh").mkdir(parents=True, mode=0o700)
        (home / ".ssh/known_hosts").write_bytes(self.known_hosts.read_bytes())
        (home / ".ssh/id_ed25519").write_bytes(self.key.read_bytes())
        (home / ".ssh/id_ed25519").chmod(0o600)
        return home

    def start(self) -> "Sshd":
        """Run until ``stop``; returns when it listens."""
        os.makedirs("/run/sshd", exist_ok=True)  # where OpenSSH locks its children in
        config = self.folder / "config"
        text = CONFIG.format(port=self.port, folder=self.folder)
        config.write_text(text + self._more + (SFTP if self._sftp else ""))
        command = ["/usr/sbin/sshd", "-D", "-f", str(config), "-E", str(self.folder / "log")]
        self._process = subprocess.Popen(command, start_new_session=True)
        self._wait()
        return self

    def stop(self) -> None:
        """End the server and every session of it, at once."""
        if self._process is None:
            return
        for pid in [*self.sessions(), self._process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait(PATIENCE)
        self._process = None

    def __enter__(self) -> "Sshd":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def pause(self) -> None:
        """Let every session be silent, with its connections open, until ``resume``."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def sessions(self) -> list[int]:
        """The processes of the logins that are open now, the deepest first."""
        assert self._process is not None
        found: list[int] = []
        above = [self._process.pid]
        while above:
            parent = above.pop()
            with contextlib.suppress(FileNotFoundError):
                tasks = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
                found[:0] = map(int, tasks)
                above += map(int, tasks)
        return found

    def _signal(self, number: signal.Signals) -> None:
        for pid in self.sessions():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _wait(self) -> None:
        assert self._process is not None
        while self._process.poll() is None:
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", self.port), PATIENCE).close()
                return
        raise AssertionError((self.folder / "log").read_text())


def make_key(path: Path) -> None:
    """An ed25519 pair without a passphrase."""
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.name, "-f", str(path)]
    subprocess.run(command, check=True)


@contextlib.contextmanager
def silent_server() -> Iterator[socket.socket]:
    """A server that takes connections and never says a word; readable once somebody came."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def port_of(server: socket.socket) -> int:
    return int(server.getsockname()[1])
