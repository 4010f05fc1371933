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
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchmarks import host, network, published, run, trees
from benchmarks.figures import Measured, Row, seconds_of
from benchmarks.network import FAST, SLOW, Line, Setting
from benchmarks.published import LARGE_SERVICE, POINT, Service, fresh, mounted

BROUGHT = host.WORK / "wan.brought"
CHUNK = 256 << 10
RANDOM_READS, RANDOM_READERS, PAGE = 1000, 16, 4 << 10
BESIDE = 30
AGAIN = {SLOW: 1, FAST: 3}
"""How often a run is made: the slow line's own time hides what disturbs."""
NOTHING_AHEAD = ("--prefetch", "none")


class Ran(NamedTuple):
    """How long a run took, and how many requests the server answered for it."""

    seconds: float
    requests: int


# --- runs --------------------------------------------------------------------------------


def curl(line: Line, service: Service, path: str) -> float:
    """One request into a file, everything cold as for a start."""
    host.remove(BROUGHT)
    chill(service)
    return host.timed(["curl", "--silent", "--fail", "-o", BROUGHT, store_url(line, service, path)])


def store_url(line: Line, service: Service, path: str = "") -> str:
    return f"{line.url}/{service.store}/{path}".rstrip("/")


def chill(service: Service) -> None:
    """Nothing is in memory but what the server serves."""
    host.settle()
    host.drop_caches()
    words = 'find "$1" -type f -print0 | xargs -0 cat >/dev/null'
    host.run(["sh", "-c", words, "sh", service.folder])


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
) -> Measured:
    """Medians of runs in turns with curl's."""
    path, words = published.compressed(service.folder, label, blobs)
    mine, peer = [], []
    with network.line(setting, published.ROOT) as line:
        for _ in range(AGAIN[setting]):
            brought = curl(line, service, path)
            ran, warm = measure(line, service)
            mine.append(ran)
            peer.append((brought, warm))
    taken = statistics.median(ran.seconds for ran in mine)
    brought, warm = (statistics.median(one[n] for one in peer) for n in (0, 1))
    note = (
        f"{seconds_of([ran.seconds for ran in mine])}, {mine[-1].requests} requests; curl of"
        f" {words} {brought:.2f} s + warm {warm:.2f} s"
    )
    return Measured(taken / (brought + warm), note)


# --- rows --------------------------------------------------------------------------------


def with_profile(setting: Setting, service: Service) -> Measured:
    published.with_profile(service)
    blobs = published.started_blobs(service)
    return against_base(setting, service, f"start-{service.name}", blobs, cold_start)


def without_profile(setting: Setting) -> Measured:
    """The first start of all against the same on demand, a request a file; medians."""
    one_by_one, first = published.bare(), published.packed()
    mine, peer = [], []
    with network.line(setting, published.ROOT) as line:
        for _ in range(AGAIN[setting]):
            peer.append(cold_start(line, one_by_one, *NOTHING_AHEAD)[0])
            mine.append(cold_start(line, first)[0])
    times, others = ([ran.seconds for ran in runs] for runs in (mine, peer))
    note = (
        f"{seconds_of(times)}, {mine[-1].requests} requests; a request a file"
        f" {seconds_of(others)}, {peer[-1].requests} requests"
    )
    return Measured(statistics.median(times) / statistics.median(others), note)


def whole(setting: Setting) -> Measured:
    service = published.packed()
    return against_base(setting, service, "whole", published.all_blobs(service), fetch)


def first_mebibyte(setting: Setting) -> Measured:
    """Milliseconds from open to the last byte, in a mount that is there."""
    published.push(LARGE_SERVICE)
    times = []
    with network.line(setting, published.ROOT) as line:
        url = store_url(line, LARGE_SERVICE)
        for _ in range(AGAIN[setting]):
            where = fresh()
            chill(LARGE_SERVICE)
            with mounted(LARGE_SERVICE.name, "--store", url, "--cache", where, *NOTHING_AHEAD):
                began = time.monotonic()
                with (POINT / "large.bin").open("rb", buffering=0) as file:
                    got = len(file.read(1 << 20))
                times.append(time.monotonic() - began)
    if got != 1 << 20:
        raise host.FailedError(f"read {got} bytes")
    least = setting.seconds(1 << 20)
    each = ", ".join(f"{seconds * 1e3:.1f}" for seconds in times)
    note = f"{each} ms; one round trip and the bytes on the line {least * 1e3:.1f} ms"
    return Measured(statistics.median(times) * 1e3, note)


def random_reads(setting: Setting) -> Measured:
    """By several readers, as a database has, against curl of as many bytes as the chunks have."""
    published.push(LARGE_SERVICE)
    dice = random.Random(trees.SEED)
    places = [dice.randrange(trees.LARGE_SIZE // PAGE) * PAGE for _ in range(RANDOM_READS)]
    size = len({place // CHUNK for place in places}) * CHUNK
    part = LARGE_SERVICE.folder / published.BASE / "chunks"
    part.parent.mkdir(exist_ok=True)
    with (host.LARGE / "large.bin").open("rb") as source:
        part.write_bytes(source.read(size))
    where = fresh()
    with network.line(setting, published.ROOT) as line:
        peer = curl(line, LARGE_SERVICE, f"{published.BASE}/chunks")
        url = store_url(line, LARGE_SERVICE)
        chill(LARGE_SERVICE)
        with mounted(LARGE_SERVICE.name, "--store", url, "--cache", where, *NOTHING_AHEAD):
            mine = read_at(POINT / "large.bin", places)
    note = (
        f"{mine:.2f} s, {RANDOM_READERS} readers; curl of the {size / 1e6:.0f} MB of chunks that"
        f" they need {peer:.2f} s"
    )
    return Measured(mine / peer, note)


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
    service = published.packed()
    paths = published.small_files(service, BESIDE)
    with network.line(setting, published.ROOT) as line:
        alone = reads(line, service, paths, full=False)
        busy = reads(line, service, paths, full=True)
    note = (
        f"{len(busy)} reads {statistics.median(busy) * 1e3:.1f} ms, worst {max(busy) * 1e3:.1f};"
        f" alone {statistics.median(alone) * 1e3:.1f} ms, worst {max(alone) * 1e3:.1f}"
    )
    return Measured(statistics.median(busy) / statistics.median(alone), note)


def reads(
    line: Line, service: Service, paths: Sequence[tuple[str, str]], *, full: bool
) -> list[float]:
    """Seconds of each read, one after the other, of what is not here yet."""
    where = fresh()
    url = store_url(line, service)
    options = ("--store", url, "--cache", where)
    chill(service)
    times = []
    with mounted(service.name, *options, "--prefetch", "all" if full else "none"):
        if full:
            wait_for_blobs(where)
        for path, digest in paths:
            if not (where / "objects" / digest[0] / digest[1] / digest).exists():
                began = time.monotonic()
                (POINT / path).read_bytes()
                times.append(time.monotonic() - began)
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
    return with_profile(setting, published.PROFILED)


def redis_with_profile(setting: Setting) -> Measured:
    return with_profile(setting, published.REDIS_SERVICE)


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
    for path in (*published.MADE, BROUGHT, network.FOLDER):
        host.remove(path)


if __name__ == "__main__":
    sys.exit(run.main(ROWS, prepare, clear))
