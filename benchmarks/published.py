"""The services of cold starts, in stores of their own, and what their starts need.

A service is pushed when a row first wants it, once in a run of the benchmark.
"""

import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

from benchmarks import host, services, trees

ROOT = host.WORK / "wan"  # what the server serves: a store a service
CACHES = host.WORK / "wan-caches"
NAMES = host.WORK / "wan.names"
POINT = host.WORK / "mnt-wan"
BASE = "base"  # the folder in a store with what curl brings

MADE = (ROOT, CACHES, NAMES)
"""What is removed when all is measured."""

Use = Callable[[Path], None]
"""What a service that is found at a path is for."""


class Service(NamedTuple):
    """A tree, and what its start is."""

    name: str
    store: str
    source: Path
    make: Callable[[Path], None]
    use: Use

    @property
    def folder(self) -> Path:
        return ROOT / self.store


def imports(place: Path) -> None:
    host.run(services.python(place, services.IMPORTS))


def pong(place: Path) -> None:
    with services.redis(place):
        pass


def nothing(_place: Path) -> None:
    pass


BARE, PACKED, PROFILED = (
    Service(f"bench__{name}", "python", host.WORK / "python", services.make_python, imports)
    for name in ("bare", "packed", "profiled")
)
REDIS_SERVICE = Service("bench__redis", "redis", host.WORK / "redis", services.make_redis, pong)
LARGE_SERVICE = Service("bench__large", "large", host.LARGE, trees.make_large, nothing)


# --- publishing --------------------------------------------------------------------------


@cache
def push(service: Service, *options: str) -> None:
    """Have a service in its store, made anew in every run of the benchmark."""
    host.once(service.source, service.make)
    host.say(f"pushing {service.name}")
    service.folder.mkdir(parents=True, exist_ok=True)
    where = ("--name", service.name, "--base", "/srv/bench", "--store", service.folder)
    host.aysfs("push", service.source, *where, *options)


def bare() -> Service:
    """The large Python, each of its files a blob and nothing else."""
    push(BARE)
    return BARE


def packed() -> Service:
    """The same in packs."""
    push(PACKED, "--packs")
    return PACKED


def with_profile(service: Service) -> None:
    """Have a service in packs that follow the profile of a recorded start."""
    push(service, "--packs")
    recorded(service)


@cache
def recorded(service: Service) -> None:
    """Have the profile of a start in the store."""
    POINT.mkdir(exist_ok=True)
    where = ("--store", service.folder, "--cache", fresh(), "--at", POINT)
    command = start_words(service, POINT)
    host.aysfs("profile", "record", service.name, *where, "--", *command)


def start_words(service: Service, place: Path) -> list[str | Path]:
    """The start of a service as one command that ends."""
    if service.use is imports:
        return services.python(place, services.IMPORTS)
    return [sys.executable, "-m", "benchmarks.services", place]


# --- what is in them ---------------------------------------------------------------------


def list_text(service: Service) -> str:
    return (service.folder / f"dedupe/md/{service.name}.flist").read_text()


def all_blobs(service: Service) -> tuple[Path, ...]:
    """Every blob of the files of a service (its store has those of no other)."""
    named = {line.split("|")[1] for line in list_text(service).splitlines() if "|2|" in line}
    found = (service.folder / "dedupe" / one[0] / one[1] / one for one in sorted(named))
    return tuple(path for path in found if path.stat().st_size)


def small_files(service: Service, count: int) -> list[tuple[str, str]]:
    """Paths and digests of files that have nothing in common, each with other bytes."""
    found = {}
    for line in list_text(service).splitlines():
        path, *columns = line.split("|")
        if len(columns) > 5 and columns[5] == "2" and 4096 <= int(columns[1]) <= 32768:
            found[columns[0]] = path.removeprefix("/srv/bench/")
    digests = random.Random(trees.SEED).sample(sorted(found), count)
    return [(found[digest], digest) for digest in digests]


@cache
def started_blobs(service: Service) -> tuple[Path, ...]:
    """The blobs that a start reads, by doing it beside the store."""
    alone = service._replace(name=BARE.name)  # with packs, more than what is read would come
    push(alone)
    where = fresh()
    with mounted(alone.name, "--store", alone.folder, "--cache", where, "--prefetch", "none"):
        alone.use(POINT)
    found = sorted(path.relative_to(where / "objects") for path in where.glob("objects/?/?/*"))
    return tuple(service.folder / "dedupe" / path for path in found)


@cache
def compressed(folder: Path, label: str, blobs: tuple[Path, ...]) -> tuple[str, str]:
    """Blobs as one file of zstd frames in a store: its URL below the store, and what it is."""
    target = folder / BASE / f"{label}.zst"
    target.parent.mkdir(exist_ok=True)
    NAMES.write_text("".join(f"{path}\n" for path in blobs))
    script = 'exec zstd -q -3 -c --filelist "$1" >"$2"'
    host.run(["sh", "-c", script, "sh", NAMES, target])
    size, whole = target.stat().st_size, sum(path.stat().st_size for path in blobs)
    words = f"{len(blobs)} blobs, {whole / 1e6:.1f} MB, {size / 1e6:.1f} MB as zstd -3 frames"
    return f"{BASE}/{label}.zst", words


# --- caches and mounts -------------------------------------------------------------------


def fresh() -> Path:
    """A cache that was never used. None is removed before the end: see ``rows.push_first``."""
    CACHES.mkdir(exist_ok=True)
    return Path(tempfile.mkdtemp(dir=CACHES)) / "cache"


@contextmanager
def mounted(name: str, *options: str | Path) -> Iterator[None]:
    """A mount, without a look at who serves it before the end: that would give it time."""
    POINT.mkdir(exist_ok=True)
    try:
        host.aysfs("mount", name, POINT, *options)
        yield
        pid = host.serving(POINT)
        host.aysfs("umount", POINT)
        host.wait_for_end(pid)
    finally:
        host.take_away(POINT)
