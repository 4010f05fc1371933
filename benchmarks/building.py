"""What a build costs beyond its container's own work: the tree streamed out, hashed and stored.

Rows of ``rows``, and the builder that they run as a process of its own, so that its memory is
its own: ``python -m benchmarks.building CONTAINER PATH STORE``. Needs Docker and the image that
the tests of builds make.
"""

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import trio

from aysfs.build.capture import capture
from aysfs.build.container import Container
from aysfs.build.engine import Docker, Mounted
from aysfs.errors import AysfsError
from aysfs.names import parse_name
from aysfs.publish.put import put_missing
from aysfs.publish.stream import TarTree, publish_list
from aysfs.store.claims import Claim
from aysfs.store.directory import DirectoryStore
from aysfs.store.protocol import BlobSource
from benchmarks import host

IMAGE = "aysfs-test/base:1"
NAME = "aysfs-bench-build"
INSIDE = "/opt/bench"


class Built(NamedTuple):
    """What a builder reports, and what the peer took for the same tree."""

    seconds: float
    peak: float  # MiB
    copying: float
    summing: float


@cache
def built() -> Built:
    """One run, which all rows share."""
    with container_with_tree() as container:
        out = host.WORK / "copied-out"
        host.remove(out)
        host.empty_store()
        container.run(["sh", "-c", f"tar -cf - {INSIDE} | cat >/dev/null"], lambda said: None)
        host.settle()
        copying = host.timed(["docker", "cp", "-q", f"{NAME}:{INSIDE}", out])
        summing = host.timed(
            ["sh", "-c", 'cd "$1" && xargs -0 md5sum <"$2" >/dev/null', "sh", out, host.FILE_PATHS]
        )
        host.settle()
        said = json.loads(
            host.run(
                [sys.executable, "-m", "benchmarks.building", container.id, INSIDE, host.STORE]
            )
        )
        host.remove(out)
        return Built(said["seconds"], said["peak"], copying, summing)


@contextlib.contextmanager
def container_with_tree() -> Iterator[Container]:
    """A container that has the tree on its own file system."""
    try:
        docker = Docker()
        mounts = [Mounted(str(host.TREE), "/tree")]
        container = docker.start(IMAGE, name=NAME, service="bench", mounts=mounts)
    except AysfsError as error:
        raise host.NotHereError(str(error)) from error
    try:
        if container.run(["cp", "-a", "/tree", INSIDE], lambda said: None):
            raise host.FailedError("the tree cannot be copied into the container")
        yield container
    finally:
        container.remove()
        docker.close()


def verify_tree() -> tuple[float, float]:
    """Seconds of `aysfs verify` of the pushed tree, blobs cached, and of md5sum of the tree."""
    host.cached(host.TREE_NAME)
    summing = host.timed(
        [
            *("sh", "-c", 'cd "$1" && xargs -0 md5sum <"$2" >/dev/null', "sh"),
            *(host.TREE, host.FILE_PATHS),
        ]
    )
    return host.aysfs("verify", host.TREE_NAME, "--image", IMAGE), summing


def build_again() -> float:
    """Seconds of a build of a shipped template when nothing changed."""
    host.aysfs("build", "base")
    return host.aysfs("build", "base")


# --- the builder -------------------------------------------------------------------------


async def build(container: Container, path: str, store: Path) -> None:
    """What `aysfs build` does once its container has done its work."""
    claims = [Claim(DirectoryStore(store, create=True))]

    def put(batch: list[BlobSource]) -> None:
        trio.from_thread.run(put_missing, claims, batch)

    tree = TarTree(put)
    await trio.to_thread.run_sync(capture, container, path, tree, print)
    header, entries = await trio.to_thread.run_sync(tree.finish)
    await publish_list(claims, parse_name("bench__build"), header, entries)


def peak() -> float:
    """MiB that this process had at most."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise host.FailedError("no VmHWM")


def main(identity: str, path: str, store: str) -> None:
    start = time.monotonic()
    docker = Docker()
    trio.run(build, Container(docker, identity, NAME), path, Path(store))
    docker.close()
    print(json.dumps({"seconds": time.monotonic() - start, "peak": peak()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
