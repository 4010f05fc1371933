"""From mount to unmount: ready means usable, a failure leaves nothing, dead mounts are repaired."""

import fcntl
import os
import signal
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from aysfs.errors import ExitCode, MountBusy, MountFailed
from aysfs.kernel.table import find_kernel_mount
from aysfs.mount import life
from aysfs.mount.client import DaemonFailed, Lost, ask
from aysfs.mount.runtime import (
    Claim,
    folder_of,
    is_served,
    read_record,
    records,
    sweep,
)
from tests.t4_mount.conftest import PYTHON, Site, every_engine, run


@every_engine
def test_ready_means_usable(site: Site, tree: Path) -> None:
    site.push(tree)
    site.mount()
    assert os.listdir(site.point)
    assert (site.point / "data").read_bytes() == (tree / "data").read_bytes()
    site.umount()


@every_engine
@pytest.mark.parametrize(
    ("service", "code", "words"),
    [
        ("nothing", ExitCode.MISSING, "nothing"),
        ("/nowhere/at/all.flist", ExitCode.MISSING, "/nowhere/at/all.flist"),
    ],
)
def test_a_failed_mount_says_why_and_leaves_nothing(
    site: Site, tree: Path, service: str, code: ExitCode, words: str
) -> None:
    site.push(tree)
    site.expected.append("ERROR aysfs:")
    with pytest.raises(DaemonFailed, match=words) as failed:
        site.mount(service)
    assert failed.value.code == code
    assert find_kernel_mount(str(site.point)) is None
    assert records(site.root / "run") == []
    assert os.listdir(site.root / "run") == []


@every_engine
def test_a_malformed_list_is_named_with_its_line(site: Site, tree: Path) -> None:
    site.push(tree)
    site.expected.append("ERROR aysfs:")
    bad = site.root / "bad.flist"
    bad.write_text("/a|d41d8cd98f00b204e9800998ecf8427e|0\n/b|not-an-md5|0\n")
    with pytest.raises(DaemonFailed, match=r"bad\.flist:2: ") as failed:
        site.mount(str(bad))
    assert failed.value.code == ExitCode.BAD_LIST


def test_what_fuse_does_not_take_is_said(site: Site, tree: Path) -> None:
    site.push(tree)
    site.expected.append("ERROR aysfs:")
    with pytest.raises(DaemonFailed, match="mounted with -o bogus") as failed:
        site.mount(fuse_options=("bogus",))
    assert f"{site.root}/mnt.log" in (failed.value.hint or "")
    assert "bogus" in site.logs().splitlines()[0]


@every_engine
def test_a_base_below_which_nothing_lies_is_said(site: Site, tree: Path) -> None:
    site.push(tree)
    site.expected.append("ERROR aysfs:")
    with pytest.raises(DaemonFailed, match="nothing lies below the base /opt/tset"):
        site.mount(base="/opt/tset")


@every_engine
def test_a_base_that_the_list_names_may_be_empty(site: Site, tree: Path) -> None:
    site.push(tree)
    site.mount(base="/opt/test/empty-dir")
    assert os.listdir(site.point) == []
    site.umount()


@every_engine
def test_a_list_that_never_answers_is_trouble_at_the_deadline(site: Site) -> None:
    """A fifo that nobody writes to: what a dead network file system does."""
    os.mkfifo(site.root / "silent.flist")
    site.expected.append("ERROR aysfs:")
    with pytest.raises(DaemonFailed, match="no list within") as failed:
        site.mount(str(site.root / "silent.flist"), deadline=0.5)
    assert failed.value.code == ExitCode.STORE
    assert os.listdir(site.root / "run") == []


@every_engine
def test_a_store_that_is_gone_is_trouble_not_missing(site: Site, tree: Path) -> None:
    site.push(tree)
    (site.root / "store").rename(site.root / "away")
    site.expected.append("ERROR aysfs:")
    with pytest.raises(DaemonFailed) as failed:
        site.mount()
    assert failed.value.code == ExitCode.STORE


@every_engine
def test_a_second_mount_at_the_same_point_is_refused(site: Site, tree: Path) -> None:
    site.push(tree)
    site.mount()
    site.expected.append("ERROR aysfs:")
    with pytest.raises(DaemonFailed, match="mounted already"):
        site.mount()
    assert (site.point / "data").exists()
    site.umount()


@every_engine
def test_a_missing_mount_point_is_said(site: Site) -> None:
    with pytest.raises(MountFailed, match="there is no"):
        life.check_point(site.root / "nowhere")
    (site.root / "file").touch()
    with pytest.raises(MountFailed, match="not a directory"):
        life.check_point(site.root / "file")


@every_engine
def test_a_busy_mount_is_said_and_stays(site: Site, tree: Path) -> None:
    site.push(tree)
    site.mount()
    descriptor = os.open(site.point / "data", os.O_RDONLY)
    with pytest.raises(MountBusy, match="in use"):
        life.stop(site.root / "run", site.point)
    assert os.pread(descriptor, 3, 0) == b"\0\1\2"
    os.close(descriptor)
    site.umount()


@every_engine
def test_a_lazy_unmount_serves_whoever_holds_on(site: Site, tree: Path) -> None:
    site.push(tree)
    pid = site.mount()
    descriptor = os.open(site.point / "big", os.O_RDONLY)
    life.stop(site.root / "run", site.point, lazy=True)
    assert find_kernel_mount(str(site.point)) is None
    # To the end: read-ahead still under way at the close would be dropped with the connection.
    with os.fdopen(descriptor, "rb") as held:
        assert held.read() == (tree / "big").read_bytes()
    os.waitpid(pid, 0)


@every_engine
def test_unmounting_nothing_is_said(site: Site) -> None:
    site.point.mkdir()
    with pytest.raises(MountFailed, match="nothing of ours"):
        life.stop(site.root / "run", site.point)


@every_engine
def test_the_daemon_leaves_when_anyone_unmounts(site: Site, tree: Path) -> None:
    site.push(tree)
    pid = site.mount()
    assert run("umount", site.point).returncode == 0
    os.waitpid(pid, 0)
    assert records(site.root / "run") == []


@every_engine
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_mount_cleanly(site: Site, tree: Path, number: signal.Signals) -> None:
    site.push(tree)
    pid = site.mount()
    os.kill(pid, number)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert find_kernel_mount(str(site.point)) is None
    assert records(site.root / "run") == []


@every_engine
def test_stop_over_the_control_socket(site: Site, tree: Path) -> None:
    site.push(tree)
    pid = site.mount()
    assert site.ask("stop") == {"stopping": True}
    os.waitpid(pid, 0)
    assert find_kernel_mount(str(site.point)) is None


@every_engine
def test_status_counts(site: Site, tree: Path) -> None:
    site.push(tree)
    site.mount()
    (site.point / "data").read_bytes()
    (site.point / "hard").read_bytes()
    status = site.ask()
    assert status["misses"] == 1
    assert status["fetched_bytes"] == 10240
    assert status["engine"] == site.engine
    if site.engine == "fuse":
        assert status["hits"] == 1
    site.umount()


@every_engine
def test_an_unknown_request_is_refused(site: Site, tree: Path) -> None:
    site.push(tree)
    site.mount()
    with pytest.raises(MountFailed, match="unknown request"):
        ask(folder_of(site.root / "run", str(site.point)) / "control", "explode")
    site.umount()


@every_engine
def test_a_bug_in_a_handler_is_eio_and_the_mount_lives_on(site: Site, tree: Path) -> None:
    """The engine is served with one handler broken, in a process of its own."""
    site.push(tree)
    site.point.mkdir()
    site.expected += ["bug in readlink", "Traceback", "ZeroDivisionError", "raise", "File"]
    script = (
        "import sys\n"
        "from aysfs.image import ImageTree\n"
        "from aysfs.mount.options import from_json\n"
        "from aysfs.mount.daemon import run\n"
        "def broken(self, node): raise ZeroDivisionError\n"
        "ImageTree.target = broken\n"
        "run(from_json(sys.stdin.readline()), lambda: print('ready', flush=True))\n"
    )
    with (
        open(site.root / "bug.log", "wb") as log,
        subprocess.Popen(
            [PYTHON, "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as daemon,
    ):
        assert daemon.stdin is not None
        assert daemon.stdout is not None
        daemon.stdin.write(site.options().to_json() + "\n")
        daemon.stdin.flush()
        assert daemon.stdout.readline() == "ready\n"
        with pytest.raises(OSError, match="Input/output"):
            os.readlink(site.point / "link")
        assert (site.point / "data").read_bytes() == (tree / "data").read_bytes()
        site.umount()
        assert daemon.wait(20) == 0


@every_engine
def test_a_runtime_directory_of_somebody_else_is_refused(site: Site, tree: Path) -> None:
    site.push(tree)
    site.mount()
    runtime = site.root / "run"
    os.chown(runtime, 1234, 1234)
    with pytest.raises(MountFailed, match="not ours alone"):
        life.find(runtime, site.point)
    with pytest.raises(MountFailed, match="not ours alone"):
        records(runtime)
    os.chown(runtime, 0, 0)
    runtime.chmod(0o777)
    with pytest.raises(MountFailed, match="not ours alone"):
        life.stop(runtime, site.point)
    runtime.chmod(0o700)
    site.umount()


def test_a_record_is_a_regular_file(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "0123"
    folder.mkdir(mode=0o700, parents=True)
    (tmp_path / "run").chmod(0o700)
    text = '{"point": "/mnt", "services": ["a"], "log": "/log", "pid": 1}'
    (folder / "mount.json").write_text(text)
    assert read_record(folder) is not None
    (folder / "mount.json").rename(tmp_path / "elsewhere")
    (folder / "mount.json").symlink_to(tmp_path / "elsewhere")
    assert read_record(folder) is None
    (folder / "mount.json").unlink()
    os.mkfifo(folder / "mount.json")
    assert read_record(folder) is None


def test_who_looks_at_a_mount_does_not_keep_a_daemon_out(tmp_path: Path) -> None:
    """One probe holds the lock, others see through it, and a claim waits for its moment to end."""
    runtime = tmp_path / "run"
    first = Claim(runtime, "/mnt")
    folder = first.folder
    with pytest.raises(MountFailed, match="has not left"):
        Claim(runtime, "/mnt", patience=0)
    assert is_served(folder)
    first.drop()
    assert not folder.exists()
    folder.mkdir()
    (folder / "lock").touch()
    with ThreadPoolExecutor(1) as pool:
        with open(folder / "lock") as probe:
            fcntl.flock(probe, fcntl.LOCK_SH)
            assert not is_served(folder)
            claim = pool.submit(Claim, runtime, "/mnt")
        claim.result(20).drop()


def test_a_mount_waits_for_the_daemon_that_somebody_unmounted(site: Site, tree: Path) -> None:
    """A plain umount(8) does not wait for the daemon; it may hold its claim for a while."""
    site.push(tree)
    before = site.mount()
    os.kill(before, signal.SIGSTOP)  # it sees the unmount, and leaves, only when it goes on
    try:
        assert run("umount", "-i", "-c", site.point).returncode == 0
        with ThreadPoolExecutor(1) as pool:
            after = pool.submit(site.mount)
            while "waiting for the daemon" not in site.logs():
                assert not after.done(), after.result()
                os.sched_yield()
            os.kill(before, signal.SIGCONT)
            assert after.result(30) != before
    finally:
        os.kill(before, signal.SIGCONT)
    assert (site.point / "data").read_bytes() == (tree / "data").read_bytes()
    assert os.waitpid(before, 0) == (before, 0)
    site.umount()


def test_a_mount_says_when_the_daemon_before_it_never_leaves(tmp_path: Path) -> None:
    claim = Claim(tmp_path / "run", "/mnt")
    claim.publish("/mnt", ["a"], "/the/log")
    with pytest.raises(MountFailed, match=f"daemon {os.getpid()} that served it") as failed:
        Claim(tmp_path / "run", "/mnt", patience=0)
    assert "/the/log" in (failed.value.hint or "")
    claim.drop()


def test_the_folder_of_a_daemon_that_came_meanwhile_stays(tmp_path: Path) -> None:
    claim = Claim(tmp_path / "run", "/mnt")
    claim.publish("/mnt", ["a"], "/log")
    sweep(claim.folder, "/mnt")
    assert (claim.folder / "mount.json").exists()
    os.close(claim._lock)  # as when its process dies
    sweep(claim.folder, "/mnt")
    assert os.listdir(tmp_path / "run") == []


def test_a_daemon_whom_too_many_ask_may_be_asked_again(tmp_path: Path) -> None:
    with ExitStack() as undo:
        daemon = undo.enter_context(socket.socket(socket.AF_UNIX))
        daemon.bind(str(tmp_path / "control"))
        daemon.listen(0)
        waiting = undo.enter_context(socket.socket(socket.AF_UNIX))
        waiting.connect(str(tmp_path / "control"))
        with pytest.raises(Lost):
            ask(tmp_path / "control", "status")
