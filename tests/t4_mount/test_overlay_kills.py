"""kill -9 at random moments under load: no wrong byte, no hang, nothing left behind.

``AYSFS_KILLS`` is how often; the suite's number fits its time.
"""

import os
import random
import shutil
import signal
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from aysfs.mount.overlay.life import repair
from tests.t4_mount.conftest import PYTHON, Site, ended
from tests.t4_mount.overlay_site import is_overlay, kill_both, mounts_below, worker_of

KILLS = int(os.environ.get("AYSFS_KILLS", "25"))
READERS = 4
FILES = 400

# Reads until its standard input ends, and then everything once more, which must all be there.
READER = r"""
import errno, hashlib, os, random, select, sys
top, seed = sys.argv[1:]
dice = random.Random(int(seed))
names = [line.split() for line in open(top + ".sums")]
trouble = {errno.EIO, errno.ENOTCONN, errno.ESTALE, errno.ECONNABORTED}
good = bad = 0
def read(name, md5):
    global good, bad
    try:
        with open(f"{top}/{name}", "rb") as file:
            found = hashlib.md5(file.read()).hexdigest()
    except OSError as error:
        if error.errno not in trouble:
            sys.exit(f"{name}: {error}")
        bad += 1
        return False
    if found != md5:
        sys.exit(f"{name}: wrong bytes")
    good += 1
    return True
while not select.select([0], [], [], 0)[0]:
    read(*dice.choice(names))
for one in names:
    if not read(*one):
        sys.exit(f"{one}: not to be had in the end")
print(good, bad)
"""


@pytest.fixture
def engine() -> str:
    return "overlay"


def test_killed_at_random_moments(site: Site) -> None:
    tree = site.root / "tree"
    tree.mkdir()
    dice = random.Random(5)
    for number in range(FILES):
        (tree / f"{number:03}").write_bytes(dice.randbytes(dice.randrange(1, 60_000)))
    site.push(tree)
    site.mount()
    site.expected += ["the daemon was killed by SIGKILL", "is mounted again: its daemon had died"]
    sums = subprocess.run("md5sum * | awk '{print $2, $1}'", shell=True, cwd=tree, check=True,
                          stdout=subprocess.PIPE).stdout
    (site.root / "mnt.sums").write_bytes(sums)
    with ExitStack() as readers:
        running = []
        for number in range(READERS):
            words = [PYTHON, "-c", READER, str(site.point), str(number)]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            reader = readers.enter_context(subprocess.Popen(words, **pipes))  # type: ignore[call-overload]  # pipes
            readers.enter_context(ended(reader))
            running.append(reader)
        killed = 0
        while killed < KILLS:
            killed += kill_one(site, dice)
            assert all(reader.poll() is None for reader in running), running[0].stderr.read()
            assert is_overlay(site.point)
        heal(site)
        for reader in running:
            answer, complaint = reader.communicate(timeout=60)
            assert (reader.returncode, complaint) == (0, b"")
            good, _trouble = map(int, answer.split())
            assert good >= FILES
    assert len(os.listdir(site.root / "cache" / "tmp")) == 1
    site.umount()
    assert mounts_below(site.root) == []
    assert os.listdir(site.root / "cache" / "tmp") == []


def kill_one(site: Site, dice: random.Random) -> bool:
    """Kill whoever serves at a random moment; now and then all, or on an empty cache."""
    fate = dice.random()
    worker = worker_of(site)
    if worker is None:
        select_for(dice.random() * 0.05)
        return False
    select_for(dice.random() * 0.5)
    if fate < 0.1:
        kill_both(site)
        repair(site.root / "run")
    os.kill(worker, signal.SIGKILL)
    return True
