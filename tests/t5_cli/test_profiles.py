"""``aysfs profile``: a command's reads of a service recorded, merged, published and shown."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aysfs.kernel.table import kernel_mounts
from aysfs.profile import Profile, parse
from tests.servers import Nginx
from tests.t5_cli.conftest import MAIN, Host, command_lines

NOTE = Path("store/dedupe/md/jumpscale__test.profile")
BASE = Path("/opt/test")
DATA, HELLO = "e2c865db4162bed963bfaa9ef6ac18f0", "57e829f0da2331e0ca9f1a38ba7e7dbc"

every_engine = pytest.mark.parametrize("engine", ["fuse", "overlay"])


def profile_of(host: Host) -> Profile:
    return parse((host.root / NOTE).read_bytes(), "the note")


def paths(host: Host) -> list[str]:
    """What the profile has, by the list."""
    shown = json.loads(host.ok("profile", "show", "test", "--json"))
    return [one["path"] for one in shown["reads"]]


@pytest.fixture(autouse=True)
def nothing_is_left(service: Host, tmp_path: Path) -> Iterator[None]:
    """No daemon, no mount, no folder of a recording, and no base that was not there before."""
    assert not BASE.exists()
    service.environment["TMPDIR"] = str(tmp_path)
    yield
    end = time.monotonic() + 20
    while os.fsencode(tmp_path) in command_lines() and time.monotonic() < end:
        select.select([], [], [], 0.02)
    assert os.fsencode(tmp_path) not in command_lines()
    assert not BASE.exists()
    assert not [one for one in kernel_mounts() if "aysfs-record-" in one.point]
    assert list(tmp_path.glob("aysfs-record-*")) == []


@every_engine
def test_what_a_command_reads_is_recorded_where_the_list_says(service: Host, engine: str) -> None:
    words = ("--engine", engine, "--", f"{BASE}/bin/hello")
    said = service.ok("profile", "record", "test", *words)
    assert said.startswith("hello\njumpscale__test: 1 files, 21 B of ")
    assert paths(service) == ["/bin/hello"]
    assert profile_of(service).runs == 1
    assert not (service.root / "run").exists()


@every_engine
def test_runs_are_merged(service: Host, engine: str) -> None:
    record = ("profile", "record", "test", "--engine", engine)
    service.ok(*record, "--", "md5sum", f"{BASE}/data", f"{BASE}/hard")
    service.ok(*record, "--runs", "2", "--", f"{BASE}/bin/hello")
    service.ok(*record, "--", "md5sum", f"{BASE}/data")
    found = {one.digest.hex(): one.runs for one in profile_of(service).reads}
    assert profile_of(service).runs == 4
    assert found == {DATA: 2, hello_of(service): 2}


def hello_of(host: Host) -> str:
    shown = json.loads(host.ok("stat", "test:bin/hello", "--json"))
    return str(shown["md5"])


def test_a_fresh_profile_forgets_the_others(service: Host) -> None:
    service.ok("profile", "record", "test", "--", "md5sum", f"{BASE}/data")
    service.ok("profile", "record", "test", "--fresh", "--", f"{BASE}/bin/hello")
    assert paths(service) == ["/bin/hello"]
    assert profile_of(service).runs == 1


def test_a_profile_that_is_not_published_is_written_out(service: Host) -> None:
    command = ("--", "sh", "-c", "cat $AYSFS_ROOT/data >/dev/null; echo said")
    done = service.run("profile", "record", "test", "--no-publish", *command)
    assert (done.code, done.err) == (0, "said\n")
    [read] = parse(done.raw, "standard output").reads
    assert (read.digest.hex(), read.size, read.runs) == (DATA, 256, 1)
    assert not (service.root / NOTE).exists()


def test_a_service_is_recorded_where_it_is_asked_for(service: Host) -> None:
    at = service.root / "deep" / "place"
    said = service.ok("profile", "record", "test", "--at", at, "--", f"{at}/bin/hello")
    assert said.startswith("hello\n")
    assert not at.parent.exists()


def test_the_host_and_its_mounts_see_nothing_of_a_record(service: Host) -> None:
    point = service.root / "mnt"
    point.mkdir()
    (point / "mine").touch()
    service.ok("profile", "record", "test", "--at", point, "--", *watch(point, service))
    assert (service.root / "seen").read_text() == "mine\n"
    service.ok("mount", "test", point)
    service.ok("profile", "record", "test", "--at", point, "--", "md5sum", point / "data")
    assert (point / "data").read_bytes() == bytes(range(256))
    assert json.loads(service.ok("status", "--json"))[0]["point"] == str(point)
    service.ok("umount", point)


def watch(point: Path, host: Host) -> tuple[str, ...]:
    """A command that reads a file, and lists the mount point as the host sees it."""
    look = f"nsenter -t {os.getpid()} -m ls {point} >{host.root}/seen"
    return ("sh", "-c", f"cat {point}/bin/hello >/dev/null && {look}")


def start_pack(host: Host) -> object:
    """What the packs of the service say of the pack that a start needs; None without packs."""
    note = host.root / "store/dedupe/md/jumpscale__test.packs"
    return json.loads(note.read_bytes())["start"] if note.exists() else None


def test_packs_follow_what_was_recorded(service: Host) -> None:
    record = ("profile", "record", "test")
    service.ok(*record, "--no-packs", "--", "md5sum", f"{BASE}/data")
    assert start_pack(service) is None
    said = service.ok(*record, "--", f"{BASE}/bin/hello")
    assert ": 4 blobs (280 B) are in 2 packs (" in said
    assert ", 2 of them in the start pack; 2 packs (" in said
    assert start_pack(service) is not None
    service.ok("store", "check", "--deep")


def test_a_host_that_never_had_the_service_brings_what_was_recorded(service: Host) -> None:
    service.ok("profile", "record", "test", "--", "md5sum", f"{BASE}/data")
    service.ok("cache", "clear")
    assert service.cached() == []
    point = service.root / "mnt"
    point.mkdir()
    service.ok("mount", "test", point)
    end = time.monotonic() + 20
    while DATA not in [path.name for path in service.cached()] and time.monotonic() < end:
        select.select([], [], [], 0.02)
    found = [path.name for path in service.cached()]
    service.ok("umount", point)
    assert found == [DATA]


# --- what goes wrong ---------------------------------------------------------------------


@every_engine
@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("exit 3", 3, "ended with 3"),
        ("kill -9 $$", 137, "was killed by signal 9"),
    ],
)
def test_of_a_command_that_fails_nothing_is_published(
    service: Host, engine: str, command: str, code: int, words: str
) -> None:
    command = f"cat $AYSFS_ROOT/data >/dev/null; {command}"
    arguments = ("--engine", engine, "--", "sh", "-c", command)
    line = service.refused(code, "profile", "record", "test", *arguments)
    assert line == f"`sh -c {command}` {words}, nothing is recorded"
    assert not (service.root / NOTE).exists()


def test_a_command_that_reads_nothing_of_the_service_is_no_record(service: Host) -> None:
    line = service.refused(1, "profile", "record", "test", "--", "true")
    assert line == "`true` read nothing of jumpscale__test"
    assert not (service.root / NOTE).exists()


def test_a_command_that_is_not_there(service: Host) -> None:
    line = service.refused(4, "profile", "record", "test", "--", "no-such-command")
    assert line == "`no-such-command` cannot be run: No such file or directory"


def test_a_list_that_is_based_at_the_top_needs_a_place(service: Host) -> None:
    service.ok("push", "tree", "--name", "whole", "--base", "/")
    line = service.refused(11, "profile", "record", "whole", "--", "true")
    assert line == "the base of jumpscale__whole is `/`, where nothing can be mounted"
    at = service.root / "here"
    service.ok("profile", "record", "whole", "--at", at, "--", "md5sum", f"{at}/data")


def test_a_damaged_profile_is_told_before_anything_runs(service: Host) -> None:
    (service.root / NOTE).write_bytes(b"#profile 1\n#runs 1\nnonsense\n")
    record = ("profile", "record", "test")
    for words in ((*record, "--", "touch", "ran"), ("profile", "show", "test")):
        line = service.refused(3, *words)
        assert "jumpscale__test.profile:3: no `md5|size|milliseconds|runs`" in line
    assert not (service.root / "ran").exists()
    service.ok(*record, "--fresh", "--", "md5sum", f"{BASE}/data")
    assert paths(service) == ["/data"]


def test_a_store_that_takes_no_writes_is_told_before_anything_runs(service: Host) -> None:
    with Nginx(service.root / "nginx", service.root / "store") as server:
        record = ("profile", "record", "test", "--store", server.url)
        line = service.refused(11, *record, "--", "touch", "ran")
        assert "takes no writes" in line
        assert not (service.root / "ran").exists()
        done = service.run(*record, "--no-publish", "--", "md5sum", f"{BASE}/data")
    assert (done.code, len(parse(done.raw, "out").reads)) == (0, 1)


def test_a_service_without_a_profile_or_without_a_list(service: Host) -> None:
    assert service.refused(4, "profile", "show", "test") == "jumpscale__test has no profile"
    assert "nowhere" in service.refused(4, "profile", "record", "nowhere", "--", "true")
    assert "is a file" in service.refused(2, "profile", "record", "./x.flist", "--", "true")


def test_an_interrupted_record_ends_its_command_and_leaves_nothing(service: Host) -> None:
    words = ["profile", "record", "test", "--", "sh", "-c", "cat $AYSFS_ROOT/data; exec sleep 1000"]
    command = [sys.executable, "-P", "-c", MAIN, *words]
    out, environment = subprocess.PIPE, service.environment
    with subprocess.Popen(
        command, cwd=service.root, env=environment, stdout=out, stderr=out
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.read(256) == bytes(range(256))
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, said) == (130, b"\naysfs: interrupted\n")
    assert not (service.root / NOTE).exists()


@every_engine
def test_what_a_command_leaves_behind_is_told(service: Host, engine: str) -> None:
    with open(service.root / "end", "wb"):
        pass
    left = "(cd $AYSFS_ROOT && while [ -e end ]; do sleep 0.05; done) >/dev/null 2>&1 &"
    left = left.replace("-e end", f"-e {service.root}/end")
    command = f"{left} cat $AYSFS_ROOT/data >/dev/null; sleep 0.2"
    words = ("--engine", engine, "--", "sh", "-c", command)
    done = service.run("profile", "record", "test", *words)
    (service.root / "end").unlink()
    assert done.code == 0
    told = "a process that the command left behind used the service, which is gone"
    assert done.err == f"aysfs: {told}\n"
    assert paths(service) == ["/data"]


# --- versions, and what is shown ---------------------------------------------------------


def test_a_profile_outlives_the_version_that_it_was_made_with(service: Host) -> None:
    command = ("--", "md5sum", f"{BASE}/data", f"{BASE}/bin/hello")
    service.ok("profile", "record", "test", *command)
    (service.root / "tree/data").write_bytes(b"another version")
    pushed = service.run("push", "tree", "--name", "test", "--base", str(BASE))
    assert (pushed.code, "its packs are of the list before" in pushed.err) == (0, True)
    shown = json.loads(service.ok("profile", "show", "test", "--json"))
    assert ([one["path"] for one in shown["reads"]], shown["unknown"]) == (["/bin/hello"], 1)
    assert service.ok("profile", "show", "test").endswith("; 1 are of another version\n")
    service.ok("profile", "record", "test", "--", f"{BASE}/bin/hello")
    assert [one.runs for one in profile_of(service).reads] == [2]


def test_a_profile_is_shown_in_the_order_of_its_reads(service: Host) -> None:
    command = f"cat {BASE}/data >/dev/null; sleep 0.05; {BASE}/bin/hello >/dev/null"
    service.ok("profile", "record", "test", "--", "sh", "-c", command)
    first, second, summary = service.ok("profile", "show", "test").splitlines()
    assert first.split()[1:] == ["s", "256", "B", "1/1", "/data"]
    assert second.split()[1:] == ["s", "21", "B", "1/1", "/bin/hello"]
    assert float(second.split()[0]) >= float(first.split()[0]) + 0.05
    assert summary.startswith("jumpscale__test: 2 files, 277 B of ")
    shown = json.loads(service.ok("profile", "show", "test", "--json"))
    assert shown["bytes"] == 277
    assert shown["share"] == pytest.approx(277 / shown["service_bytes"])
    assert [one["md5"] for one in shown["reads"]] == [DATA, hello_of(service)]
