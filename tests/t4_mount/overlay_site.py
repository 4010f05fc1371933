"""What the tests of the overlay engine share: its processes, its waits, and its command line."""

import errno
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from aysfs.kernel.table import find_kernel_mount, kernel_mounts
from aysfs.mount.client import Lost
from aysfs.mount.overlay.life import host_of
from aysfs.mount.runtime import folder_of, is_served, read_record
from tests.t4_mount.conftest import PYTHON, Site, ended, run

PATIENCE = 30.0
TROUBLE = {errno.EIO, errno.ENOTCONN, errno.ESTALE, errno.ECONNABORTED}
"""What a reader may see when there is no daemon, or it is just going."""


def until(condition: Callable[[], object]) -> None:
    """Wait for something that a change of the mount table may bring, or a process's end."""
    end = time.monotonic() + PATIENCE
    with open("/proc/self/mountinfo") as table:
        changes = select.poll()
        changes.register(table, select.POLLPRI)
        while not condition():
            assert time.monotonic() < end, condition
            changes.poll(20)


def error_of(path: Path) -> int:
    """The errno of reading a file, 0 when it can be read."""
    try:
        path.read_bytes()
    except OSError as error:
        return error.errno or -1
    return 0


def worker_of(site: Site, point: Path | None = None) -> int | None:
    """The living daemon that serves a mount point, None while there is none."""
    record = read_record(folder_of(site.root / "run", str(point or site.point)))
    return record.pid if record is not None and record.alive else None


def wait_for_another(site: Site, worker: int, point: Path | None = None) -> None:
    """Until a mount point is served by another daemon than this dead one, and can be asked."""
    until(lambda: worker_of(site, point) not in (None, worker) and _answers(site, point))


def _answers(site: Site, point: Path | None) -> bool:
    """A daemon has its claim a moment before its control socket."""
    try:
        site.ask("status", point)
    except Lost:
        return False
    return True


def kill_worker(site: Site) -> int:
    """Kill the daemon of a mount; its pid."""
    worker = site.pid()
    os.kill(worker, signal.SIGKILL)
    return worker


@contextmanager
def nobody_repairs(site: Site) -> Iterator[int]:
    """Stop the supervisor for the length of the block; its pid."""
    supervisor = site.children[-1]
    os.kill(supervisor, signal.SIGSTOP)
    os.waitpid(supervisor, os.WUNTRACED)
    try:
        yield supervisor
    finally:
        os.kill(supervisor, signal.SIGCONT)


def kill_both(site: Site) -> int:
    """Kill the supervisor and its daemon; the daemon's pid."""
    worker, supervisor = site.pid(), site.children.pop()
    os.kill(supervisor, signal.SIGKILL)
    os.waitpid(supervisor, 0)
    os.kill(worker, signal.SIGKILL)
    until(lambda: not is_served(folder_of(site.root / "run", str(site.point))))
    return worker


def children(process: int, module: str) -> list[int]:
    """The living children of a process that run a module of ours."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[1]
            words = (folder / "cmdline").read_text(errors="replace").split("\0")
            if parent == str(process) and module in words:
                found.append(int(folder.name))
    return found


def is_overlay(point: Path) -> bool:
    mount = find_kernel_mount(str(point))
    return mount is not None and mount.kind == "overlay"


def mounts_below(folder: Path) -> list[str]:
    return [one.point for one in kernel_mounts() if one.point.startswith(f"{folder}/")]


def cached(site: Site, md5: str) -> Path:
    return site.root / "cache" / "objects" / md5[0] / md5[1] / md5


def command(site: Site, *words: object) -> list[str]:
    """The command line of ``aysfs`` for the folders of a site."""
    folders = {"STORE": "store", "CACHE": "cache", "RUNTIME": "run", "LOGS": ""}
    settings = [f"AYSFS_{name}={site.root / folder}" for name, folder in folders.items()]
    settings += ["AYSFS_KEEP_FREE=0", "AYSFS_CONFIG=/dev/null", "LC_ALL=C.UTF-8"]
    main = (PYTHON, "-P", "-c", "from aysfs.cli.main import main; main()")
    return ["env", *settings, *main, *map(str, words)]


def aysfs(site: Site, *words: object, inside: tuple[object, ...] = ()) -> str:
    """Run ``aysfs``, inside another command if there is one; what it says. It must succeed."""
    done = run(*inside, *command(site, *words))
    assert done.returncode == 0, done
    return done.stdout


def refused(site: Site, *words: object, inside: tuple[object, ...] = ()) -> str:
    """Run what must fail; what it says on stderr, which is a line and maybe a hint."""
    done = run(*inside, *command(site, *words))
    assert done.returncode not in (0, 1), done
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") <= 2
    return done.stderr


@contextmanager
def started(*words: object) -> Iterator[subprocess.Popen[str]]:
    """A process that reads lines from us and writes lines to us; killed at the end."""
    process = subprocess.Popen(
        [str(word) for word in words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def told(process: subprocess.Popen[str], line: str = "") -> str:
    """Tell a process a line, if there is one, and what it says then."""
    assert process.stdin is not None
    assert process.stdout is not None
    if line:
        process.stdin.write(line + "\n")
        process.stdin.flush()
    return process.stdout.readline().rstrip("\n")


_OWN_DAEMON = """
import logging, sys
from aysfs.cache.incoming import Incoming
from aysfs.mount.overlay import fault, host, serve, sources, stack, trees
from aysfs.mount.overlay.options import host_options_from
logging.basicConfig(level="INFO", format="%(levelname)s %(name)s: %(message)s")
{change}
serve.run(host_options_from(sys.stdin.readline()), lambda: print("ready", flush=True))
"""


@contextmanager
def own_daemon(site: Site, change: str) -> Iterator[subprocess.Popen[str]]:
    """A daemon, without supervisor, in which something is changed; it must end with its mounts."""
    host = host_of(site.options())
    with open(site.root / "own.log", "wb") as log:
        daemon = subprocess.Popen(
            [PYTHON, "-c", _OWN_DAEMON.format(change=change)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    with daemon, ended(daemon):
        assert told(daemon, host.to_json()) == "ready"
        yield daemon
        # A mount namespace that another test made meanwhile has our mounts until it ends.
        assert daemon.wait(90) == 0
        assert os.listdir(site.root / "run") == []
