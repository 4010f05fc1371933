"""A store of a million blobs and a hundred lists, and the gc that looks through it.

The blobs are empty: a gc looks at names and times and opens none. They are kept from run to run.
"""

import functools
import hashlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks import host
from benchmarks.trees import full_line

STORE = host.WORK / "million-blobs"
BLOBS = 1_000_000
LISTS = 100
OWN, SHARED = 9_800, 10_000  # blobs that only one list names, and that all name
UNNAMED = BLOBS - LISTS * OWN - SHARED


class Ran(NamedTuple):
    """What a command took: seconds, seconds of processor time, MiB at most."""

    seconds: float
    cpu: float
    peak: float


@functools.cache
def dry_run() -> Ran:
    """`aysfs store gc --dry-run` over all of it, page cache cold. Both rows are of one run."""
    host.once(STORE, make)
    host.drop_caches()
    return run("store", "gc", "--dry-run", "--grace", "0", "--store", str(STORE))


def run(*arguments: str) -> Ran:
    """Run a command of the project, and ask the kernel what it took."""
    out = host.WORK / "gc.out"
    command = [str(Path(sys.executable).with_name("aysfs")), *arguments]
    with out.open("wb") as file:
        start = time.monotonic()
        process = os.posix_spawn(
            command[0],
            command,
            {**os.environ, **host.SETTINGS},
            file_actions=[(os.POSIX_SPAWN_DUP2, file.fileno(), number) for number in (1, 2)],
        )
        _, status, usage = os.wait4(process, 0)
        seconds = time.monotonic() - start
    said = out.read_text()
    if status or f"would delete {UNNAMED} blobs" not in said:
        raise host.FailedError(f"gc ended with {status}: {said}")
    return Ran(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def make(root: Path) -> None:
    """All the blobs, and lists that name all but some of them."""
    namespace = root / "dedupe"
    for first in range(256):
        (namespace / f"{first >> 4:x}" / f"{first & 15:x}").mkdir(parents=True)
    for number in range(BLOBS):
        name = digest(number)
        os.close(
            os.open(f"{namespace}/{name[0]}/{name[1]}/{name}", os.O_CREAT | os.O_WRONLY, 0o444)
        )
    (namespace / "md").mkdir()
    for number in range(LISTS):
        with (namespace / "md" / f"bench__s{number:03}.flist").open("w") as file:
            file.write("#flist 2\n#base /srv\n")
            file.writelines(lines(number))


def digest(number: int) -> str:
    return hashlib.md5(b"%d" % number, usedforsecurity=False).hexdigest()


def lines(number: int) -> Iterator[str]:
    """A list names its own blobs and the first ones, which all have in common."""
    yield full_line("/srv", 4)
    own = range(SHARED + number * OWN, SHARED + (number + 1) * OWN)
    for place, blob in enumerate([*range(SHARED), *own]):
        if place % 20 == 0:
            folder = f"/srv/package_{place:06}"
            yield full_line(folder, 4)
        yield full_line(f"{folder}/module_{place:06}.py", 2, digest(blob), 0)
