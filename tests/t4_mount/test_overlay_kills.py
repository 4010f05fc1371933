"""kill -9 at random moments under load: no wrong byte, no hang, nothing left behind.

``AYSFS_KILLS`` is how often; the suite's number fits its time.
"""

import hashlib
import os
import random
import select
import signal
import subprocess
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress

import pytest

from aysfs.cache.blobs import Cache
from aysfs.cache.eviction import shrink
from aysfs.errors import MountFailed
from aysfs.mount import life
from aysfs.mount.overlay.life import repair
from tests.t4_mount.conftest import PYTHON, Site, ended
from tests.t4_mount.overlay_site import children, is_overlay, mounts_below, until, worker_of

KILLS = int(os.environ.get("AYSFS_KILLS", "40"))
READERS = 4
FILES = 400
MOST_READS = 1500  # between two kills

# Reads one file after another, and says so with a byte on a descriptor, until its standard input
# ends; then everything once more, which must all be there.
READER = r"""
import errno, hashlib, os, random, select, sys
top, seed, heart = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
dice = random.Random(seed)
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
        return error
    if found != md5:
        sys.exit(f"{name}: wrong bytes")
    good += 1
while not select.select([0], [], [], 0)[0]:
    read(*dice.choice(names))
    try:
        os.write(heart, b".")
    except BlockingIOError:
        pass
for one in names:
    if error := read(*one):
        sys.exit(f"{one}: not to be had in the end: {error}")
print(good, bad)
"""


@pytest.fixture
def engine() -> str:
    return "overlay"


class Reaper:
    """Kills daemons, and has them repaired."""

    def __init__(self, site: Site, heart: int, commands: ThreadPoolExecutor) -> None:
        self.killed = 0
        self._site = site
        self._heart = heart
        self._commands = commands
        self._repairing: Future[None] | None = None
        self._dice = random.Random(4)

    def wait_for_a_moment(self) -> None:
        """Until the readers have tried a random number of files."""
        with suppress(BlockingIOError):
            while os.read(self._heart, 1 << 16):
                pass
        left = self._dice.randrange(1, MOST_READS)
        while left > 0:
            assert select.select([self._heart], [], [], 30)[0], "the readers hang"
            left -= len(os.read(self._heart, left))

    def kill(self) -> None:
        """A daemon, wherever it is in its life, and every other time its supervisor before it."""
        both = self._dice.random() < 0.5
        victims = supervisors() if both else []
        workers = {one for supervisor in supervisors() for one in workers_of(supervisor)}
        if serving := worker_of(self._site):  # its supervisor may be gone
            workers.add(serving)
        for victim in [*victims, *workers]:
            with suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
        self.killed += len(workers)
        if both and (self._repairing is None or self._repairing.done()):
            self._repairing = self._commands.submit(self._repair)

    def _repair(self) -> None:
        with suppress(MountFailed):  # its daemon was killed as well
            repair(self._site.root / "run")

    def heal(self) -> None:
        """In the end there is one daemon, and it serves."""
        if self._repairing is not None:
            self._repairing.result(60)
        until(self._next_command_serves)

    def _next_command_serves(self) -> bool:
        """What every command does first: a daemon that was killed is there for a moment yet."""
        self._repair()
        return is_serving(self._site)


def is_serving(site: Site) -> bool:
    """Whether a daemon answers for the mount: one that is still mounting it again does not."""
    try:
        site.ask()
    except MountFailed:
        return False
    return True


def workers_of(supervisor: int) -> list[int]:
    return children(supervisor, "aysfs.mount.overlay.serve")


def supervisors() -> list[int]:
    return children(os.getpid(), "aysfs.mount.overlay")


def evict_all(site: Site) -> None:
    cache = Cache(site.root / "cache")
    shrink(cache, 0)
    cache.close()


def push_files(site: Site) -> None:
    tree = site.root / "tree"
    tree.mkdir()
    dice, sums = random.Random(5), ""
    for number in range(FILES):
        data = dice.randbytes(dice.randrange(1, 60_000))
        (tree / f"{number:03}").write_bytes(data)
        sums += f"{number:03} {hashlib.md5(data).hexdigest()}\n"
    (site.root / "mnt.sums").write_text(sums)
    site.push(tree)


def start_readers(site: Site, beats: int, running: ExitStack) -> list["subprocess.Popen[bytes]"]:
    readers = []
    for number in range(READERS):
        reader = subprocess.Popen(
            [PYTHON, "-c", READER, str(site.point), str(number), str(beats)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[beats],
        )
        running.enter_context(reader)
        running.enter_context(ended(reader))
        readers.append(reader)
    return readers


def test_killed_at_random_moments(site: Site) -> None:
    push_files(site)
    site.mount()
    site.expected += ["was killed by SIGKILL", "is mounted again", "this cache is mounted already"]
    heart, beats = os.pipe()
    os.set_blocking(heart, False)
    os.set_blocking(beats, False)
    with ExitStack() as running, ThreadPoolExecutor(1) as commands:
        running.callback(os.close, heart)
        readers = start_readers(site, beats, running)
        os.close(beats)
        reaper = Reaper(site, heart, commands)
        while reaper.killed < KILLS:
            reaper.wait_for_a_moment()
            reaper.kill()
            if reaper.killed % 3 == 0:
                evict_all(site)
            assert is_overlay(site.point)
        reaper.heal()
        for reader in readers:
            answer, complaint = reader.communicate(timeout=60)
            assert (reader.returncode, complaint) == (0, b"")
            good, _trouble = map(int, answer.split())
            assert good >= FILES
    assert len(os.listdir(site.root / "cache" / "tmp")) == 1
    life.stop(site.root / "run", site.point)
    until(lambda: os.listdir(site.root / "run") == [])
    until(lambda: the_living() == [])
    site.children.clear()
    assert mounts_below(site.root) == []
    assert os.listdir(site.root / "cache" / "tmp") == []


def the_living() -> list[int]:
    """The supervisors that live; every dead child is waited for."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    return supervisors()
