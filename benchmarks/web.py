"""Stores on a web server: nginx with the manual's configuration, and curl as the peer.

nginx, curl and what is measured share the cores. Owns ``.bench/web`` and what curl brings.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from benchmarks import host
from benchmarks.host import LARGE, LARGE_NAME, STORE, TREE, TREE_NAME
from tests.servers import Nginx
from tests.store_server import StoreServer

FOLDER, BROUGHT = host.WORK / "web", host.WORK / "brought"
CONNECTIONS = 16


@contextlib.contextmanager
def served() -> Iterator[str]:
    """The store of this run, with the tree and the large file in it, on a web server."""
    host.pushed(TREE_NAME, TREE)
    host.pushed(LARGE_NAME, LARGE)
    host.remove(FOLDER)
    with Nginx(FOLDER, STORE) as server:
        yield server.url


def blobs() -> list[Path]:
    """What curl has to bring: every blob but the large one and the empty one."""
    found = (path for path in STORE.glob("*/?/?/*"))
    return [path for path in found if 0 < path.stat().st_size <= 8 << 20]


def warm() -> None:
    """Have every blob of the store in the page cache, as a server of its own would."""
    host.run(["sh", "-c", 'find "$1" -type f -print0 | xargs -0 cat >/dev/null', "sh", STORE])


def curl(url: str, wanted: list[Path]) -> float:
    """Bring these blobs side by side into files as a cache has them; the seconds it took."""
    host.remove(BROUGHT)
    config = host.WORK / "curl.config"
    with config.open("w") as file:
        for path in wanted:
            target = BROUGHT / path.parent.parent.name / path.parent.name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            file.write(f'url = "{url}/{path.relative_to(STORE)}"\noutput = "{target}"\n')
    settings = ["--silent", "--fail-early", "--parallel", "--parallel-max", str(CONNECTIONS)]
    seconds = host.timed(["curl", *settings, "--config", config])
    brought = sum(1 for path in BROUGHT.glob("*/*/*") if path.stat().st_size)
    if brought != len(wanted):
        raise host.FailedError(f"curl brought {brought} of {len(wanted)} blobs")
    host.remove(BROUGHT)
    return seconds


def curl_large(url: str) -> float:
    """Bring the blob of 1 GiB into a file; the seconds it took."""
    large = next(path for path in STORE.glob("*/?/?/*") if path.stat().st_size > 8 << 20)
    host.remove(BROUGHT)
    seconds = host.timed(["curl", "--silent", "-o", BROUGHT, f"{url}/{large.relative_to(STORE)}"])
    host.remove(BROUGHT)
    return seconds


def fetch(url: str, name: str) -> float:
    """``aysfs fetch`` into an empty cache; the seconds it took."""
    host.remove(host.CACHE)
    return host.aysfs("fetch", name, "--store", url)


def push_to_server() -> tuple[float, float, float]:
    """Seconds of a push into an empty directory, to an empty server, and to it again."""
    folders = host.WORK / "pushed", host.WORK / "served"
    for folder in folders:
        host.remove(folder)
        folder.mkdir()
    beside, served = folders
    arguments = ("push", TREE, "--name", TREE_NAME, "--base", "/srv/bench", "--store")
    host.settle()
    directory = host.aysfs(*arguments, beside)
    host.settle()
    with StoreServer(served, "--open", "--no-access-log") as server:
        first = host.aysfs(*arguments, server.url)
        again = host.aysfs(*arguments, server.url)
    host.settle()
    return directory, first, again


def processor_seconds(pid: int) -> float:
    """What a process has used of the processors so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
