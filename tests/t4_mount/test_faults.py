"""A mount under faults: EIO and never a wrong byte, a hang, or a mount that goes down."""

import errno
import hashlib
import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import pytest

from aysfs.errors import ExitCode, MountFailed
from aysfs.kernel.table import find_kernel_mount
from aysfs.mount.client import DaemonFailed
from tests.t4_mount.conftest import PYTHON, Site, ended, every_engine, run


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def read_error(path: Path) -> int:
    with pytest.raises(OSError, match=str(path)) as failed:
        path.read_bytes()
    return failed.value.errno or 0


@pytest.fixture
def served(site: Site, tree: Path) -> Site:
    site.push(tree)
    site.mount()
    site.expected += ["aysfs.fetch", "corrupt entry"]
    return site


@every_engine
def test_a_store_that_vanishes_is_eio_and_heals(served: Site, tree: Path) -> None:
    store = served.root / "store"
    store.rename(served.root / "away")
    assert read_error(served.point / "data") == errno.EIO
    assert (served.point / "data").stat().st_size == 10240
    (served.root / "away").rename(store)
    assert md5(served.point / "data") == md5(tree / "data")
    served.umount()


@every_engine
def test_a_missing_blob_is_eio_for_all_and_one_flight(served: Site, tree: Path) -> None:
    blob = served.blob(md5(tree / "data"))
    blob.rename(served.root / "kept")

    def attempt(_number: int) -> int:
        try:
            (served.point / "data").read_bytes()
        except OSError as error:
            return error.errno or 0
        return 0

    with ThreadPoolExecutor(200) as pool:
        assert set(pool.map(attempt, range(200))) == {errno.EIO}
    (served.root / "kept").rename(blob)
    with ThreadPoolExecutor(200) as pool:
        assert set(pool.map(attempt, range(200))) == {0}
    served.umount()


@every_engine
@pytest.mark.parametrize("how", ["flipped", "truncated", "another", "empty"])
def test_wrong_bytes_from_the_store_never_reach_a_reader(
    served: Site, tree: Path, how: str
) -> None:
    blob = served.blob(md5(tree / "data"))
    good = blob.read_bytes()
    wrong = {
        "flipped": good[:-1] + bytes([good[-1] ^ 1]),
        "truncated": good[:-1],
        "another": os.urandom(len(good)),
        "empty": b"",
    }[how]
    blob.chmod(0o600)
    blob.write_bytes(wrong)
    assert read_error(served.point / "data") == errno.EIO
    assert (served.point / "bin" / "hello").read_text().startswith("#!")
    blob.write_bytes(good)
    assert md5(served.point / "data") == md5(tree / "data")
    served.umount()


@pytest.mark.parametrize("how", ["flipped", "truncated", "emptied"])
def test_a_damaged_cache_entry_is_fetched_again(served: Site, tree: Path, how: str) -> None:
    name = md5(tree / "data")
    assert md5(served.point / "data") == name
    cached = served.root / "cache" / "objects" / name[0] / name[1] / name
    good = cached.read_bytes()
    cached.chmod(0o600)
    cached.write_bytes({"flipped": b"!" + good[1:], "truncated": good[:9], "emptied": b""}[how])
    served.umount()
    served.mount()
    assert md5(served.point / "data") == name
    assert (served.root / "cache" / "quarantine" / name).exists()
    served.umount()


@every_engine
def test_a_full_disk_is_enospc_and_heals(site: Site, tree: Path) -> None:
    cache = site.root / "cache"
    cache.mkdir()
    assert run("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", cache).returncode == 0
    try:
        site.push(tree)
        site.mount()
        site.expected.append("aysfs.fetch")
        assert read_error(site.point / "big") == errno.ENOSPC
        assert md5(site.point / "data") == md5(tree / "data")
        assert run("mount", "-o", "remount,size=16m", cache).returncode == 0
        assert md5(site.point / "big") == md5(tree / "big")
        site.umount()
    finally:
        run("umount", "-l", cache)


def test_a_read_only_cache_is_said_before_the_mount(site: Site, tree: Path) -> None:
    cache = site.root / "cache"
    cache.mkdir()
    assert run("mount", "-t", "tmpfs", "-o", "ro", "tmpfs", cache).returncode == 0
    try:
        site.push(tree)
        site.expected.append("ERROR aysfs:")
        with pytest.raises(DaemonFailed, match="Read-only") as failed:
            site.mount()
        assert failed.value.code == ExitCode.CACHE
    finally:
        run("umount", cache)


def test_a_killed_daemon_is_enotconn_and_the_next_mount_repairs(served: Site, tree: Path) -> None:
    assert md5(served.point / "data") == md5(tree / "data")
    os.kill(served.pid(), signal.SIGKILL)
    os.waitpid(served.children.pop(), 0)
    # The first request may meet the connection while the kernel takes it down.
    assert read_error(served.point / "big") in (errno.ENOTCONN, errno.ECONNABORTED)
    assert read_error(served.point / "big") == errno.ENOTCONN
    assert find_kernel_mount(str(served.point)) is not None
    served.mount()
    assert md5(served.point / "big") == md5(tree / "big")
    served.umount()


@every_engine
def test_two_daemons_and_readers_race_for_the_same_blobs(
    served: Site, tree: Path, tmp_path: Path
) -> None:
    served.mount(point=tmp_path / "mnt-two")
    expected = {path: md5(path) for path in tree.rglob("*") if path.is_file()}

    def read_all(top: Path) -> dict[Path, str]:
        return {path: md5(top / path.relative_to(tree)) for path in expected}

    bring = (
        "from aysfs.cli.main import main; main()",
        *("fetch", "test", "--store", str(served.root / "store")),
        *("--cache", str(served.root / "cache")),
    )
    fetching = subprocess.Popen([PYTHON, "-c", *bring], stdout=subprocess.PIPE)
    with fetching, ended(fetching):
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(read_all, [served.point, tmp_path / "mnt-two"] * 4))
        assert fetching.wait(60) == 0
    assert found == [expected] * 8
    served.umount(tmp_path / "mnt-two")
    served.umount()


def test_descriptors_are_as_before_after_reading_everything(served: Site, tree: Path) -> None:
    def count() -> int:
        return len(os.listdir(f"/proc/{served.pid()}/fd"))

    def wait_for_releases() -> None:  # the kernel asks for them some time after a close
        while served.ask()["open_files"]:
            os.sched_yield()

    md5(served.point / "data")
    wait_for_releases()
    before = count()
    for path in sorted(tree.rglob("*")):
        if path.is_file():
            md5(served.point / path.relative_to(tree))
    wait_for_releases()
    end = time.monotonic() + 20
    while count() > before:  # the connection that we asked over is closed soon
        assert time.monotonic() < end
    served.umount()


def test_killed_in_the_middle_of_a_fetch_and_mounted_afresh(site: Site, tree: Path) -> None:
    """kill -9 while blobs arrive, again and again: never a wrong byte afterwards."""
    for number in range(40):
        (tree / f"large-{number}").write_bytes(os.urandom(300_000))
    site.push(tree)
    expected = {path.name: md5(path) for path in tree.glob("large-*")}
    for moment in range(5):
        site.mount()
        reader = subprocess.Popen(
            ["sh", "-c", f"cat {site.point}/large-*"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert reader.stdout is not None
        reader.stdout.read(700_000 * (moment + 1))
        pid = site.children.pop()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        reader.stdout.close()
        reader.wait(30)
    site.mount()
    assert {name: md5(site.point / name) for name in expected} == expected
    assert len(os.listdir(site.root / "cache" / "tmp")) == 1
    site.umount()


STALLING = """
import sys
from aysfs.mount import daemon
from aysfs.mount.options import from_json
from aysfs.store.faults import Stalls
real = daemon.open_stores
daemon.open_stores = lambda *a, **k: Stalls(real(*a, **k), after=100)
daemon.run(from_json(sys.stdin.readline()), lambda: print("ready", flush=True))
"""


def test_a_stalled_store_is_eio_and_a_killed_reader_is_gone(site: Site, tree: Path) -> None:
    """The daemon runs with a store that answers 100 bytes of a blob and then nothing."""
    site.push(tree)
    site.point.mkdir()
    site.expected.append("no progress")
    with (
        open(site.root / "stall.log", "wb") as log,
        subprocess.Popen(
            [PYTHON, "-c", STALLING],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as daemon,
        ended(daemon),
    ):
        assert daemon.stdin is not None
        assert daemon.stdout is not None
        daemon.stdin.write(site.options(deadline=5.0).to_json() + "\n")
        daemon.stdin.flush()
        assert daemon.stdout.readline() == "ready\n"
        reader = subprocess.Popen(["cat", site.point / "data"], stderr=subprocess.DEVNULL)
        with ThreadPoolExecutor(1) as pool:
            while not site.ask()["in_flight"]:
                assert reader.poll() is None
            other = pool.submit(read_error, site.point / "data")
            reader.kill()
            in_flight = site.ask()["in_flight"]
            assert isinstance(in_flight, list)
            assert len(in_flight) == 1
            reader.wait(30)
            assert other.result(30) == errno.EIO
        assert (site.point / "data").stat().st_size == 10240
        site.umount()
        assert daemon.wait(20) == 0


@every_engine
def test_a_cache_that_is_removed_does_not_end_the_mount_in_an_error(
    served: Site, tree: Path
) -> None:
    assert md5(served.point / "data") == md5(tree / "data")
    served.expected.append("cannot be flushed")
    shutil.rmtree(served.root / "cache")
    served.umount()
    assert "cannot be flushed: No such file" in served.logs()


FLUSHING = """
import sys
from aysfs.mount import daemon, durable
from aysfs.mount.options import from_json
durable._EVERY = 0.01
daemon.run(from_json(sys.stdin.readline()), lambda: print("ready", flush=True))
"""


def test_a_flush_now_and_then_that_fails_is_logged_and_the_mount_lives_on(
    site: Site, tree: Path
) -> None:
    site.push(tree)
    site.point.mkdir()
    site.expected += ["cannot be flushed", "aysfs.fetch"]
    with open(site.root / "flush.log", "wb") as log, python(FLUSHING, site, log) as daemon:
        (site.point / "empty").read_bytes()
        synced = site.root / "cache" / "synced"
        stand_in_the_way(synced)
        (site.point / "data").read_bytes()
        while "cannot be flushed" not in site.logs():
            assert (site.point / "data").stat().st_size == 10240
        synced.rmdir()
        site.umount()
        assert daemon.wait(20) == 0


BUSY_DISK = """
import sys, threading
from aysfs.mount import daemon, durable
from aysfs.mount.options import from_json
durable.flush = lambda _cache: threading.Event().wait()
durable._LAST = 0.1
daemon.run(from_json(sys.stdin.readline()), lambda: print("ready", flush=True))
"""


def test_an_unmount_does_not_wait_for_a_busy_disk(site: Site, tree: Path) -> None:
    site.push(tree)
    site.point.mkdir()
    with open(site.root / "busy.log", "wb") as log, python(BUSY_DISK, site, log) as daemon:
        (site.point / "data").read_bytes()
        site.umount()
        assert daemon.wait(20) == 0


def stand_in_the_way(synced: Path) -> None:
    """Put a directory where the file of the last flush is, which one under way may write again."""
    while not synced.is_dir():
        synced.unlink(missing_ok=True)
        with suppress(FileExistsError):
            synced.mkdir()


@contextmanager
def python(script: str, site: Site, log: BinaryIO) -> Iterator[subprocess.Popen[str]]:
    """A daemon run by a script that says ``ready``."""
    daemon = subprocess.Popen(
        [PYTHON, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
    )
    with daemon, ended(daemon):
        assert daemon.stdin is not None
        assert daemon.stdout is not None
        daemon.stdin.write(site.options().to_json() + "\n")
        daemon.stdin.flush()
        assert daemon.stdout.readline() == "ready\n"
        yield daemon


def test_descriptors_run_out_as_emfile_and_come_back(served: Site, tree: Path) -> None:
    limits = Path(f"/proc/{served.pid()}/limits").read_text()
    line = next(line for line in limits.splitlines() if line.startswith("Max open files"))
    assert line.split()[3] == line.split()[4]
    assert md5(served.point / "data") == md5(tree / "data")
    count = len(os.listdir(f"/proc/{served.pid()}/fd"))
    hard = resource.prlimit(served.pid(), resource.RLIMIT_NOFILE)[1]
    resource.prlimit(served.pid(), resource.RLIMIT_NOFILE, (count + 4, hard))
    held: list[int] = []
    with suppress(OSError):
        while len(held) < 100:
            held.append(os.open(served.point / "data", os.O_RDONLY))
    assert read_error(served.point / "data") == errno.EMFILE
    assert read_error(served.point / "bin" / "hello") == errno.EMFILE
    for descriptor in held:
        os.close(descriptor)
    assert len(held) <= 5
    resource.prlimit(served.pid(), resource.RLIMIT_NOFILE, (hard, hard))
    assert md5(served.point / "big") == md5(tree / "big")
    assert "bug in" not in served.logs()
    served.umount()


BROKEN_RELOAD = """
import sys
from aysfs.mount import daemon
from aysfs.mount.options import from_json
ready = False
async def load(*_arguments, real=daemon.load_view, **keywords):
    if ready:
        raise ZeroDivisionError
    return await real(*_arguments, **keywords)
daemon.load_view = load
def tell():
    global ready
    ready = True
    print("ready", flush=True)
daemon.run(from_json(sys.stdin.readline()), tell)
"""


def test_a_bug_in_a_request_is_answered_and_the_mount_lives_on(site: Site, tree: Path) -> None:
    site.push(tree)
    site.point.mkdir()
    site.expected += ["bug in reload", "Traceback", "ZeroDivisionError", "raise", "File"]
    with open(site.root / "bug.log", "wb") as log, python(BROKEN_RELOAD, site, log) as daemon:
        with pytest.raises(MountFailed, match="ZeroDivisionError"):
            site.ask("reload")
        assert md5(site.point / "data") == md5(tree / "data")
        site.umount()
        assert daemon.wait(20) == 0


def test_a_list_that_cannot_be_read_is_trouble_with_its_name(site: Site) -> None:
    directory = site.root / "directory.flist"
    directory.mkdir()
    site.expected.append("ERROR aysfs:")
    with pytest.raises(DaemonFailed, match=r"directory\.flist: cannot be read"):
        site.mount(str(directory))
    # /proc/self/mem opens, and reading it at 0 is EIO.
    with pytest.raises(DaemonFailed, match="mem: cannot be read: Input/output") as failed:
        site.mount("/proc/self/mem")
    assert failed.value.code == ExitCode.STORE
