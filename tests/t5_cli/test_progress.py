"""What long work says where nobody watches, and that what it fetched is known to be on disk."""

import time

import pytest

from aysfs.cli import progress
from tests.t5_cli.conftest import Host

TICK = 20_000_000  # ns, and more than one of the clock that files are dated by


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step is a line."""
    monkeypatch.setattr(progress, "_PLAIN_EVERY", 0.0)


def test_a_phase_is_named_with_its_bytes(always: None, capsys: pytest.CaptureFixture[str]) -> None:
    with progress.phases("push") as meter:
        meter("hashed", 310 << 20, 807 << 20)
        meter("uploaded", 0, 512)
    assert capsys.readouterr().err == (
        "push: hashed 310.0 MiB of 807.0 MiB\npush: uploaded 0 B of 512 B\n"
    )


def test_things_are_counted(always: None, capsys: pytest.CaptureFixture[str]) -> None:
    with progress.progress("fetch", 3) as meter:
        meter(1, 2048)
    with progress.progress("verify") as meter:
        meter(2, 1)
    assert capsys.readouterr().err == "fetch: 1 of 3, 2.0 KiB\nverify: 2, 1 B\n"


def test_short_work_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.phases("push") as meter:
        meter("hashed", 1, 1)
    assert capsys.readouterr().err == ""


def test_what_a_command_fetched_is_brought_to_the_disk(service: Host) -> None:
    def horizon() -> int:
        (synced,) = service.root.rglob("synced")
        return int(synced.read_text().split()[1])

    service.ok("stat", "test:data")
    before = time.time_ns()
    service.ok("fetch", "test")
    first = horizon()
    newest = max(path.stat().st_ctime_ns for path in service.root.rglob("objects/?/?/*"))
    assert first > max(before, newest - TICK)
    service.ok("fetch", "test")  # nothing new: nothing to bring there
    assert horizon() == first
