"""Real servers on loopback for the tests of any floor, each below a directory of the test's.

Nothing of this host is touched: keys, configuration and logs are the server's own.
"""

import contextlib
import os
import re
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import trustme

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


# --- the web -----------------------------------------------------------------------------

DOCUMENT = Path(__file__).parent.parent / "docs/http-store.md"
NGINX = """\
daemon off;
master_process off;
error_log {folder}/error.log notice;
pid {folder}/pid;
events {{ worker_connections 1024; }}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2;
    fastcgi_temp_path {folder}/t3; uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
    {server}
}}
"""
LOGIN = "aladdin:open sesame"


class Authority:
    """Who signs the certificates of a test's servers; ``file`` is what clients trust."""

    def __init__(self, folder: Path) -> None:
        self.ca = trustme.CA()
        self.file = folder / "authority.pem"
        folder.mkdir(parents=True, exist_ok=True)
        self.ca.cert_pem.write_to_path(str(self.file))

    def context(self, certificate: trustme.LeafCert) -> ssl.SSLContext:
        """For a server that shows this certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(context)
        return context


class Nginx:
    """nginx with the configuration that ``docs/http-store.md`` has, serving one folder.

    TLS, with a certificate for 127.0.0.1, needs an ``authority``. ``login`` makes it ask for
    ``LOGIN``.
    """

    def __init__(
        self, folder: Path, root: Path, *, authority: Authority | None = None, login: bool = False
    ) -> None:
        self.folder = folder
        self.root = root
        self.port, self.tls_port = free_port(), free_port()
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True)
        text = documented()
        text = text.replace("listen 80;", f"listen 127.0.0.1:{self.port};")
        text = text.replace("/srv/store", str(root)).replace("/etc/nginx/", f"{folder}/")
        if authority is None:
            text = re.sub(r"ssl_certificate.*;|listen 443.*;", "", text)
        else:
            text = text.replace("listen 443 ssl;", f"listen 127.0.0.1:{self.tls_port} ssl;")
            certificate = authority.ca.issue_cert("127.0.0.1")
            certificate.private_key_pem.write_to_path(str(folder / "store.key"))
            for pem in certificate.cert_chain_pems:
                pem.write_to_path(str(folder / "store.crt"), append=True)
        if login:
            name, _, word = LOGIN.partition(":")
            (folder / "store.htpasswd").write_text(f"{name}:{{PLAIN}}{word}\n")
        else:
            text = re.sub(r"auth_basic.*;", "", text)
        self.config = text

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def tls_url(self) -> str:
        return f"https://127.0.0.1:{self.tls_port}"

    def requests(self) -> list[str]:
        """The lines of its access log."""
        return (self.folder / "access.log").read_text().splitlines()

    def start(self) -> "Nginx":
        """Run until ``stop``; returns when it listens."""
        config = self.folder / "nginx.conf"
        config.write_text(NGINX.format(folder=self.folder, server=self.config))
        command = ["/usr/sbin/nginx", "-q", "-e", f"{self.folder}/error.log", "-c", str(config)]
        self._process = subprocess.Popen(command, start_new_session=True)
        while self._process.poll() is None:
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", self.port), PATIENCE).close()
                return self
        raise AssertionError((self.folder / "error.log").read_text())

    def stop(self) -> None:
        """End it and every connection, at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE)
            self._process = None

    def pause(self) -> None:
        """Let it answer nobody, and keep every connection."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def __enter__(self) -> "Nginx":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def documented() -> str:
    """The configuration of nginx as the manual has it."""
    found = re.search(r"```nginx\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert found is not None
    return found[1]


HANG, CUT, DRIP = "hang", "cut", "drip"
Answer = Sequence[bytes | str]
"""What is sent, part by part: bytes; or be silent from here on (``HANG``), close the connection
(``CUT``), send a byte every now and then for ever (``DRIP``)."""


def answer(body: bytes = b"", status: str = "200 OK", **headers: str | int) -> bytes:
    """A whole answer; keywords are headers, and replace ``Content-Length`` too."""
    told = {"content_length": len(body), **headers}
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in told.items() if value != ""]
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "\r\n"]).encode() + body


class ScriptedServer:
    """A web server that gives each request the next of its answers, and the last one for ever."""

    def __init__(self, *answers: Answer, tls: ssl.SSLContext | None = None) -> None:
        self.heads: list[str] = []  # of the requests, in the order they came
        self._answers = list(answers)
        self._tls = tls
        self._stop = threading.Event()
        self._connections: list[socket.socket] = []
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = port_of(self._socket)
        self._threads = [threading.Thread(target=self._accept)]

    @property
    def url(self) -> str:
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """How many have been made."""
        return len(self._connections)

    def __enter__(self) -> "ScriptedServer":
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for one in [self._socket, *self._connections]:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        self._socket.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                self._connections.append(connection)
                self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
                self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, EOFError), contextlib.ExitStack() as open_ones:
            open_ones.callback(connection.close)
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
                open_ones.callback(connection.close)
            file = open_ones.enter_context(connection.makefile("rb"))
            while head := _head(file):
                self.heads.append(head)
                parts = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
                for part in parts:
                    self._send(connection, part)

    def _send(self, connection: socket.socket, part: bytes | str) -> None:
        if isinstance(part, bytes):
            connection.sendall(part)
        elif part == CUT:
            raise EOFError
        while isinstance(part, str) and not self._stop.wait(0.2 if part == DRIP else None):
            connection.sendall(b"x")


def _head(file: BinaryIO) -> str:
    """A request, empty when there is no more of them."""
    head = ""
    while line := file.readline().decode():
        if line == "\r\n":
            return head
        head += line
    return ""
