"""Every bad input ends in one clear line, its exit code and no traceback."""

import os
import stat
from pathlib import Path

import pytest

from tests.t5_cli.conftest import Host

ZEROS = "0" * 32
FULL = "|0|0|0644|2|1.000000000|1.000000000|"


# --- names and paths ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["ls"], "{store} has no list jumpscale__gone"),
        (["cat"], "{store} has no list jumpscale__gone"),
        (["stat"], "{store} has no list jumpscale__gone"),
        (["fetch"], "{store} has no list jumpscale__gone"),
        (["flist", "check"], "{store} has no list jumpscale__gone"),
        (["flist", "convert", "--to", "full"], "{store} has no list jumpscale__gone"),
    ],
)
def test_an_unknown_service(service: Host, arguments: list[str], line: str) -> None:
    expected = line.format(store=service.root / "store")
    assert service.refused(4, *arguments, "gone") == expected


def test_an_unknown_service_leaves_nothing_behind(service: Host) -> None:
    service.refused(4, "unpack", "gone", "out")
    assert not (service.root / "out").exists()


@pytest.mark.parametrize("name", ["Redis", "a__", "a@", "", "x y"])
@pytest.mark.parametrize("command", ["ls", "fetch", "push"])
def test_a_bad_name(service: Host, command: str, name: str) -> None:
    rest = ["tree", "--name"] if command == "push" else []
    assert service.refused(2, command, *rest, name).startswith(f"`{name}` is no service name: bad ")


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        (["ls", "test:gone"], "gone"),
        (["ls", "test:data/below-a-file"], "data/below-a-file"),
        (["stat", "test:/opt/other"], "/opt/other"),
        (["cat", "test:dangling"], "dangling"),
        (["fetch", "test", "bin", "gone"], "gone"),
    ],
)
def test_no_such_path(service: Host, arguments: list[str], path: str) -> None:
    assert service.refused(4, *arguments) == f"no such path in this service: {path}"


@pytest.mark.parametrize(
    ("what", "shown"), [("test:bin", "bin"), ("test", "/"), ("test:", "/"), ("test:/", "/")]
)
def test_cat_of_what_is_no_file(service: Host, what: str, shown: str) -> None:
    assert service.refused(4, "cat", what) == f"{shown} is no regular file"


# --- lists -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("", 0, "empty list"),
        (f"/a|{ZEROS}|1\n/b|xyz|1\n", 2, "bad md5: 32 lower-case hexadecimal digits"),
        (f"/a|{ZEROS}|-1\n", 1, "negative size"),
        (f"/a|{ZEROS}\n", 1, "2 columns, expected 3 or 10; a name that holds `|` needs version 2"),
        (f"a|{ZEROS}|1\n", 1, "relative path"),
        (f"/a/../b|{ZEROS}|1\n", 1, "`..` in the path"),
        (f"/a\0|{ZEROS}|1\n", 1, "NUL in the path"),
        (f"/a|{ZEROS}|1\n/a/b|{ZEROS}|1\n", 1, "a file that is also a directory: /a"),
        (f"/a|{ZEROS}|1\n/a|{ZEROS}|2\n", 2, "the same path twice with different content: /a"),
        (f"#flist 2\n/b|{ZEROS}|0{FULL}\n/a|{ZEROS}|0{FULL}\n", 3, "not sorted: `/a` after `/b`"),
        ("#flist 2\n#require frobnication\n", 2, "the list requires `frobnication`, which is"),
        ("#flist 3\n", 1, "not a version of the format that is known here"),
        ("\x7fELF\x02\x01\x01\n", 1, "1 columns, expected 3 or 10"),
    ],
)
def test_a_malformed_list_is_refused_with_file_line_and_reason(
    host: Host, text: str, line: int, reason: str
) -> None:
    bad = host.root / "bad.flist"
    bad.write_text(text)
    place = f"{bad}:{line}: " if line else f"{bad}: "
    assert host.refused(3, "flist", "check", "bad.flist").startswith(place + reason)


def test_a_malformed_list_is_neither_converted_nor_compared(service: Host) -> None:
    bad = service.root / "bad.flist"
    bad.write_text("/a|xyz|1\n")
    for arguments in (
        ["convert", "--to", "full"],
        ["convert", "--to", "classic"],
        ["diff", "test"],
    ):
        assert service.refused(3, "flist", *arguments, "bad.flist").startswith(f"{bad}:1: bad md5")


def test_a_malformed_list_in_the_store_is_refused_by_every_reader(service: Host) -> None:
    flist = service.root / "store/dedupe/md/jumpscale__test.flist"
    flist.write_bytes(flist.read_bytes()[:-5])
    last = flist.read_bytes().count(b"\n") + 1
    for arguments in (["ls"], ["fetch"], ["flist", "check"]):
        line = service.refused(3, *arguments, "test")
        assert line == f"{flist}:{last}: the last line has no newline: the list is cut off"


def test_a_list_file_that_is_not_there_or_no_file(service: Host) -> None:
    root = service.root
    assert service.refused(4, "flist", "check", "gone.flist") == f"no such list: {root}/gone.flist"
    assert (
        service.refused(3, "flist", "check", "./tree")
        == f"{root}/tree: cannot be read: Is a directory"
    )


def test_a_conversion_that_cannot_be_written_leaves_nothing(service: Host) -> None:
    arguments = ("flist", "convert", "test", "--to", "full", "-o")
    line = service.refused(1, *arguments, "nowhere/x.flist")
    assert line == "nowhere/x.flist cannot be written: No such file or directory"
    line = service.refused(1, *arguments, "tree")
    assert line == "tree cannot be written: Is a directory"
    assert list(service.root.glob(".*.tmp")) == []


def test_a_base_that_no_list_can_have(service: Host) -> None:
    for command in (("push", "tree", "--name", "x"), ("flist", "convert", "test", "--to", "full")):
        line = service.refused(3 if command[0] == "flist" else 1, *command, "--base", "opt/../x")
        assert "traceback" not in line.lower()


# --- stores ------------------------------------------------------------------------------------


def test_a_store_that_is_not_there(service: Host) -> None:
    line = "/nonexistent/store/dedupe: No such file or directory"
    for arguments in (["ls", "test"], ["fetch", "test"], ["cat", "test:data"]):
        assert service.refused(5, *arguments, "--store", "/nonexistent/store") == line
        assert service.refused(5, *arguments, AYSFS_STORE="/nonexistent/store") == line


def test_a_store_of_no_known_kind(service: Host) -> None:
    line = "no store can be opened at `gopher://`"
    assert service.refused(11, "ls", "test", "--store", "gopher://old/store") == line


def test_a_store_that_cannot_be_made(service: Host) -> None:
    (service.root / "file").touch()
    line = service.refused(5, "push", "tree", "--name", "x", AYSFS_STORE=str(service.root / "file"))
    assert line.endswith("Not a directory")


def test_a_blob_that_no_store_has_is_named_with_its_path(service: Host) -> None:
    for blob in service.blobs():
        if blob.stat().st_size == 256:
            blob.unlink()
            md5 = blob.name
    reason = f"{service.root}/store has no blob {md5}"
    assert service.refused(4, "cat", "test:data") == reason
    assert service.refused(4, "unpack", "test", "out") == f"/opt/test/data: {reason}"
    done = service.run("fetch", "test")
    assert (done.code, done.err) == (4, f"aysfs: /opt/test/data: {reason}\n")


def test_an_altered_blob_of_a_store_is_never_written_out(service: Host) -> None:
    for blob in service.blobs():
        if blob.stat().st_size == 256:
            blob.chmod(0o600)
            blob.write_bytes(bytes(256))
    done = service.run("cat", "test:data")
    assert (done.code, done.raw) == (6, b"")
    assert len(done.err.splitlines()) == 1


# --- configuration -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("sotre = '/x'\n", "no such setting `sotre`"),
        ("[cache]\nsize = 1\n", "`cache` must be a text"),
        ("default_domain = ['a']\n", "`default_domain` must be a text"),
        ("cache_size = 'many'\n", "`cache_size` must be a size such as 20G, not 'many'"),
        ("cache_size = true\n", "`cache_size` must be a size such as 20G, not True"),
        ("keep_free = -1\n", "`keep_free` must be a size such as 20G, not -1"),
        ("deadline = 'soon'\n", "`deadline` must be a number of seconds, not 'soon'"),
        ("deadline = 0\n", "`deadline` must be a number of seconds, not 0"),
        ("deadline = nan\n", "`deadline` must be a number of seconds, not nan"),
        ("store = \n", "Invalid value"),
    ],
)
def test_a_configuration_file_that_is_wrong(host: Host, text: str, reason: str) -> None:
    (host.root / "config.toml").write_text(text)
    del host.environment["AYSFS_CACHE"], host.environment["AYSFS_KEEP_FREE"]
    line = host.refused(11, "status")
    assert line.startswith(f"{host.root}/config.toml: {reason}")


def test_a_configuration_file_that_cannot_be_read(host: Host) -> None:
    line = host.refused(11, "status", AYSFS_CONFIG="/nonexistent/config.toml")
    assert line == "AYSFS_CONFIG names /nonexistent/config.toml, which is not there"
    assert host.refused(11, "status", AYSFS_CONFIG="/proc") == "/proc: Is a directory"
    (host.root / "config.toml").write_bytes(b"store = '\xff'\n")
    assert host.refused(11, "status").startswith(f"{host.root}/config.toml: ")


def test_an_environment_variable_that_is_wrong(host: Host) -> None:
    line = host.refused(11, "cache", "stats", AYSFS_CACHE_SIZE="lots")
    assert line == "AYSFS_CACHE_SIZE: `cache_size` must be a size such as 20G, not 'lots'"


def test_an_option_that_is_wrong(host: Host) -> None:
    line = host.refused(11, "cache", "gc", "--size", "1 furlong")
    assert line == "`--size` must be a size such as 20G, not '1 furlong'"
    assert host.refused(11, "status", "--cache", "") == "--cache: `cache` must be a text"


# --- caches ------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["fetch test", "cat test:data", "cache stats", "cache clear"])
def test_the_cache_of_another_user(service: Host, command: str) -> None:
    cache = service.root / "cache"
    if not cache.exists():
        cache.mkdir()
    os.chown(cache, 4321, 4321)
    line = service.refused(7, *command.split())
    assert line == f"the cache {cache} belongs to user 4321"


def test_a_cache_that_is_a_file(service: Host) -> None:
    (service.root / "file").touch()
    line = service.refused(7, "cat", "test:data", "--cache", "file")
    assert line == f"the cache {service.root}/file cannot be used: File exists"


def test_a_cache_that_others_could_read_is_closed_to_them(service: Host) -> None:
    cache = service.root / "cache"
    cache.mkdir(exist_ok=True)
    cache.chmod(0o755)
    service.ok("fetch", "test")
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700


# --- push, unpack, mount -----------------------------------------------------------------------


def test_push_of_what_is_no_directory(host: Host) -> None:
    assert host.refused(2, "push", "gone", "--name", "x") == "there is no directory gone"
    assert (
        host.refused(2, "push", "config.toml", "--name", "x") == "there is no directory config.toml"
    )
    assert not (host.root / "store").exists()


def test_push_to_a_file_as_name(service: Host) -> None:
    line = service.refused(2, "push", "tree", "--name", "./x")
    assert line == "`./x` is a file, not a service"


def test_unpack_into_a_directory_that_is_not_empty(service: Host) -> None:
    before = sorted(path for path in (service.root / "tree").rglob("*"))
    assert service.refused(1, "unpack", "test", "tree") == "tree is not empty"
    assert sorted(path for path in (service.root / "tree").rglob("*")) == before


def test_mount_without_a_mount_point(service: Host) -> None:
    done = service.run("mount", "test")
    assert done.code == 2
    assert done.err.splitlines()[-1] == "Error: a service and a mount point are needed"


def test_mount_at_nothing_and_at_a_file(service: Host) -> None:
    missing = service.root / "gone"
    assert service.refused(9, "mount", "test", missing) == f"there is no {missing}"
    line = service.refused(9, "mount", "test", service.root / "config.toml")
    assert "directory" in line


@pytest.mark.parametrize("option", ["rw", "remount", "ro,bind"])
def test_mount_options_that_no_mount_of_ours_can_have(service: Host, option: str) -> None:
    (service.root / "mnt").mkdir()
    line = service.refused(11, "mount", "test", "mnt", "-o", option)
    assert line.endswith(": a mount is read-only and new")


@pytest.mark.parametrize("command", ["umount", "reload"])
def test_umount_and_reload_of_what_is_not_mounted(service: Host, command: str) -> None:
    line = service.refused(9, command, "tree")
    assert line == f"nothing of ours is mounted at {service.root}/tree"


# --- the command line itself -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["frobnicate"], "Error: No such command 'frobnicate'."),
        (["ls"], "Error: Missing argument 'NAME[:PATH]'."),
        (["push", "tree"], "Error: Missing option '--name'."),
        (["ls", "--frobnicate", "x"], "Error: No such option '--frobnicate'."),
        (["flist", "convert", "x"], "Error: Missing option '--to'. Choose from:"),
    ],
)
def test_a_wrong_command_line_is_usage_and_2(host: Host, arguments: list[str], line: str) -> None:
    done = host.run(*arguments)
    assert (done.code, done.raw) == (2, b"")
    assert any(one.startswith(line.strip()) for one in done.err.splitlines()), done.err
    assert "Traceback" not in done.err


def test_debug_shows_the_traceback_of_an_error(service: Host) -> None:
    done = service.run("--debug", "ls", "gone")
    assert "Traceback" in done.err
    assert done.err.splitlines()[-1].endswith("has no list jumpscale__gone")


def test_a_name_with_any_bytes_is_refused_in_one_line(service: Host) -> None:
    assert service.refused(4, "ls", b"test:\xff\xfe").startswith("no such path in this service: ")
    assert service.refused(2, "ls", b"\xff").startswith("`")
    assert service.refused(4, "flist", "check", b"./\xff.flist").startswith("no such list: ")
    target = Path(os.fsdecode(os.fsencode(service.root) + b"/\xff"))
    target.mkdir()
    (target / "x").touch()
    service.refused(1, "unpack", "test", b"\xff")
    line = service.refused(11, "unpack", "test", "out", "--base", b"/\xff")
    assert "nothing lies below the base" in line
