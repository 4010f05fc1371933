"""A mount that records notes every blob that is read, cached or not, in the order of the reads."""

import hashlib
import os
import signal
from pathlib import Path

import pytest
import trio

from aysfs.digest import EMPTY, Digest
from aysfs.errors import MountFailed
from aysfs.mount.client import DaemonFailed
from aysfs.mount.control import serve_control
from aysfs.mount.recording import Recorder, begin, recorded
from aysfs.mount.runtime import folder_of
from aysfs.profile import Read
from tests.t4_mount.conftest import Site, every_engine, run
from tests.t4_mount.overlay_site import wait_for_another


def control(site: Site) -> Path:
    return folder_of(site.root / "run", str(site.point)) / "control"


def digest_of(path: Path) -> Digest:
    return Digest(hashlib.md5(path.read_bytes()).digest())


def blobs(reads: list[Read]) -> list[tuple[Digest, int]]:
    return [(one.digest, one.size) for one in reads]


@every_engine
def test_first_reads_are_noted_in_their_order(site: Site, tree: Path) -> None:
    site.push(tree)
    site.mount(record=True)
    number = begin(control(site))
    assert recorded(control(site), number) == []
    for name in ("data", "bin/hello", "data", "hard", "empty", "link"):
        (site.point / name).read_bytes()
    run("find", site.point, "-size", "+1k", "-false")  # names and attributes are no reads
    reads = recorded(control(site), number)
    assert blobs(reads) == [
        (digest_of(tree / "data"), 40 * 256),
        (digest_of(tree / "bin/hello"), 21),
    ]
    times = [one.milliseconds for one in reads]
    assert 0 <= times[0] <= times[1] < 60_000
    site.umount()


@every_engine
def test_what_is_cached_is_noted_as_well_and_is_not_fetched_again(site: Site, tree: Path) -> None:
    site.push(tree)
    site.mount()
    (site.point / "data").read_bytes()
    site.umount()
    site.mount(record=True)
    number = begin(control(site))
    assert (site.point / "data").read_bytes() == (tree / "data").read_bytes()
    assert blobs(recorded(control(site), number)) == [(digest_of(tree / "data"), 40 * 256)]
    assert site.ask()["fetched_bytes"] == 0
    site.umount()


@every_engine
def test_a_record_begins_anew_when_told_so(site: Site, tree: Path) -> None:
    site.push(tree)
    site.mount(record=True)
    first = begin(control(site))
    (site.point / "data").read_bytes()
    second = begin(control(site))
    (site.point / "big").read_bytes()
    assert [one.digest for one in recorded(control(site), second)] == [digest_of(tree / "big")]
    with pytest.raises(MountFailed, match="died while a start was recorded"):
        recorded(control(site), first)
    site.umount()


async def test_a_long_record_comes_in_pages(tmp_path: Path) -> None:
    """One answer has ten thousand reads; whoever asks goes on until one is not full."""
    for count in (9_999, 10_000, 20_003):
        ticks = iter(range(count + 2))
        recorder = Recorder(clock=lambda: next(ticks) / 1000)  # noqa: B023 - of this round
        digests = [Digest(number.to_bytes(16, "big")) for number in range(count)]
        async with trio.open_nursery() as nursery:
            handlers = {"record": recorder.answer}
            await nursery.start(serve_control, tmp_path / "control", handlers)
            number = await trio.to_thread.run_sync(begin, tmp_path / "control")
            for size, digest in enumerate(digests):
                recorder.note(digest, size + 1)
                recorder.note(digest, size + 1)
            recorder.note(digests[0], 1)
            found = await trio.to_thread.run_sync(recorded, tmp_path / "control", number)
            nursery.cancel_scope.cancel()
        assert found == [Read(one, size + 1, size + 1) for size, one in enumerate(digests)]


async def test_an_empty_blob_is_never_read() -> None:
    recorder = Recorder()
    recorder.note(EMPTY, 0)
    assert (await recorder.answer("0"))["reads"] == []


@every_engine
def test_an_ordinary_mount_records_nothing(site: Site, tree: Path) -> None:
    site.push(tree)
    site.mount()
    with pytest.raises(DaemonFailed, match="unknown request 'record'"):
        begin(control(site))
    site.umount()


@pytest.mark.parametrize("engine", ["overlay"])
def test_a_record_does_not_survive_its_daemon_unnoticed(site: Site, tree: Path) -> None:
    site.expected += ["the daemon was killed", "its daemon had died"]
    site.push(tree)
    site.mount(record=True)
    number = begin(control(site))
    (site.point / "data").read_bytes()
    worker = site.pid()
    os.kill(worker, signal.SIGKILL)
    wait_for_another(site, worker)
    (site.point / "big").read_bytes()
    with pytest.raises(MountFailed, match="died while a start was recorded"):
        recorded(control(site), number)
    site.umount()
