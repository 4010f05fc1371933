"""The figures of the overlay engine: ext4, overlay and fuse in one run.

Where both trees are measured the worse one is judged. *Cold* means that the mount is new and that
pages, names and inodes of the whole kernel were dropped, so nothing of the overlay, of its image or
of its data is known. Where everything is warm the three are read in turns and the fastest of each
counts: other work on the machine disturbs none more than the others.
"""

import statistics
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks import host, web
from benchmarks.figures import Measured, Row, same_bytes
from benchmarks.host import FUSE, MOUNT, OVERLAY, READERS, WORK, Walked

EXT4 = "ext4"
ENGINES = (OVERLAY, FUSE)
TIMES, TIMES_COLD, TIMES_MOUNTED = 15, 3, 5
MOUNTS = 10

Seconds = Mapping[str, float]  # of ext4 and the engines


class Sample(NamedTuple):
    """A directory, the service that it is, and the paths in it."""

    label: str
    name: str
    root: Path
    everything: Path
    files: Path


SMALL = Sample("28k", host.SMALL_NAME, host.SMALL, host.SMALL_PATHS, host.SMALL_FILES)
TREE = Sample("60k", host.TREE_NAME, host.TREE, host.ALL_PATHS, host.FILE_PATHS)
LARGE = Sample("1 GiB", host.LARGE_NAME, host.LARGE, WORK / "large.all", host.LARGE_PATHS)
PACKAGES = Sample("venv", "bench__venv", WORK / "venv", WORK / "venv.all", WORK / "venv.files")
TREES = (SMALL, TREE)

Measure = Callable[[Sample, Path], float]
"""Seconds of a sample that is found at a path."""


# --- measuring ---------------------------------------------------------------------------


def warm(sample: Sample, measure: Measure) -> Seconds:
    """The fastest of several, in turns, everything in the page cache."""
    host.cached(sample.name)
    with both_mounted(sample) as places:
        for place in places.values():
            measure(sample, place)
        turns = [
            {who: measure(sample, place) for who, place in places.items()} for _ in range(TIMES)
        ]
    return fastest_of(turns)


def cold(sample: Sample, measure: Measure) -> Seconds:
    """The fastest of several, in turns, each with a new mount and all caches dropped."""
    host.cached(sample.name)
    turns = []
    for _ in range(TIMES_COLD):
        host.drop_caches()
        turn = {EXT4: measure(sample, sample.root)}
        for engine in ENGINES:
            with host.mounted(sample.name, engine=engine):
                host.drop_caches()
                turn[engine] = measure(sample, MOUNT)
        turns.append(turn)
    return fastest_of(turns)


@contextmanager
def both_mounted(sample: Sample) -> Iterator[dict[str, Path]]:
    """Where ext4 and every engine show a sample."""
    places = {EXT4: sample.root}
    with ExitStack() as mounts:
        for engine in ENGINES:
            places[engine] = WORK / f"mnt-{engine}"
            mounts.enter_context(host.mounted(sample.name, engine=engine, point=places[engine]))
        yield places


def fastest_of(turns: list[dict[str, float]]) -> Seconds:
    return {who: min(turn[who] for turn in turns) for who in turns[0]}


def against_ext4(found: Mapping[Sample, Seconds]) -> Measured:
    """The worst of the overlay's ratios; the note has all of them."""
    words = [
        f"{sample.label}: ext4 {seconds[EXT4]:.3f} s, "
        + ", ".join(
            f"{who} {seconds[who]:.3f} s {seconds[who] / seconds[EXT4]:.2f}x" for who in ENGINES
        )
        for sample, seconds in found.items()
    ]
    worst = max(seconds[OVERLAY] / seconds[EXT4] for seconds in found.values())
    return Measured(worst, "; ".join(words))


def both(state: Callable[[Sample, Measure], Seconds], measure: Measure) -> Measured:
    """Both trees in one state of the caches."""
    for tree in TREES:
        host.pushed(tree.name, tree.root)
    return against_ext4({tree: state(tree, measure) for tree in TREES})


def one(sample: Sample, state: Callable[[Sample, Measure], Seconds], measure: Measure) -> Measured:
    host.pushed(sample.name, sample.root)
    return against_ext4({sample: state(sample, measure)})


# --- what is done ------------------------------------------------------------------------


def find(_sample: Sample, place: Path) -> float:
    """Every name, with the type that the directory tells."""
    return host.timed(["find", place, "-false"])


def lstat(sample: Sample, place: Path) -> float:
    return walk("lstat", place, sample, sample.everything)


def read(sample: Sample, place: Path) -> float:
    """Open, read and close every file, one after the other."""
    return walk("read", place, sample, sample.files)


def read_parallel(sample: Sample, place: Path) -> float:
    return walk("read", place, sample, sample.files, readers=READERS)


def walk(mode: str, place: Path, sample: Sample, paths: Path, *, readers: int = 1) -> float:
    """Seconds. FailedError when it saw other bytes than the first walk, which was ext4's."""
    walked = host.walk(mode, place, paths, readers=readers)
    same_bytes(walked, SEEN.setdefault((mode, sample), walked))
    return walked.seconds


SEEN: dict[tuple[str, Sample], Walked] = {}


def imports(_sample: Sample, place: Path) -> float:
    words = "import numpy, pandas, django, sqlalchemy"
    return host.timed([place / "bin/python", "-I", "-B", "-c", words])


def make_packages(root: Path) -> None:
    """A virtual environment with what ``imports`` wants; compiled, as pip leaves it."""
    host.run([sys.executable, "-m", "venv", root])
    host.run([root / "bin/pip", "install", "-q", "numpy", "pandas", "django", "sqlalchemy"])


def packages(state: Callable[[Sample, Measure], Seconds]) -> Measured:
    host.once(PACKAGES.root, make_packages)
    host.write_paths(PACKAGES.root, PACKAGES.everything, PACKAGES.files)
    return one(PACKAGES, state, imports)


# --- mounting ----------------------------------------------------------------------------


def mount_first() -> Measured:
    """The list unknown: hashed, read, compiled, and mounted."""
    return mounts(TREE.name, TREE.root, forget=True)


def mount_again() -> Measured:
    return mounts(TREE.name, TREE.root, forget=False)


def mount_million() -> Measured:
    return mounts(host.MILLION, None, forget=False)


def mounts(service: str | Path, source: Path | None, *, forget: bool) -> Measured:
    """The median with a daemon that serves another mount already, and that without, noted."""
    host.pushed(SMALL.name, SMALL.root)
    if source is not None:
        host.pushed(str(service), source)
    with host.mounted(service, engine=OVERLAY):
        pass
    alone = mount_times(service, forget=forget)
    with host.mounted(SMALL.name, engine=OVERLAY, point=WORK / "mnt-other"):
        beside = mount_times(service, forget=forget)
    # The first mount of a host starts the daemon as well; who mounts again has one running.
    judged = alone if forget else beside
    note = f"no daemon runs: {listed(alone)}; one runs: {listed(beside)}"
    return Measured(statistics.median(judged), note)


def mount_times(service: str | Path, *, forget: bool) -> list[float]:
    times = []
    for _ in range(TIMES_MOUNTED):
        if forget:
            host.forget_images()
        with host.mounted(service, engine=OVERLAY) as mount:
            times.append(mount.seconds)
    return times


def listed(times: list[float]) -> str:
    return ", ".join(f"{seconds:.2f}" for seconds in sorted(times)) + " s"


def memory() -> Measured:
    """Ten lists that differ in their base, so that they are ten images."""
    host.pushed(TREE.name, TREE.root)
    text = b"".join(path.read_bytes() for path in host.STORE.glob(f"*/md/{TREE.name}.flist"))
    with ExitStack() as stack:
        for number in range(MOUNTS):
            path = WORK / f"tree-{number}.flist"
            path.write_bytes(text.replace(b"/srv/bench", b"/srv/bench-%d" % number))
            point = WORK / f"mnt-{number}"
            mount = stack.enter_context(host.mounted(path, engine=OVERLAY, point=point))
        fresh = shared_by_two(mount)
        for number in range(MOUNTS):
            host.walk("lstat", WORK / f"mnt-{number}", TREE.everything)
        note = f"its RSS {mount.resident():.0f} MiB; after an lstat of everything"
        return Measured(fresh, f"{note} {shared_by_two(mount):.0f} MiB")


def shared_by_two(mount: host.Mount) -> float:
    """MiB (PSS) of the daemon and its supervisor."""
    supervisor = host.Mount(0, host.parent_of(mount.pid))
    return mount.proportional() + supervisor.proportional()


# --- over HTTP ---------------------------------------------------------------------------


def read_http(*, server_warm: bool) -> Measured:
    """A cache of its own for each engine, and nothing removed before: see ``rows.push_first``.

    The server is on this host, so dropping the caches drops the pages of its blobs as well: they
    are read again where it is to be as a host of its own would be.
    """
    found: dict[str, float] = {}
    cpu = {}
    caches = {engine: WORK / f"cache-{engine}" for engine in ENGINES}
    for cache in caches.values():
        host.remove(cache)
    with web.served() as url:
        host.drop_caches()
        found[EXT4] = read_parallel(TREE, TREE.root)
        for engine in ENGINES:
            options = ("--store", url, "--cache", caches[engine])
            with host.mounted(TREE.name, *options, engine=engine) as mount:
                host.drop_caches()
                if server_warm:
                    web.warm()
                before = web.processor_seconds(mount.pid)
                found[engine] = read_parallel(TREE, MOUNT)
                cpu[engine] = web.processor_seconds(mount.pid) - before
        count = len(web.blobs())
    for cache in caches.values():
        host.remove(cache)
    spent = ", ".join(f"{who} {seconds * 1e6 / count:.0f}" for who, seconds in cpu.items())
    measured = against_ext4({TREE: found})
    return measured._replace(note=f"{measured.note}; us of CPU a blob: {spent}")


ROWS = (
    Row("o_find_cold", "overlay: find, cold", 0.6, "x", lambda: both(cold, find)),
    Row("o_find_warm", "overlay: find, warm", 1.4, "x", lambda: both(warm, find)),
    Row("o_lstat_cold", "overlay: lstat of every path, cold", 1.0, "x", lambda: both(cold, lstat)),
    Row("o_lstat_warm", "overlay: lstat of every path, warm", 1.35, "x", lambda: both(warm, lstat)),
    Row("o_open_warm", "overlay: open+read+close, warm", 1.25, "x", lambda: both(warm, read)),
    Row(
        "o_read_warm",
        "overlay: read everything, 8 readers, warm",
        1.1,
        "x",
        lambda: both(warm, read_parallel),
    ),
    Row(
        "o_read_cold",
        "overlay: read everything, 8 readers, blobs cached, page cache cold",
        1.2,
        "x",
        lambda: both(cold, read_parallel),
    ),
    Row(
        "o_import_warm",
        "overlay: import numpy, pandas, django, sqlalchemy, warm",
        1.05,
        "x",
        lambda: packages(warm),
    ),
    Row(
        "o_import_cold", "overlay: the same, blobs cached, cold", 1.15, "x", lambda: packages(cold)
    ),
    Row("o_large_warm", "overlay: 1 GiB file, warm", 1.05, "x", lambda: one(LARGE, warm, read)),
    Row(
        "o_large_cold",
        "overlay: 1 GiB file, cached, cold",
        1.1,
        "x",
        lambda: one(LARGE, cold, read),
    ),
    Row("o_mount_first", "overlay: first mount of 60k entries", 1.2, "s", mount_first),
    Row("o_mount_again", "overlay: mount of 60k entries again", 0.3, "s", mount_again),
    Row("o_mount_million", "overlay: mount of 1M entries again", 0.5, "s", mount_million),
    Row("o_memory", "overlay: daemon memory, ten mounts of 60k entries", 80, "MiB", memory),
    Row(
        "o_read_http",
        "overlay: read everything over HTTP, cache cold, 8 readers",
        4.0,
        "x",
        lambda: read_http(server_warm=True),
    ),
    Row(
        "o_read_http_cold",
        "overlay: the same, the server's disk cold as well",
        4.0,
        "x",
        lambda: read_http(server_warm=False),
    ),
)
