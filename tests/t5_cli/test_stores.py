"""``aysfs store``, and what push does for it: in the real command."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.t5_cli.conftest import MAIN, Host

NAME = "jumpscale__test"


@pytest.fixture
def tagged(service: Host) -> Host:
    """The service, its list kept as 1.0, then changed and pushed as 1.1."""
    service.ok("store", "tag", "test", "1.0")
    (service.root / "tree/data").write_bytes(b"newer")
    os.link(service.root / "tree/data", service.root / "tree/second")
    service.ok("push", "tree", "--name", "test", "--tag", "1.1", "--base", "/opt/test")
    return service


def old_now(host: Host) -> None:
    """Let every blob be older than any grace period."""
    for blob in host.blobs():
        os.utime(blob, (0, 0))


def lists(host: Host) -> list[str]:
    return sorted(path.name for path in (host.root / "store/dedupe/md").glob("*.flist"))


def test_a_push_with_a_tag_publishes_both(tagged: Host) -> None:
    assert lists(tagged) == [f"{NAME}.flist", f"{NAME}@1.0.flist", f"{NAME}@1.1.flist"]
    assert tagged.ok("cat", "test@1.1:data") == tagged.ok("cat", "test:data") == "newer"
    assert len(tagged.run("cat", "test@1.0:data").raw) == 256


def test_a_push_says_under_what_it_published(service: Host) -> None:
    said = service.ok("push", "tree", "--name", "test", "--tag", "2", "--base", "/opt/test")
    assert said.startswith(f"{NAME} and @2: ")
    line = service.refused(2, "push", "tree", "--name", "test@1", "--tag", "2")
    assert line == f"`{NAME}@1` has a tag already"
    assert "bad tag" in service.refused(2, "push", "tree", "--name", "test", "--tag", "A/B")


def test_going_back_is_one_command(tagged: Host) -> None:
    said = tagged.ok("store", "tag", "test@1.0", "--current")
    assert said == f"{NAME} is now the list that {NAME}@1.0 is\n"
    assert len(tagged.run("cat", "test:data").raw) == 256
    assert tagged.ok("cat", "test@1.1:data") == "newer"


def test_a_tag_is_mounted_and_keeps_its_blobs(tagged: Host) -> None:
    tagged.ok("store", "rm", "test")
    old_now(tagged)
    tagged.ok("store", "gc", "--delete", "--settle", "0")
    point = tagged.root / "mnt"
    point.mkdir()
    tagged.ok("mount", "test@1.0", point)
    held = (point / "data").read_bytes()
    tagged.ok("umount", point)
    assert len(held) == 256


def test_what_tag_refuses(tagged: Host) -> None:
    assert "no list" in tagged.refused(4, "store", "tag", "none", "1")
    assert "current list" in tagged.refused(2, "store", "tag", "test", "--current")
    for arguments in (["test"], ["test", "1", "--current"]):
        assert tagged.run("store", "tag", *arguments).code == 2
    for blob in tagged.blobs():
        blob.unlink()
    assert "no blob" in tagged.refused(4, "store", "tag", "test", "later")


def test_removing_a_current_list_leaves_its_tags_and_says_so(tagged: Host) -> None:
    said = tagged.ok("store", "rm", "test")
    stay = "the tags 1.0, 1.1 and all blobs stay, blobs until `aysfs store gc`"
    assert said == f"{NAME}: removed; {stay}\n"
    assert lists(tagged) == [f"{NAME}@1.0.flist", f"{NAME}@1.1.flist"]
    assert tagged.refused(4, "store", "rm", "test").endswith(f"has no list {NAME}")
    assert "is a tag" in tagged.refused(2, "store", "rm", "test@1.0")
    assert "has no tag" in tagged.refused(2, "store", "untag", "test")
    assert tagged.ok("store", "untag", "test@1.0").startswith(f"{NAME}@1.0: removed")
    assert lists(tagged) == [f"{NAME}@1.1.flist"]
    assert "no list" in tagged.refused(4, "store", "untag", "test@1.0")


def test_gc_says_what_it_would_delete_and_then_deletes_it(tagged: Host) -> None:
    tagged.ok("store", "untag", "test@1.0")
    young = tagged.ok("store", "gc")
    assert young.startswith("would delete 0 blobs (0 B)")
    assert "kept 1 blobs (256 B) that are younger than 24h" in young
    old_now(tagged)
    count = len(tagged.blobs())
    for arguments in ([], ["--dry-run"]):
        said = tagged.ok("store", "gc", *arguments)
        assert said.splitlines() == [
            "would delete 1 blobs (256 B) that none of 2 lists names",
            "nothing was deleted: --delete does it",
        ]
    assert len(tagged.blobs()) == count
    said = tagged.ok("store", "gc", "--delete", "--settle", "0")
    assert said == "deleted 1 blobs (256 B) that none of 2 lists names\n"
    assert len(tagged.blobs()) == count - 1
    assert "3 of 3" not in tagged.ok("store", "check", "--deep")
    assert not list((tagged.root / "store/dedupe/md").glob(".*"))


def test_gc_for_scripts(tagged: Host) -> None:
    said = json.loads(tagged.ok("store", "gc", "--json"))
    assert said["deleted"] is False
    assert said["lists"] == 3
    assert said["blobs"] == {"files": 0, "size": 0}


def test_gc_keeps_everything_when_a_list_cannot_be_read(tagged: Host) -> None:
    old_now(tagged)
    broken = tagged.root / f"store/dedupe/md/{NAME}@1.0.flist"
    broken.chmod(0o600)
    broken.write_bytes(b"nonsense\n")
    line = tagged.refused(3, "store", "gc", "--delete", "--settle", "0")
    assert line.startswith(f"{broken}:1: ")
    assert "nothing was deleted" in tagged.run("store", "gc").err


def test_what_gc_refuses(service: Host) -> None:
    assert service.run("store", "gc", "--delete", "--dry-run").code == 2
    assert "`--grace` must be an age" in service.refused(11, "store", "gc", "--grace", "soon")
    assert "`--grace` must be an age" in service.refused(11, "store", "gc", "--grace", "9" * 400)
    for settle in ("nan", "inf", "300"):
        assert service.run("store", "gc", "--delete", "--settle", settle).code == 2
    (service.root / "store/dedupe/md/.gc").write_bytes(b"aysfs gc 1\n")
    line = service.refused(5, "store", "gc", "--delete", "--settle", "0")
    assert line.endswith("another gc is at work")


@pytest.mark.parametrize(
    "command",
    [
        ("push", "tree", "--name", "test", "--base", "/opt/test"),
        ("store", "tag", "test", "1"),
        ("store", "copy", "test", "--to", "store"),
    ],
    ids=["push", "tag", "copy"],
)
def test_who_publishes_waits_for_a_gc_and_says_so(service: Host, command: list[str]) -> None:
    note = service.root / "store/dedupe/md/.gc"
    note.write_bytes(b"aysfs gc 1\n")
    with subprocess.Popen(
        [sys.executable, "-P", "-c", MAIN, *command],
        cwd=service.root,
        env=service.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        note.unlink()
        rest = process.stderr.read()
    assert said == f"aysfs: {service.root}/store: waiting until a gc has ended\n"
    assert (process.returncode, rest) == (0, "")


def test_check_finds_what_is_missing(tagged: Host) -> None:
    assert tagged.ok("store", "check").startswith("3 of 3 lists are whole; ")
    old = next(blob for blob in tagged.blobs() if blob.stat().st_size == 256)
    old.unlink()
    done = tagged.run("store", "check")
    assert done.code == 4
    left = len(tagged.blobs())
    assert done.out.splitlines() == [
        f"{NAME}@1.0: 2 missing, 0 corrupt of 5 files",
        f"  /opt/test/data: {old.name} is missing",
        f"  /opt/test/hard: {old.name} is missing",
        f"2 of 3 lists are whole; {left} of {left + 1} blobs are there",
    ]
    assert done.err.startswith("aysfs: 1 blobs are missing\n")
    assert tagged.ok("store", "check", "test").startswith("1 of 1 lists are whole; ")


def test_check_finds_what_is_corrupt(tagged: Host) -> None:
    old = next(blob for blob in tagged.blobs() if blob.stat().st_size == 256)
    old.chmod(0o600)
    old.write_bytes(bytes(256))
    assert tagged.run("store", "check").code == 0
    done = tagged.run("store", "check", "--deep", "--json")
    assert done.code == 6
    said = json.loads(done.out)
    assert said["wrong"] == {old.name: "corrupt"}
    [damage] = said["damage"]
    assert (damage["name"], damage["corrupt"]) == (f"{NAME}@1.0", 2)
    assert damage["paths"][0] == {
        "path": "/opt/test/data",
        "digest": old.name,
        "wrong": "corrupt",
    }


def test_check_goes_on_after_a_list_that_cannot_be_read(tagged: Host) -> None:
    broken = tagged.root / f"store/dedupe/md/{NAME}@1.0.flist"
    broken.chmod(0o600)
    broken.write_bytes(b"nonsense\n")
    done = tagged.run("store", "check")
    assert done.code == 3
    assert done.out.startswith("2 of 3 lists are whole; ")
    assert f"aysfs: {NAME}@1.0 cannot be read: " in done.err


def test_info_and_ls(tagged: Host) -> None:
    found = json.loads(tagged.ok("store", "info", "--json"))
    assert (found["services"], found["tags"], found["blobs"]) == (1, 2, len(tagged.blobs()))
    assert found["saved"] > 0
    said = tagged.ok("store", "info")
    assert said.splitlines()[0] == "services     1, and 2 tags"
    rows = tagged.ok("store", "ls").splitlines()
    assert [row.split()[0] for row in rows] == [NAME, f"{NAME}@1.0", f"{NAME}@1.1"]
    assert all(" entries " in row for row in rows)
    assert len(json.loads(tagged.ok("store", "ls", "--json"))["lists"]) == 3


def test_a_store_is_copied(tagged: Host) -> None:
    other = tagged.root / "other"
    assert "there is no store" in tagged.refused(5, "store", "copy", "test", "--to", other)
    assert tagged.ok("store", "init", other).startswith(f"{other}: ready, 0 lists")
    one = tagged.ok("store", "copy", "test@1.1", "--to", other)
    assert one.startswith("1 lists copied; ")
    everything = tagged.ok("store", "copy", "--all", "--to", other)
    assert everything.startswith("3 lists copied; 1 blobs (256 B) were new, ")
    assert tagged.ok("store", "check", "--deep", "--store", other).startswith("3 of 3 lists")
    for arguments in (["--all", "test"], []):
        assert tagged.run("store", "copy", *arguments, "--to", other).code == 2


def test_a_copy_tells_what_could_not_be_copied(tagged: Host) -> None:
    other = tagged.root / "other"
    other.mkdir()
    next(blob for blob in tagged.blobs() if blob.stat().st_size == 256).unlink()
    done = tagged.run("store", "copy", "--all", "--to", other)
    assert done.code == 4
    assert done.out.startswith("2 lists copied; ")
    assert "has no blob" in done.err


def test_init_makes_a_store_and_leaves_one_as_it_is(host: Host) -> None:
    assert (
        host.ok("store", "init") == f"{host.root}/store: ready, 0 lists in the namespace dedupe\n"
    )
    assert [path.name for path in (host.root / "store/dedupe").iterdir()] == ["md"]
    assert host.ok("store", "init").endswith("ready, 0 lists in the namespace dedupe\n")


def test_a_mistyped_store_is_not_made(service: Host, tmp_path: Path) -> None:
    line = service.refused(5, "push", "tree", "--name", "test", "--store", "stroe")
    assert line == f"there is no store {service.root}/stroe"
    assert not (service.root / "stroe").exists()
    (service.root / "empty").mkdir()
    service.ok("push", "tree", "--name", "test", "--store", "empty")


def test_removing_a_list_without_tags_says_what_stays(service: Host) -> None:
    said = service.ok("store", "rm", "test")
    assert said == f"{NAME}: removed; its blobs stay until `aysfs store gc`\n"


def test_an_empty_address_is_not_the_working_directory(service: Host) -> None:
    service.refused(11, "store", "copy", "test", "--to", "")
    service.refused(11, "store", "init", "")
    assert not (service.root / "dedupe").exists()


def test_a_store_that_is_gone_is_named_with_what_to_do(service: Host) -> None:
    for command in (["ls"], ["tag", "test", "1"], ["rm", "test"], ["gc", "--delete"]):
        done = service.run("store", *command, "--store", "gone")
        assert done.code == 5
        assert "is the disk of the store mounted?" in done.err
    done = service.run("store", "tag", "test", "1", "--store", "store", "--store", "gone")
    assert done.err.startswith(f"aysfs: {service.root}/gone: no such directory\n")
    assert lists(service) == [f"{NAME}.flist"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_gc_that_is_interrupted_leaves_no_note(tagged: Host, number: signal.Signals) -> None:
    note = tagged.root / "store/dedupe/md/.gc"
    command = [sys.executable, "-P", "-c", MAIN, "store", "gc", "--delete", "--settle", "60"]
    with subprocess.Popen(command, env=tagged.environment, stderr=subprocess.PIPE) as process:
        while not note.exists():
            assert process.poll() is None
            os.sched_yield()
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
    assert (process.returncode, said.strip()) == (130, b"aysfs: interrupted")
    assert not note.exists()


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB that is full."""
    place = tmp_path / "full"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "full", place], check=True)
    with open(place / "filler", "wb", buffering=0) as filler, contextlib.suppress(OSError):
        while True:
            filler.write(bytes(4096))
    yield place
    subprocess.run(["umount", place], check=True)


def test_no_room_for_temporary_files_is_no_space(service: Host, full: Path) -> None:
    (service.root / "tree/large").write_bytes(bytes(9 << 20))
    service.ok("push", "tree", "--name", "test", "--base", "/opt/test")
    (service.root / "copy").mkdir()
    (full / "filler").unlink()  # Python takes no folder that is full from the beginning
    line = service.refused(8, "store", "copy", "test", "--to", "copy", TMPDIR=str(full))
    assert line.startswith(f"no space left on the disk of the folder {full} of temporary files")


def test_a_cache_on_a_full_disk_keeps_nobody_from_pushing(service: Host, full: Path) -> None:
    old = time.time() - 60
    for path in (service.root / "tree").rglob("*"):
        os.utime(path, (old, old), follow_symlinks=False)
    service.ok("push", "tree", "--name", "test", AYSFS_CACHE=f"{full}/cache")
    line = service.refused(8, "fetch", "test", AYSFS_CACHE=f"{full}/cache", AYSFS_STORE="store")
    assert "internal" not in line
