"""Starting a daemon: what it is told, and how it tells that it is ready.

A daemon is a module run by this Python. It reads its options from standard input and writes one
JSON line to a descriptor that it is given: that it is ready, or why it never will be.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from aysfs.errors import MountFailed
from aysfs.mount.client import DaemonFailed
from aysfs.mount.runtime import PATIENCE

_LOG_TAIL = 5


def command_of(module: str, answer: int) -> list[str]:
    """The command line of a daemon that answers on this descriptor, -1 for nowhere."""
    # -P: a module in the working directory must not become part of a daemon.
    return [sys.executable, "-P", "-m", module, str(answer)]


def start_daemon(
    module: str, options: str, log: Path, abandon: Callable[["subprocess.Popen[bytes]"], None]
) -> int:
    """Start a daemon and wait until it is ready; its pid. Raises its own error.

    ``abandon`` ends it when we are interrupted while we wait.
    """
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    receiver, sender = os.pipe()
    with open(log, "ab") as log_file, os.fdopen(receiver, "rb") as answers:
        try:
            daemon = subprocess.Popen(
                command_of(module, sender),
                stdin=subprocess.PIPE,
                stdout=log_file,
                stderr=log_file,
                pass_fds=[sender],
                start_new_session=True,
                cwd="/",
            )
        finally:
            os.close(sender)
        assert daemon.stdin is not None
        try:
            daemon.stdin.write(options.encode())
            daemon.stdin.close()
            line = answers.readline()
        except KeyboardInterrupt:
            abandon(daemon)
            raise
    if not line:
        daemon.wait(PATIENCE)
        raise MountFailed(
            f"the daemon ended with {daemon.returncode} before the mount was there:"
            f" {_last_lines(log)}",
            hint=f"the log is {log}",
        )
    answer = json.loads(line)
    if "failed" in answer:
        daemon.wait(PATIENCE)
        raise DaemonFailed(answer["failed"], answer["code"], answer["hint"])
    daemon.returncode = 0  # it outlives this command; Popen must not warn about that
    return daemon.pid


def end_daemon(daemon: "subprocess.Popen[bytes]") -> None:
    """End a daemon that nobody waits for any more."""
    daemon.terminate()
    try:
        daemon.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()


def _last_lines(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return " | ".join(lines[-_LOG_TAIL:])
