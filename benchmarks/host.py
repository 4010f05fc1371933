"""The machine: what was prepared, running the commands and the readers, caches and cores.

Owns ``.bench/``. The tree, the large file and the long list are kept from run to run; stores,
caches and mounts are made new. Page caches can only be dropped by root: ``NotHereError``
otherwise.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import trees

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / ".bench"
TREE, LARGE, MILLION = WORK / "tree", WORK / "large", WORK / "million.flist"
SMALL = WORK / "small"
STORE, CACHE, MOUNT = WORK / "store", WORK / "cache", WORK / "mnt"
RUNTIME, LOGS = WORK / "run", WORK / "log"
WALK = WORK / "walk"
ALL_PATHS, FILE_PATHS, LARGE_PATHS = WORK / "all", WORK / "files", WORK / "large.paths"
SMALL_PATHS, SMALL_FILES = WORK / "small.all", WORK / "small.files"

TREE_NAME, LARGE_NAME, SMALL_NAME = "bench__tree", "bench__large", "bench__small"
# Nothing of this host's configuration counts, and nothing is left outside of .bench/.
SETTINGS = {
    "AYSFS_CONFIG": os.devnull,
    "AYSFS_STORE": str(STORE),
    "AYSFS_CACHE": str(CACHE),
    "AYSFS_RUNTIME": str(RUNTIME),
    "AYSFS_LOGS": str(LOGS),
    "AYSFS_BUILDS": str(WORK / "builds"),
    "AYSFS_SERVICES": str(WORK / "services"),
}

READERS = 8
COMMAND_TIMEOUT = 900


class NotHereError(Exception):
    """This host or user cannot measure that; ``str()`` says why."""


class FailedError(Exception):
    """A command ended badly; ``str()`` is what it said last."""


class Walked(NamedTuple):
    """What a reader reports."""

    seconds: float
    paths: int
    size: int


class Cores(NamedTuple):
    """Where daemon and reader run; None leaves it to the kernel."""

    label: str
    daemon: int | None = None
    reader: int | None = None


def placements() -> list[Cores]:
    """Both on one core, each on its own, and unpinned."""
    cores = sorted(os.sched_getaffinity(0))
    found = [Cores("same core", cores[0], cores[0]), Cores("unpinned")]
    if len(cores) > 1:
        found.insert(1, Cores("two cores", cores[0], cores[1]))
    return found


# --- preparing ---------------------------------------------------------------------------


def say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def once(target: Path, make: Callable[[Path], None]) -> None:
    """Make a path under another name and rename it: an interrupted run leaves no half of it."""
    if target.exists():
        return
    say(f"making {target.name}")
    partial = target.with_name(f"{target.name}.partial")
    remove(partial)
    make(partial)
    partial.rename(target)


def remove(path: Path) -> None:
    """Remove a file or a directory, there or not."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_paths(root: Path, everything: Path, files: Path) -> None:
    """NUL-ended lists for the readers, depth first and sorted, as a walk would meet them."""
    with everything.open("wb") as all_out, files.open("wb") as files_out:
        for where, names, plain in os.walk(os.fsencode(root)):
            names.sort()
            for name in sorted(names + plain):
                path = os.path.join(where, name)
                line = os.path.relpath(path, os.fsencode(root)) + b"\0"
                all_out.write(line)
                if os.path.isfile(path) and not os.path.islink(path):
                    files_out.write(line)


def prepare() -> None:
    """Everything that the rows share, except what needs the product."""
    WORK.mkdir(exist_ok=True)
    (WORK / ".gitignore").write_text("*\n")
    clear()
    source = Path(__file__).with_name("walk.c")
    run(["cc", "-O2", "-Wall", "-Werror", "-o", WALK, source])
    once(TREE, trees.make_tree)
    once(SMALL, trees.make_small)
    once(LARGE, trees.make_large)
    once(MILLION, trees.make_million)
    write_paths(TREE, ALL_PATHS, FILE_PATHS)
    write_paths(SMALL, SMALL_PATHS, SMALL_FILES)
    write_paths(LARGE, WORK / "large.all", LARGE_PATHS)


def clear() -> None:
    """Remove mounts, stores and caches, those of an interrupted run included."""
    take_away_mounts()
    for path in (MOUNT, STORE, CACHE, RUNTIME, LOGS):
        remove(path)


# --- commands ----------------------------------------------------------------------------


def run(words: Sequence[str | Path]) -> str:
    """Run to the end; its stdout."""
    done = subprocess.run(
        [str(word) for word in words],
        env={**os.environ, **SETTINGS},
        capture_output=True,
        text=True,
        check=False,
        timeout=COMMAND_TIMEOUT,
    )
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise FailedError(
            f"`{Path(words[0]).name} {words[1]}` ended with {done.returncode}: {last}"
        )
    return done.stdout


def forget_images() -> None:
    """Whoever mounts next compiles its list."""
    for image in (CACHE / "images").glob("*-*"):  # the folder is a running daemon's as well
        remove(image)


def aysfs(*arguments: str | Path) -> float:
    """Run a command of the project; the seconds it took."""
    return timed([command(), *arguments])


def command() -> Path:
    """The project's command."""
    return Path(sys.executable).with_name("aysfs")


def timed(words: Sequence[str | Path]) -> float:
    start = time.monotonic()
    run(words)
    return time.monotonic() - start


def drop_caches() -> None:
    """Forget every clean page, name and inode."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
    except OSError as error:
        raise NotHereError("only root can drop the page cache") from error


def settle() -> None:
    """Let what was written reach the disk, so that the next row does not pay for it."""
    os.sync()


PUSHED: set[str] = set()  # services in the store of this run


def push(name: str, source: Path) -> float:
    """Publish a directory; the seconds it took."""
    seconds = aysfs("push", source, "--name", name, "--base", "/srv/bench")
    PUSHED.add(name)
    return seconds


def pushed(name: str, source: Path) -> None:
    """Make sure that a service is in the store."""
    if name not in PUSHED:
        push(name, source)


def empty_store() -> None:
    """Begin with a store that holds nothing."""
    remove(STORE)
    PUSHED.clear()


def cached(name: str) -> None:
    """Make sure that all blobs of a service are in the cache."""
    aysfs("fetch", name)


# --- mounts ------------------------------------------------------------------------------

FUSE, OVERLAY = "fuse", "overlay"
_LEAVING = 30.0  # seconds that a daemon may take to end after its last mount


class Mount(NamedTuple):
    """A live mount: how long it took, and who serves it."""

    seconds: float
    pid: int

    def resident(self) -> float:
        """MiB of memory that the daemon holds."""
        return memory_of(self.pid, "status", "VmRSS:")

    def proportional(self) -> float:
        """MiB of memory that are the daemon's alone, and its share of what others use as well."""
        return memory_of(self.pid, "smaps_rollup", "Pss:")

    def pin(self, core: int | None) -> None:
        """Keep every thread of the daemon on one core, or let it go where this process may."""
        cores = os.sched_getaffinity(0) if core is None else {core}
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), cores)


def memory_of(pid: int, file: str, field: str) -> float:
    """MiB, from a file of /proc."""
    for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise FailedError(f"no {field} of process {pid}")


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@contextlib.contextmanager
def mounted(
    service: str | Path, *options: str | Path, engine: str = FUSE, point: Path = MOUNT
) -> Iterator[Mount]:
    """A mount for the length of a with block; the daemon of the last one has left afterwards."""
    point.mkdir(exist_ok=True)
    seconds = aysfs("mount", service, point, "--engine", engine, *options)
    try:
        pid = serving(point)
        yield Mount(seconds, pid)
        aysfs("umount", point)
        if not points():
            wait_for_end(pid)
    finally:
        take_away(point)


def serving(point: Path) -> int:
    """The process that serves a mount."""
    answers = json.loads(run([command(), "status", "--json"]))
    for answer in answers:
        if answer["point"] == str(point):
            return int(answer["pid"])
    raise FailedError(f"nobody serves {point}")


def wait_for_end(pid: int) -> None:
    """Until a daemon, and who supervises it, have left."""
    deadline = time.monotonic() + _LEAVING
    while Path(f"/proc/{pid}").exists():
        if time.monotonic() > deadline:
            raise FailedError(f"the daemon {pid} has not ended")
        time.sleep(0.01)


def points() -> list[str]:
    """What is mounted below .bench/, in mount order."""
    found = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [point for point in found if point.startswith(f"{WORK}/mnt")]


def take_away(point: Path) -> None:
    """Whatever state a mount is in, it is gone afterwards."""
    for words in (["umount", "-l"], ["fusermount3", "-u", "-z"]):
        if str(point) in points():
            subprocess.run([*words, str(point)], capture_output=True, check=False)


def take_away_mounts() -> None:
    """Every mount of an interrupted run, and what its daemon needed."""
    for point in points():
        take_away(Path(point))
    inside = f" {RUNTIME}/"
    deadline = time.monotonic() + _LEAVING
    while inside in Path("/proc/self/mountinfo").read_text() and time.monotonic() < deadline:
        time.sleep(0.1)


# --- readers -----------------------------------------------------------------------------


def walk(
    mode: str, root: Path, paths: Path, *, readers: int = 1, core: int | None = None
) -> Walked:
    """Run the C readers over a list of paths below a directory."""
    pin: list[str | Path] = [] if core is None else ["taskset", "-c", str(core)]
    out = run([*pin, WALK, mode, root, paths, str(readers)])
    nanoseconds, count, size = (int(word) for word in out.split())
    return Walked(nanoseconds / 1e9, count, size)


def fastest(times: int, measure: Callable[[], Walked]) -> Walked:
    """Of several equal runs the one that was disturbed least."""
    return min(measure() for _ in range(times))
