"""The real parts that builds need, on this host: Docker, an image, a registry, sshd, git.

Serves the tests of builds on every floor. Everything listens on loopback and lives in a folder
of the test, except what is dear: Docker itself and the base image stay for later sessions.
"""

import contextlib
import fcntl
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from aysfs.build.engine import Docker

BASE_IMAGE = "aysfs-test/base:1"
RELEASE = "bookworm"
PATIENCE = 60.0  # seconds for a server to answer

_ROOT = Path(__file__).resolve().parent.parent
_SBIN = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
_AS_ROOT = [] if os.getuid() == 0 else ["sudo", "-n"]


def run(*command: object, **more: str) -> str:
    """Run a command that must succeed; its standard output."""
    words = [str(word) for word in command]
    env = {**os.environ, "PATH": _SBIN, **more}
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


def free_port() -> int:
    """A port of loopback that nobody has. Somebody else may take it meanwhile."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def unique() -> str:
    """A part of a name that no other test of this host has."""
    return f"{os.getpid()}-{os.urandom(4).hex()}"


def wait_for_port(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Wait until a server listens; fail with its log when it ends or takes too long."""
    end = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        assert process.poll() is None, f"the server ended: {log.read_text()}"
        assert time.monotonic() < end, f"no answer on port {port}: {log.read_text()}"
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.02)


# --- Docker and the base image -----------------------------------------------------------


def docker() -> Docker:
    """Docker on this host, started when it does not run."""
    run(_ROOT / "scripts/docker.sh")
    return Docker()


@contextlib.contextmanager
def second_docker() -> Iterator[str]:
    """The address of another Docker on this host, with no image and no network; needs root.

    It has a network namespace of its own: without one it takes away the `docker0` of the first.
    """
    folder = Path(tempfile.mkdtemp(prefix="aysfs-dockerd-"))
    address = f"unix://{folder}/docker.sock"
    command = ["unshare", "--net", "dockerd", "-H", address, "--bridge=none"]
    command += ["--iptables=false", "--ip6tables=false"]
    for name, place in (("data-root", "data"), ("exec-root", "exec"), ("pidfile", "pid")):
        command += [f"--{name}", str(folder / place)]
    log = folder / "log"
    try:
        with log.open("wb") as out, _server(command, out) as process:
            end = time.monotonic() + PATIENCE
            while "API listen on" not in log.read_text(errors="replace"):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < end, log.read_text()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.05)
            yield address
    finally:
        shutil.rmtree(folder)


def base_image(engine: Docker) -> str:
    """A small Debian made from the mirror that this host's own apt uses; made once."""
    with open(Path(tempfile.gettempdir()) / f"aysfs-test-base-{os.getuid()}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if engine.image_id(BASE_IMAGE) is None:
            _make_base_image()
    return BASE_IMAGE


def _make_base_image() -> None:
    folder = Path(tempfile.mkdtemp(prefix="aysfs-base-"))
    try:
        mirror = [uri] if (uri := _mirror()) else []
        arguments = ["--variant=minbase", RELEASE, str(folder), *mirror]
        run(*_AS_ROOT, "debootstrap", *arguments, DEBIAN_FRONTEND="noninteractive")
        packed = ["tar", "-C", str(folder), "--numeric-owner", "--exclude=./var/cache/apt/*"]
        with subprocess.Popen([*_AS_ROOT, *packed, "-c", "."], stdout=subprocess.PIPE) as tar:
            subprocess.run(
                ["docker", "import", "--change", 'CMD ["/bin/sh"]', "-", BASE_IMAGE],
                stdin=tar.stdout,
                stdout=subprocess.DEVNULL,
                timeout=300,
                check=True,
            )
        assert tar.returncode == 0
    finally:
        run(*_AS_ROOT, "rm", "-rf", folder)


def _mirror() -> str | None:
    """Where this host's apt has Debian itself from; None leaves the choice to debootstrap."""
    targets = run("apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)")
    lines = [line.split() for line in targets.splitlines()]
    found = [line[0] for line in lines if len(line) == 2 and line[0].endswith("/debian/")]
    return found[0] if found else None


def small_image(name: str) -> None:
    """An image of one small file, of an id that no other image has."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "id").write_text(unique())
        run("tar", "-cf", f"{folder}/image.tar", "-C", folder, "id")
        run("docker", "import", f"{folder}/image.tar", name)


def shell_image(name: str) -> None:
    """An image of this host's sh, coreutils and tar: builds run in it, and it is soon sent."""
    programs = [Path(found) for word in _PROGRAMS if (found := shutil.which(word, path=_SBIN))]
    words = run("ldd", *programs).split()
    libraries = {Path(word) for word in words if word.startswith("/") and not word.endswith(":")}
    with tempfile.TemporaryDirectory() as folder:
        for source in (*programs, *libraries):
            place = f"bin/{source.name}" if source in programs else str(source).lstrip("/")
            (Path(folder, "root") / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, Path(folder, "root") / place)
        Path(folder, "root", "id").write_text(unique())
        run("tar", "-cf", f"{folder}/image.tar", "--owner=0", "-C", f"{folder}/root", ".")
        run("docker", "import", f"{folder}/image.tar", name)


_PROGRAMS = ("sh", "cat", "chmod", "echo", "false", "head", "ls", "md5sum", "mkdir", "readlink",
             "rm", "sleep", "stat", "tar", "test", "touch")  # fmt: skip


# --- a registry --------------------------------------------------------------------------


@contextlib.contextmanager
def registry(folder: Path) -> Iterator[str]:
    """An empty registry; its ``address:port``, which names of images start with."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    config = folder / "registry.yml"
    config.write_text(
        f"version: 0.1\nhttp: {{addr: '127.0.0.1:{port}'}}\n"
        f"storage: {{filesystem: {{rootdirectory: '{folder / 'registry'}'}}}}\n"
    )
    log = folder / "registry.log"
    with log.open("wb") as out, _server(["docker-registry", "serve", str(config)], out) as process:
        wait_for_port(port, process, log)
        yield f"127.0.0.1:{port}"


@contextlib.contextmanager
def _server(command: Sequence[str], log: IO[bytes]) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that ends with the block."""
    environment = {**os.environ, "PATH": _SBIN}
    with subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


# --- sshd --------------------------------------------------------------------------------


class Sshd:
    """An OpenSSH server of this user on loopback, with host keys and accounts of its own."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.host = "127.0.0.1"
        self.login = pwd.getpwuid(os.getuid()).pw_name  # whatever $USER says
        self.port = free_port()
        self.key = folder / "id"
        self.known_hosts = folder / "known_hosts"
        self._host_key = folder / "host_key"
        self._log = folder / "sshd.log"
        self._process: subprocess.Popen[bytes] | None = None
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key)
        shutil.copy(self.key.with_suffix(".pub"), folder / "authorized_keys")
        self.new_host_key()
        self.trust()

    def new_host_key(self) -> None:
        """Another host key from the next start on; ``trust`` it or not."""
        self._host_key.unlink(missing_ok=True)
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self._host_key)

    def trust(self) -> None:
        """Write the present host key to ``known_hosts``."""
        public = self._host_key.with_suffix(".pub").read_text()
        self.known_hosts.write_text(f"[{self.host}]:{self.port} {public}")

    def start(self) -> "Sshd":
        config = self.folder / "sshd_config"
        config.write_text(
            f"ListenAddress {self.host}\nPort {self.port}\nHostKey {self._host_key}\n"
            f"AuthorizedKeysFile {self.folder / 'authorized_keys'}\nPidFile none\n"
            "UsePAM no\nStrictModes no\nPermitRootLogin prohibit-password\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\n"
            "Subsystem sftp internal-sftp\n"
        )
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [shutil.which("sshd", path=_SBIN) or "sshd", "-D", "-e", "-f", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_for_port(self.port, self._process, self._log)
        return self

    def stop(self) -> None:
        """End the server and every connection of it, at once. Not running is fine."""
        process, self._process = self._process, None
        if process is None:
            return
        for pid in _family(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()

    @contextlib.contextmanager
    def silent(self) -> Iterator[None]:
        """Every connection hangs while the block runs, as when a cable is pulled."""
        assert self._process is not None
        stopped = _family(self._process.pid)
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in stopped:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def ssh_config(self) -> Path:
        """A configuration file with which a plain ``ssh`` reaches this server."""
        path = self.folder / "ssh_config"
        path.write_text(
            f"Host *\n  IdentityFile {self.key}\n  IdentitiesOnly yes\n"
            f"  UserKnownHostsFile {self.known_hosts}\n  GlobalKnownHostsFile none\n"
        )
        return path

    def __enter__(self) -> "Sshd":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def _family(pid: int) -> list[int]:
    """A process and all that descend from it: each connection of sshd is a session of its own."""
    parents: dict[int, int] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{name}/stat").read_text(errors="replace")
            parents[int(name)] = int(status.rpartition(")")[2].split()[1])
    found = [pid]
    for one in found:  # grows meanwhile
        found += [child for child, parent in parents.items() if parent == one]
    return found


# --- git ---------------------------------------------------------------------------------

_GIT = {
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "test",
    "GIT_AUTHOR_EMAIL": "test@example.org",
    "GIT_COMMITTER_NAME": "test",
    "GIT_COMMITTER_EMAIL": "test@example.org",
}


class GitRepository:
    """A repository that a test makes: ``main`` at first, each commit an hour later."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self._time = 1_500_000_000
        self.git("init", "-q", "-b", "main")

    @property
    def url(self) -> str:
        return f"file://{self.folder}"

    def git(self, *words: object) -> str:
        now = f"{self._time} +0000"
        dates = {"GIT_AUTHOR_DATE": now, "GIT_COMMITTER_DATE": now}
        return run("git", "-C", self.folder, *words, **_GIT, **dates).strip()

    def commit(self, files: Mapping[str, str | bytes | Path | None] = {}) -> str:
        """Commit files: text or bytes, a Path for a link to it, None to remove; its id.

        A text that starts with ``#!`` is executable.
        """
        for name, content in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            if isinstance(content, Path):
                path.symlink_to(content)
            elif content is not None:
                data = content.encode() if isinstance(content, str) else content
                path.write_bytes(data)
                path.chmod(0o755 if data.startswith(b"#!") else 0o644)
        self._time += 3600
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", "a commit")
        return self.git("rev-parse", "HEAD")

    @property
    def time(self) -> int:
        """When the last commit was made."""
        return self._time
