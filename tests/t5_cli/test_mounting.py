"""``mount``, ``reload`` and ``status`` as a person meets them."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.t5_cli.conftest import MAIN, Host


def test_control_characters_of_names_are_shown_escaped(service: Host) -> None:
    point = service.root / "mnt\x1b[31m\n red"
    point.mkdir()
    service.ok("mount", "test", point)
    shown = service.ok("status")
    service.ok("umount", point)
    assert "mnt\\x1b[31m\\n red: " in shown
    assert "\x1b" not in shown


def test_reload_says_when_xattrs_need_another_mount(service: Host) -> None:
    point = service.root / "mnt"
    point.mkdir()
    service.ok("mount", "test", point, "--engine", "fuse")
    assert service.ok("reload", point).startswith("nothing has changed: ")
    try:
        os.getxattr(point / "data", "user.note")
    except OSError:
        os.setxattr(service.root / "tree" / "data", "user.note", b"new")
    service.ok("push", service.root / "tree", "--name", "test", "--base", "/opt/test")
    shown = service.ok("reload", point)
    service.ok("umount", point)
    assert shown.splitlines()[1] == "  mount again to see extended attributes"


def test_what_was_mounted_is_shown_from_its_image_in_the_same_words(service: Host) -> None:
    point = service.root / "mnt"
    point.mkdir()
    questions = [
        ["ls", "-l", "-R", "test"],
        ["ls", "-l", "test:link"],
        ["ls", "test:bin"],
        ["stat", "test:data"],
        ["cat", "test:link"],
        ["fetch", "test"],
    ]
    service.ok("fetch", "test")
    from_list = [service.run(*question).raw for question in questions]
    assert json.loads(service.ok("cache", "stats", "--json"))["images"] == 0, "looking made one"
    service.ok("mount", "test", point)
    service.ok("umount", point)
    stats = json.loads(service.ok("cache", "stats", "--json"))
    assert stats["images"] == 1
    assert stats["image_bytes"] > 4096
    assert [service.run(*question).raw for question in questions] == from_list
    (image,) = (service.root / "cache/images").glob("*/tree.erofs")
    os.truncate(image, 5000)
    found = service.run("ls", "-l", "-R", "test")
    assert found.raw == from_list[0]
    assert found.err.splitlines() == [
        f"aysfs: damaged tree image {image.parent}: removed (tree.erofs was altered)"
    ]
    service.ok("mount", "test", point)
    service.ok("umount", point)
    service.ok("cache", "clear")
    assert json.loads(service.ok("cache", "stats", "--json"))["images"] == 0


def test_somebody_elses_runtime_directory_is_refused(service: Host) -> None:
    runtime = service.root / "run"
    runtime.mkdir()
    os.chown(runtime, 1234, 1234)
    assert "not ours alone" in service.refused(9, "status")


def test_ctrl_c_takes_the_daemon_along(service: Host) -> None:
    """The daemon waits for ever: its list is a pipe that nobody writes to."""
    (service.root / "mnt").mkdir()
    pipe = service.root / "waits.flist"
    os.mkfifo(pipe)
    with subprocess.Popen(
        [sys.executable, "-P", "-c", MAIN, "mount", pipe, service.root / "mnt"],
        env=service.environment,
        stderr=subprocess.PIPE,
    ) as command:
        with open(pipe, "wb"):  # both ends are open: the daemon is there
            command.send_signal(signal.SIGINT)
            try:
                _, told = command.communicate(timeout=100)
            finally:
                command.kill()
        assert told.splitlines()[-1:] == [b"aysfs: interrupted"]
        assert command.returncode == 130
    assert os.listdir(service.root / "run") == []
    assert not held_by_anybody(pipe)


def held_by_anybody(path: Path) -> bool:
    """Whether a process reads this pipe."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        return False
    return True


def test_the_engine_is_chosen_or_asked_for_and_told(service: Host) -> None:
    point = service.root / "mnt"
    point.mkdir()
    for asked, shown in (
        ([], "engine overlay (this host can)"),
        (["--engine", "auto"], "engine overlay (this host can)"),
        (["--engine", "overlay"], "engine overlay (asked for)"),
        (["--engine", "fuse"], "engine fuse (asked for)"),
        (["-o", "sync"], "engine fuse (-o sync: not with the overlay engine)"),
    ):
        service.ok("mount", "test", point, *asked)
        assert shown in service.ok("status")
        assert (point / "data").read_bytes() == (service.root / "tree/data").read_bytes()
        service.ok("umount", point)
    refused = service.refused(11, "mount", "test", point, "--engine", "overlay", "-o", "sync")
    assert refused == "-o sync: not with the overlay engine"
    service.refused(11, "mount", "test", point, "--engine", "overlay", "--foreground")


def test_a_mount_whose_daemon_was_killed_is_served_again_by_the_next_command(
    service: Host,
) -> None:
    """Both the daemon and the process that looks after it."""
    point = service.root / "mnt"
    point.mkdir()
    service.ok("mount", "test", point)
    (mine,) = (one for one in json.loads(service.ok("status", "--json")) if "pid" in one)
    supervisor = int(Path(f"/proc/{mine['pid']}/stat").read_text().rpartition(")")[2].split()[1])
    for pid in (supervisor, mine["pid"]):
        os.kill(pid, signal.SIGKILL)
    assert f"{point}: jumpscale__test (serving)" in service.ok("status")
    assert (point / "data").read_bytes() == (service.root / "tree/data").read_bytes()
    service.ok("umount", point)
