"""Cold starts over a slow network: ``python -m benchmarks.wan [--only ROW]... [--json]``.

Client and server are in two network namespaces (``network``), nginx serves. *Cold* means a cache
that was never used and no page, name or inode in the kernel, our own program's included; the
server's blobs are in its page cache, as those of a busy server are.

Most rows are times of the *base*: curl brings the same blobs, each a zstd frame, in one request,
and then the same is done once more with everything here, the mount included.
"""

import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

from benchmarks import host, network, run, services, trees
from benchmarks.figures import Measured, Row, seconds_of
from benchmarks.network import FAST, SLOW, Line, Setting

ROOT = host.WORK / "wan"  # what the server serves: a store a service
CACHES = host.WORK / "wan-caches"
BROUGHT, NAMES = host.WORK / "wan.brought", host.WORK / "wan.names"
POINT = host.WORK / "mnt-wan"
PYTHON, REDIS = host.WORK / "python", host.WORK / "redis"
BASE = "base"  # the folder in a store with what curl brings

BARE, PACKED, PROFILED = "bench__bare", "bench__packed", "bench__profiled"
REDIS_NAME, LARGE_NAME = "bench__redis", "bench__large"

CHUNK = 256 << 10
RANDOM_READS, RANDOM_READERS, PAGE = 1000, 16, 4 << 10
BESIDE = 30
AGAIN = {SLOW: 1, FAST: 3}
"""How often a run is made: the slow line's own time hides what disturbs."""


class Ran(NamedTuple):
    """How long a run took, and how many requests the server answered for it."""

    seconds: float
    requests: int


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


def python_service(name: str) -> Service:
    return Service(name, "python", PYTHON, services.make_python, imports)


REDIS_SERVICE = Service(REDIS_NAME, "redis", REDIS, services.make_redis, pong)
LARGE_SERVICE = Service(LARGE_NAME, "large", host.LARGE, trees.make_large, nothing)


# --- what is here ------------------------------------------------------------------------


@cache
def has(option: str, *command: str) -> bool:
    """Whether a command of the project knows an option, or a group a command."""
    return option in host.run([host.command(), *command, "--help"]).split()


def prefetch(kind: str) -> list[str]:
    return ["--prefetch", kind] if has("--prefetch", "mount") else []


def missing(*needed: tuple[str, ...]) -> str:
    """A note on what the figure would need and nobody has built yet."""
    lacking = [
        " ".join([*command, option]) for option, *command in needed if not has(option, *command)
    ]
    return f"; NOT HERE YET: {', '.join(lacking)}" if lacking else ""


@cache
def published(service: Service, *options: str) -> None:
    """Have a service in its store, made anew in every run of the benchmark."""
    host.once(service.source, service.make)
    host.say(f"pushing {service.name}")
    service.folder.mkdir(parents=True, exist_ok=True)
    where = ("--name", service.name, "--base", "/srv/bench", "--store", service.folder)
    host.aysfs("push", service.source, *where, *options)


def bare(name: str) -> Service:
    """The large Python, each of its files a blob and nothing else."""
    service = python_service(name)
    published(service)
    return service


def packed(name: str) -> Service:
    """The same in packs, where they are here."""
    service = python_service(name)
    published(service, *(["--packs"] if has("--packs", "push") else []))
    return service


@cache
def recorded(service: Service) -> None:
    """Have the profile of a start in the store."""
    if not has("profile"):
        return
    POINT.mkdir(exist_ok=True)
    where = ("--store", service.folder, "--cache", fresh(), "--at", POINT)
    command = start_words(service, POINT)
    host.aysfs("profile", "record", service.name, *where, "--", *command)


def start_words(service: Service, place: Path) -> list[str | Path]:
    """The start of a service as one command that ends."""
    if service.use is imports:
        return services.python(place, services.IMPORTS)
    return [sys.executable, "-m", "benchmarks.services", place]


def profiled(service: Service) -> Service:
    published(service, *(["--packs"] if has("--packs", "push") else []))
    recorded(service)
    return service


# --- bases -------------------------------------------------------------------------------


@cache
def started_blobs(service: Service) -> tuple[Path, ...]:
    """The blobs that a start reads, by doing it beside the store."""
    alone = service._replace(name=BARE)  # with packs, more than what is read would come
    published(alone)
    where = fresh()
    with mounted(alone.name, "--store", alone.folder, "--cache", where, *prefetch("none")):
        alone.use(POINT)
    found = sorted(path.relative_to(where / "objects") for path in where.glob("objects/?/?/*"))
    return tuple(service.folder / "dedupe" / path for path in found)


def all_blobs(service: Service) -> tuple[Path, ...]:
    """Every blob of the files of a service (its store has those of no other)."""
    named = {line.split("|")[1] for line in list_text(service).splitlines() if "|2|" in line}
    found = (service.folder / "dedupe" / one[0] / one[1] / one for one in sorted(named))
    return tuple(path for path in found if path.stat().st_size)


def list_text(service: Service) -> str:
    return (service.folder / f"dedupe/md/{service.name}.flist").read_text()


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


def curl(line: Line, service: Service, path: str) -> float:
    """One request into a file, everything cold as for a start."""
    host.remove(BROUGHT)
    chill(service)
    return host.timed(["curl", "--silent", "--fail", "-o", BROUGHT, store_url(line, service, path)])


def store_url(line: Line, service: Service, path: str = "") -> str:
    return f"{line.url}/{service.store}/{path}".rstrip("/")


# --- runs --------------------------------------------------------------------------------


def fresh() -> Path:
    """A cache that was never used. None is removed before the end: see ``rows.push_first``."""
    CACHES.mkdir(exist_ok=True)
    return Path(tempfile.mkdtemp(dir=CACHES)) / "cache"


def chill(service: Service) -> None:
    """Nothing is in memory but what the server serves."""
    host.settle()
    host.drop_caches()
    words = 'find "$1" -type f -print0 | xargs -0 cat >/dev/null'
    host.run(["sh", "-c", words, "sh", service.folder])


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


def start(line: Line, service: Service, where: Path, *options: str) -> Ran:
    """Mount and use."""
    before = line.requests()
    began = time.monotonic()
    with mounted(service.name, "--store", store_url(line, service), "--cache", where, *options):
        service.use(POINT)
        seconds = time.monotonic() - began
        requests = line.requests() - before
    return Ran(seconds, requests)


def cold_start(line: Line, service: Service, *options: str) -> tuple[Ran, float]:
    """A start of what was never here, and the seconds of the next one, which has it all."""
    where = fresh()
    chill(service)
    first = start(line, service, where, *options)
    return first, start(line, service, where, *options).seconds


def fetch(line: Line, service: Service) -> tuple[Ran, float]:
    """``aysfs fetch`` of everything, and once more."""
    where = fresh()
    words = ("fetch", service.name, "--store", store_url(line, service), "--cache", where)
    chill(service)
    before = line.requests()
    seconds = host.aysfs(*words)
    return Ran(seconds, line.requests() - before), host.aysfs(*words)


def against_base(
    setting: Setting,
    service: Service,
    label: str,
    blobs: tuple[Path, ...],
    measure: Callable[[Line, Service], tuple[Ran, float]],
    lacking: str,
) -> Measured:
    """Medians of runs in turns with curl's."""
    path, words = compressed(service.folder, label, blobs)
    mine, peer = [], []
    with network.line(setting, ROOT) as line:
        for _ in range(AGAIN[setting]):
            brought = curl(line, service, path)
            ran, warm = measure(line, service)
            mine.append(ran)
            peer.append((brought, warm))
    taken = statistics.median(ran.seconds for ran in mine)
    brought, warm = (statistics.median(one[n] for one in peer) for n in (0, 1))
    note = (
        f"{seconds_of([ran.seconds for ran in mine])}, {mine[-1].requests} requests; curl of"
        f" {words} {brought:.2f} s + warm {warm:.2f} s{lacking}"
    )
    return Measured(taken / (brought + warm), note)


# --- rows --------------------------------------------------------------------------------


def with_profile(setting: Setting, service: Service) -> Measured:
    profiled(service)
    lacking = missing(("profile",), ("--packs", "push"), ("--prefetch", "mount"))
    blobs = started_blobs(service)
    return against_base(setting, service, f"start-{service.name}", blobs, cold_start, lacking)


def without_profile(setting: Setting) -> Measured:
    """The first start of all against the same on demand, a request a file."""
    one_by_one, first = bare(BARE), packed(PACKED)
    with network.line(setting, ROOT) as line:
        peer, warm = cold_start(line, one_by_one, *prefetch("none"))
        mine, _ = cold_start(line, first)
    note = (
        f"{mine.seconds:.2f} s, {mine.requests} requests; a request a file {peer.seconds:.2f} s,"
        f" {peer.requests} requests; warm {warm:.2f} s{missing(('--packs', 'push'))}"
    )
    return Measured(mine.seconds / peer.seconds, note)


def whole(setting: Setting) -> Measured:
    service = packed(PACKED)
    return against_base(
        setting, service, "whole", all_blobs(service), fetch, missing(("--packs", "push"))
    )


def first_mebibyte(setting: Setting) -> Measured:
    """Milliseconds from open to the last byte, in a mount that is there."""
    published(LARGE_SERVICE)
    times = []
    with network.line(setting, ROOT) as line:
        url = store_url(line, LARGE_SERVICE)
        for _ in range(AGAIN[setting]):
            where = fresh()
            chill(LARGE_SERVICE)
            with mounted(LARGE_NAME, "--store", url, "--cache", where, *prefetch("none")):
                began = time.monotonic()
                with (POINT / "large.bin").open("rb", buffering=0) as file:
                    got = len(file.read(1 << 20))
                times.append(time.monotonic() - began)
    if got != 1 << 20:
        raise host.FailedError(f"read {got} bytes")
    least = setting.seconds(1 << 20)
    note = f"{seconds_of(times)}; one round trip and the bytes on the line {least * 1e3:.1f} ms"
    return Measured(statistics.median(times) * 1e3, note + chunks_missing())


def chunks_missing() -> str:
    """Whether the list of the large file names its chunks."""
    named = "chunks=" in list_text(LARGE_SERVICE)
    return "" if named else "; NOT HERE YET: chunks"


def random_reads(setting: Setting) -> Measured:
    """By several readers, as a database has, against curl of as many bytes as the chunks have."""
    published(LARGE_SERVICE)
    dice = random.Random(trees.SEED)
    places = [dice.randrange(trees.LARGE_SIZE // PAGE) * PAGE for _ in range(RANDOM_READS)]
    size = len({place // CHUNK for place in places}) * CHUNK
    part = LARGE_SERVICE.folder / BASE / "chunks"
    part.parent.mkdir(exist_ok=True)
    with (host.LARGE / "large.bin").open("rb") as source:
        part.write_bytes(source.read(size))
    where = fresh()
    with network.line(setting, ROOT) as line:
        peer = curl(line, LARGE_SERVICE, f"{BASE}/chunks")
        url = store_url(line, LARGE_SERVICE)
        chill(LARGE_SERVICE)
        with mounted(LARGE_NAME, "--store", url, "--cache", where, *prefetch("none")):
            mine = read_at(POINT / "large.bin", places)
    note = (
        f"{mine:.2f} s, {RANDOM_READERS} readers; curl of the {size / 1e6:.0f} MB of chunks that"
        f" they need {peer:.2f} s"
    )
    return Measured(mine / peer, note + chunks_missing())


def read_at(path: Path, places: Sequence[int]) -> float:
    """Seconds in which readers take pages of a file, each the next that nobody has taken."""
    began = time.monotonic()
    with path.open("rb", buffering=0) as file, ThreadPoolExecutor(RANDOM_READERS) as readers:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        for page in readers.map(lambda place: os.pread(file.fileno(), PAGE, place), places):
            if len(page) != PAGE:
                raise host.FailedError(f"read {len(page)} bytes of a page")
        return time.monotonic() - began


def beside(setting: Setting) -> Measured:
    """The median read of a small file while everything is fetched, against that of one alone."""
    service = packed(PACKED)
    paths = small_files(service)
    with network.line(setting, ROOT) as line:
        alone = reads(line, service, paths, full=False)
        busy = reads(line, service, paths, full=True)
    how = "" if has("--prefetch", "mount") else "; NOT HERE YET: mount --prefetch, `fetch` instead"
    note = (
        f"{len(busy)} reads {statistics.median(busy) * 1e3:.1f} ms, worst {max(busy) * 1e3:.1f};"
        f" alone {statistics.median(alone) * 1e3:.1f} ms, worst {max(alone) * 1e3:.1f}{how}"
    )
    return Measured(statistics.median(busy) / statistics.median(alone), note)


def small_files(service: Service) -> list[tuple[str, str]]:
    """Paths and digests of files that nothing has in common, each with other bytes."""
    found = {}
    for line in list_text(service).splitlines():
        path, *columns = line.split("|")
        if len(columns) > 5 and columns[5] == "2" and 4096 <= int(columns[1]) <= 32768:
            found[columns[0]] = path.removeprefix("/srv/bench/")
    digests = random.Random(trees.SEED).sample(sorted(found), BESIDE)
    return [(found[digest], digest) for digest in digests]


def reads(
    line: Line, service: Service, paths: Sequence[tuple[str, str]], *, full: bool
) -> list[float]:
    """Seconds of each read, one after the other, of what is not here yet."""
    where = fresh()
    url = store_url(line, service)
    options = ("--store", url, "--cache", where)
    chill(service)
    times = []
    with mounted(service.name, *options, *prefetch("all" if full else "none")):
        instead = None
        if full and not prefetch("all"):
            words = [host.command(), "fetch", service.name, *options]
            instead = subprocess.Popen([str(word) for word in words], stdout=subprocess.DEVNULL)
        try:
            if full:
                wait_for_blobs(where)
            for path, digest in paths:
                if not (where / "objects" / digest[0] / digest[1] / digest).exists():
                    began = time.monotonic()
                    (POINT / path).read_bytes()
                    times.append(time.monotonic() - began)
        finally:
            if instead is not None:
                instead.terminate()
                instead.wait()
    if len(times) < BESIDE / 2:
        raise host.FailedError(f"only {len(times)} of {BESIDE} files were not here yet")
    return times


def wait_for_blobs(where: Path) -> None:
    """Until a fetch of everything is under way."""
    deadline = time.monotonic() + 30
    while not any(where.glob("objects/?/?/*")):
        if time.monotonic() > deadline:
            raise host.FailedError("nothing was prefetched")
        time.sleep(0.01)


def pair(
    name: str,
    what: str,
    targets: tuple[float | None, float | None],
    unit: str,
    measure: Callable[[Setting], Measured],
) -> list[Row]:
    """A row for each line."""
    return [
        Row(f"w_{name}_{one.label}", f"{one.words}: {what}", target, unit, partial(measure, one))
        for one, target in zip((SLOW, FAST), targets, strict=True)
    ]


def imports_with_profile(setting: Setting) -> Measured:
    return with_profile(setting, python_service(PROFILED))


def redis_with_profile(setting: Setting) -> Measured:
    return with_profile(setting, REDIS_SERVICE)


ROWS = (
    *pair("import", "mount and imports, with profile", (1.3, 1.5), "x", imports_with_profile),
    *pair(
        "first",
        "the same without a profile, against a request a file",
        (1 / 8, 1 / 1.5),
        "x",
        without_profile,
    ),
    *pair("redis", "redis, mount to PONG, with profile", (1.3, 1.5), "x", redis_with_profile),
    *pair("fetch", "fetch of 28k files", (1.1, 1.2), "x", whole),
    *pair("head", "first 1 MiB of a 1 GiB blob", (150, 10), "ms", first_mebibyte),
    *pair("random", "1,000 random 4 KiB reads of it", (1.2, None), "x", random_reads),
    *pair("beside", "an on-demand read beside a full prefetch", (2, 2), "x", beside),
)


def prepare() -> None:
    host.WORK.mkdir(exist_ok=True)
    (host.WORK / ".gitignore").write_text("*\n")
    clear()
    network.prepare()


def clear() -> None:
    host.clear()
    for path in (ROOT, CACHES, BROUGHT, NAMES, network.FOLDER):
        host.remove(path)


if __name__ == "__main__":
    sys.exit(run.main(ROWS, prepare, clear))
