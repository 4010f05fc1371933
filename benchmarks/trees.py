"""What is measured: a tree like an installed Python's, one large file, a list of a million lines.

All of it comes from one seed, so that every host measures the same. Sizes follow a log-normal
distribution with its median at 3.5 kB and a long tail, as in a real site-packages; some files
are empty and some equal, as ``__init__.py`` and licences are.
"""

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

SEED = 20260714

ENTRIES, FEWER = 60_000, 30_000
MEDIAN_SIZE, SPREAD, LARGEST = 3_500, 1.6, 8 << 20
EMPTY, EQUAL, SYMLINK = 0.03, 0.05, 0.01  # shares of all files
FILES_A_FOLDER = 14
SUFFIXES = (".py", ".cpython-311.pyc", ".pyi", ".json", ".txt", ".so")

LARGE_SIZE = 1 << 30
MILLION = 1_000_000


def folders(count: int, dice: random.Random) -> list[str]:
    """Folders in the order they must be made: each new one below the top or below another."""
    made = ["lib", "lib/python3.11", "lib/python3.11/site-packages"]
    for number in range(count):
        shallow = [made[2]] if dice.random() < 0.3 or len(made) < 4 else made[3:]
        above = dice.choice(shallow)
        if above.count("/") > 7:
            above = made[2]
        made.append(f"{above}/{dice.choice(('pkg', 'tests', 'data', 'core', 'locale'))}_{number}")
    return made


def content(number: int, dice: random.Random, licence: bytes) -> bytes:
    """The bytes of one file. Sources start with their number, so that none are equal."""
    kind = dice.random()
    if kind < EMPTY:
        return b""
    if kind < EMPTY + EQUAL:
        return licence
    size = min(LARGEST, int(dice.lognormvariate(0, SPREAD) * MEDIAN_SIZE))
    return b"# %d\n" % number + dice.randbytes(size)


def make_tree(root: Path, entries: int = ENTRIES) -> None:
    """60,000 entries below a new directory, more than 50,000 of them files."""
    dice = random.Random(SEED)
    places = folders(entries // (FILES_A_FOLDER + 1), dice)
    licence = dice.randbytes(11_358)
    for place in places:
        (root / place).mkdir(parents=True)
    for number in range(entries - len(places)):
        where = root / dice.choice(places) / f"module_{number}{dice.choice(SUFFIXES)}"
        if dice.random() < SYMLINK:
            where.symlink_to("__init__.py")
        else:
            where.write_bytes(content(number, dice, licence))


def make_small(root: Path) -> None:
    """Half as many, 28,000 of them files."""
    make_tree(root, FEWER)


def make_large(root: Path) -> None:
    """A directory with one file of 1 GiB that does not compress."""
    dice = random.Random(SEED)
    root.mkdir(parents=True)
    with (root / "large.bin").open("wb") as file:
        for _ in range(LARGE_SIZE >> 20):
            file.write(dice.randbytes(1 << 20))


def full_line(path: str, kind: int, md5: str = "0" * 32, size: int = 0) -> str:
    """A line of a ``#flist 2`` list."""
    mode = 755 if kind == 4 else 644
    return f"{path}|{md5}|{size}|0|0|{mode:04}|{kind}|1.000000000|1.000000000|\n"


def million_lines() -> Iterator[str]:
    """Sorted as bytes by path: numbers have the same width, and ``-`` sorts before ``/``."""
    files_a_folder = 19
    folder_count = MILLION // (files_a_folder + 1)
    yield full_line("/srv", 4)
    yield full_line("/srv/million", 4)
    for folder in range(folder_count):
        place = f"/srv/million/package_{folder:06}"
        yield full_line(place, 4)
        for number in range(files_a_folder):
            path = f"{place}/module_{number:02}.py"
            digest = hashlib.md5(path.encode(), usedforsecurity=False).hexdigest()
            yield full_line(path, 2, digest, number * 977 + 1)


def make_million(path: Path) -> None:
    """A list whose blobs are nowhere: mounting it must not need them."""
    with path.open("w") as file:
        file.write("#flist 2\n#base /srv/million\n")
        file.writelines(million_lines())
