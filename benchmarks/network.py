"""A slow network: a client and a server in two network namespaces, and a line between them.

The server's side is held to the bandwidth by tbf, which shapes what is sent, and every byte is
delayed by ``delay.c``, since netem is not in every kernel. The namespaces are named after this
process and go with it; those of a process that is gone are removed by the next.
"""

import contextlib
import ctypes
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks import host
from tests.servers import Nginx

CLIENT, SERVER = "10.213.77.1", "10.213.77.2"
DELAY = host.WORK / "delay"
FOLDER = host.WORK / "web"
PORT = 8080  # of the line's end, in a namespace where nothing else listens
_PREFIX = "aysfs-wan-"
_NAMESPACES = Path("/run/netns")
_CLONE_NEWNET = 0x40000000  # <sched.h>


class Setting(NamedTuple):
    """A line: seconds of a round trip, and bytes a second."""

    label: str
    words: str
    round_trip: float
    bandwidth: float
    burst: str  # of tbf; what the kernel's timer lets through at once

    def seconds(self, size: float) -> float:
        """What so many bytes take on the line alone, the first round trip included."""
        return self.round_trip + size / self.bandwidth


SLOW = Setting("slow", "50 ms, 100 Mbit/s", 0.050, 100e6 / 8, "256kb")
FAST = Setting("fast", "1 ms, 1 Gbit/s", 0.001, 1e9 / 8, "1mb")
SETTINGS = (SLOW, FAST)


class Line(NamedTuple):
    """A server that runs, seen from the client."""

    setting: Setting
    url: str
    nginx: Nginx

    def requests(self) -> int:
        """How many the server has answered so far."""
        return len(self.nginx.requests())


def prepare() -> None:
    """Compile the delay, and remove what a killed run left."""
    if os.geteuid():
        raise host.NotHereError("only root makes network namespaces")
    host.run(["cc", "-O2", "-Wall", "-Werror", "-o", DELAY, Path(__file__).with_name("delay.c")])
    for left in _NAMESPACES.glob(f"{_PREFIX}*"):
        number = re.match(rf"{_PREFIX}(\d+)-", left.name)
        if number is not None and not Path(f"/proc/{number[1]}").exists():
            host.run(["ip", "netns", "del", left.name])


@contextlib.contextmanager
def line(setting: Setting, root: Path) -> Iterator[Line]:
    """A folder on a web server at the far end; the block runs as the client."""
    client, server = (f"{_PREFIX}{os.getpid()}-{side}" for side in ("client", "server"))
    host.remove(FOLDER)
    with contextlib.ExitStack() as undo:
        for name in (client, server):
            host.run(["ip", "netns", "add", name])
            undo.callback(host.run, ["ip", "netns", "del", name])
            host.run(["ip", "-n", name, "link", "set", "lo", "up"])
        pair = ["type", "veth", "peer", "name", "far", "netns", server]
        host.run(["ip", "-n", client, "link", "add", "near", *pair])
        for name, device, address in ((client, "near", CLIENT), (server, "far", SERVER)):
            host.run(["ip", "-n", name, "addr", "add", f"{address}/24", "dev", device])
            host.run(["ip", "-n", name, "link", "set", device, "up"])
        shape = ["rate", f"{setting.bandwidth * 8:.0f}bit", "burst", setting.burst]
        tbf = ["qdisc", "add", "dev", "far", "root", "tbf", *shape, "latency", "50ms"]
        host.run(["tc", "-n", server, *tbf])
        with inside(server):
            nginx = undo.enter_context(Nginx(FOLDER, root))
            undo.enter_context(delayed(nginx.port, setting.round_trip / 2))
        with inside(client):
            yield Line(setting, f"http://{SERVER}:{PORT}", nginx)


@contextlib.contextmanager
def delayed(port: int, seconds: float) -> Iterator[None]:
    """What comes to ``PORT`` of this namespace goes to a port of it, every byte so much later."""
    words = [str(DELAY), str(PORT), str(port), f"{seconds * 1e6:.0f}"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        if process.stdout is None or process.stdout.readline() != "ready\n":
            raise host.FailedError("the delay does not listen")
        yield
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def inside(namespace: str) -> Iterator[None]:
    """This thread, and every process that it starts, in a network namespace."""
    with open("/proc/thread-self/ns/net", "rb") as home, open(_NAMESPACES / namespace, "rb") as new:
        _enter(new.fileno())
        try:
            yield
        finally:
            _enter(home.fileno())


def _enter(descriptor: int) -> None:
    """setns(2), which Python has from 3.12 on."""
    setns: Callable[[int, int], int] = ctypes.CDLL(None, use_errno=True).setns
    if setns(descriptor, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
