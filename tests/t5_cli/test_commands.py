"""What each command does when all is well, through the real command line."""

import json
import os
import subprocess
import sys
from hashlib import md5
from pathlib import Path

import pytest

from tests.t5_cli.conftest import Host

DATA = bytes(range(256))


def rows(host: Host, *arguments: str) -> list[list[str]]:
    done = host.run(*arguments)
    assert (done.code, done.err) == (0, "")
    return [line.split() for line in done.raw.decode(errors="backslashreplace").splitlines()]


# --- push ------------------------------------------------------------------------------------


def test_push_says_what_was_new_and_pushes_nothing_twice(host: Host) -> None:
    tree = host.root / "tree"
    tree.mkdir()
    (tree / "one").write_bytes(b"12345")
    (tree / "same").write_bytes(b"12345")
    line = host.ok("push", tree, "--name", "acme__one")
    assert line == "acme__one: 2 files, 10 B; 1 blobs (5 B) were new, 0 already there\n"
    assert len(host.blobs()) == 1
    report = json.loads(host.ok("push", tree, "--name", "acme__one", "--json"))
    assert report["name"] == "acme__one"
    assert (report["uploaded_blobs"], report["present_blobs"]) == (0, 1)
    (flist,) = (host.root / "store" / "dedupe" / "md").iterdir()
    assert report["list_md5"] == md5(flist.read_bytes()).hexdigest()
    assert f"#base {tree}\n".encode() in flist.read_bytes()


def test_a_bare_name_is_the_default_domains(host: Host) -> None:
    (host.root / "tree").mkdir()
    host.ok("push", "tree", "--name", "x")
    host.ok("push", "tree", "--name", "x@v1", AYSFS_DEFAULT_DOMAIN="acme")
    found = sorted(path.name for path in (host.root / "store" / "dedupe" / "md").iterdir())
    assert found == ["acme__x@v1.flist", "jumpscale__x.flist"]
    host.ok("ls", "jumpscale__x")
    host.ok("ls", "x@v1", AYSFS_DEFAULT_DOMAIN="acme")


# --- ls, stat, cat ---------------------------------------------------------------------------


def test_ls_shows_the_names_of_a_directory_as_they_are(service: Host) -> None:
    names = b"bin\ndangling\ndata\nempty\nhard\nlink\nodd\xff\n"
    for what in ("test", "test:", "test:/", "test:/opt/test", "jumpscale__test"):
        assert service.run("ls", what).raw == names
    assert service.ok("ls", "test:bin") == "hello\n"
    assert service.ok("ls", "test:bin/hello") == "bin/hello\n"
    assert service.ok("ls", "test:link") == "link\n"


def test_ls_r_shows_everything_below(service: Host) -> None:
    assert service.ok("ls", "-R", "test:bin") == "/bin\n/bin/hello\n"
    assert service.run("ls", "-R", "test").raw.splitlines()[:3] == [b"/", b"/bin", b"/bin/hello"]


def test_ls_l_shows_mode_links_owner_size_and_target(service: Host) -> None:
    found = {row[7]: row for row in rows(service, "ls", "-l", "test")}
    ids = [str(os.geteuid()), str(os.getegid())]
    assert found["bin"][:5] == ["drwxr-xr-x", "2", *ids, "0"]
    assert found["data"][1:] == ["2", *ids, "256", "2014-05-13", "16:53", "data"]
    assert found["hard"][1] == "2"
    assert found["dangling"][-3:] == ["dangling", "->", "/nowhere"]
    (link,) = rows(service, "ls", "-l", "test:link")
    assert link[-3:] == ["link", "->", "bin/hello"]


def test_stat_shows_all_that_is_known(service: Host) -> None:
    found = json.loads(service.ok("stat", "test:data", "--json"))
    assert found == {
        "path": "/opt/test/data",
        "type": "-",
        "mode": found["mode"],
        "uid": os.geteuid(),
        "gid": os.getegid(),
        "size": 256,
        "mtime": "1400000000.123456789",
        "md5": md5(DATA).hexdigest(),
        "source": str(service.root / "store/dedupe/md/jumpscale__test.flist"),
    }
    text = service.ok("stat", "test:link")
    assert "target: bin/hello\n" in text
    assert "md5" not in text
    assert json.loads(service.ok("stat", "test", "--json"))["path"] == "/opt/test"


def test_cat_writes_the_bytes_of_a_file(service: Host) -> None:
    assert service.run("cat", "test:data").raw == DATA
    assert service.run("cat", "test:hard").raw == DATA
    assert service.run("cat", "test:/opt/test/data").raw == DATA
    assert service.ok("cat", "test:link") == "#!/bin/sh\necho hello\n"
    assert service.ok("cat", "test:empty") == ""
    assert service.run("cat", b"test:odd\xff").raw == b"odd"


def test_a_reader_that_leaves_early_is_no_trouble(service: Host) -> None:
    flist = service.root / "many.flist"
    flist.write_text("".join(f"/{number:06}|{'0' * 32}|0\n" for number in range(50_000)))
    command = f"'{sys.executable}' -P -c 'from aysfs.cli.main import main; main()' ls many.flist"
    done = subprocess.run(
        ["sh", "-c", f"{command} | head -n 1"],
        cwd=service.root,
        env=service.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("000000\n", "")


# --- fetch, unpack, cache --------------------------------------------------------------------


def test_fetch_fills_the_cache_so_that_the_store_is_not_needed(service: Host) -> None:
    report = json.loads(service.ok("fetch", "test", "--json"))
    assert report == {
        "blobs": 3,
        "bytes": 256 + 21 + 3,
        "failed": 0,
        "failures": [],
        "fetched_bytes": 280,
    }
    assert service.ok("fetch", "test") == "3 blobs, 280 B; 0 B fetched\n"
    for blob in service.blobs():
        blob.unlink()
    assert service.run("cat", "test:data").raw == DATA


def test_fetch_of_a_path_brings_only_what_is_below_it(service: Host) -> None:
    assert service.ok("fetch", "test", "bin") == "1 blobs, 21 B; 21 B fetched\n"
    assert service.ok("fetch", "test", "link", "data") == "2 blobs, 277 B; 256 B fetched\n"


def test_unpack_writes_ordinary_files(service: Host) -> None:
    assert service.ok("unpack", "test", "out") == "9 entries, 280 B\n"
    out = service.root / "out"
    assert (out / "data").read_bytes() == DATA
    assert (out / "data").stat().st_ino == (out / "hard").stat().st_ino
    assert subprocess.check_output([out / "link"], text=True) == "hello\n"
    service.ok("push", "out", "--name", "again", "--base", "/opt/test")
    lists = service.root / "store" / "dedupe" / "md"
    first, second = (lists / f"jumpscale__{name}.flist" for name in ("test", "again"))
    assert first.read_bytes() == second.read_bytes()
    service.ok("unpack", "test", "bin", "--base", "/opt/test/bin")
    assert [path.name for path in (service.root / "bin").iterdir()] == ["hello"]


def test_cache_stats_gc_and_clear(service: Host) -> None:
    service.ok("fetch", "test")
    stats = json.loads(service.ok("cache", "stats", "--json"))
    assert (stats["blobs"], stats["bytes"], stats["quarantined"]) == (3, 280, 0)
    assert stats["cache"] == str(service.root / "cache")
    assert "3 blobs, 20.0 GiB bound" in service.ok("cache", "stats")
    assert service.ok("cache", "gc") == "0 blobs evicted, 0 B freed\n"
    assert service.ok("cache", "gc", "--size", "4K").startswith("2 blobs evicted, ")
    assert len(service.cached()) == 1
    assert service.ok("cache", "clear").startswith("1 blobs evicted, ")
    assert service.cached() == []


def test_cache_verify_finds_an_altered_blob_and_the_next_read_fetches_it_again(
    service: Host,
) -> None:
    service.ok("fetch", "test")
    assert service.ok("cache", "verify") == "3 blobs, 0 corrupt\n"
    altered = service.root / "cache/objects" / "e/2" / md5(DATA).hexdigest()
    altered.chmod(0o600)
    altered.write_bytes(bytes(256))
    done = service.run("cache", "verify")
    assert (done.code, done.out) == (6, "3 blobs, 1 corrupt\n")
    assert "1 corrupt blobs were quarantined" in done.err.splitlines()[-1]
    assert json.loads(service.ok("cache", "stats", "--json"))["quarantined"] == 1
    assert service.run("cat", "test:data").raw == DATA


# --- flist -----------------------------------------------------------------------------------


def test_flist_check_counts_what_a_list_names_and_implied_directories_apart(host: Host) -> None:
    empty = "d41d8cd98f00b204e9800998ecf8427e|0"
    (host.root / "a.flist").write_text(f"/opt/a/b/one|{empty}\n/opt/a/two|{empty}\n")
    (host.root / "b.flist").write_text(
        f"/|{'0' * 32}|0|0|0|0755|4|1|1|\n/one|{empty}\n/two|{empty}\n"
    )
    (host.root / "c.flist").write_text(f"/one|{empty}\n")
    assert host.ok("flist", "check", "./a.flist", "./b.flist", "./c.flist").splitlines() == [
        "./a.flist: 2 entries and 3 implied directories, 0 B: good",
        "./b.flist: 3 entries, 0 B: good",
        "./c.flist: 1 entries, 0 B: good",
    ]


def test_flist_check_reads_services_and_files(service: Host) -> None:
    (service.root / "a.flist").write_text(f"/opt/a|{'0' * 32}|5\n")
    lines = service.ok("flist", "check", "test", "a.flist", "./a.flist").splitlines()
    assert [line.split(":")[0] for line in lines] == ["test", "a.flist", "./a.flist"]
    assert all(line.endswith(": good") for line in lines)


def test_flist_convert_to_classic_says_what_it_dropped(service: Host) -> None:
    done = service.run("flist", "convert", "test", "--to", "classic")
    assert done.code == 0
    lines = done.raw.splitlines()
    assert b"/opt/test/data|%s|256" % md5(DATA).hexdigest().encode() in lines
    assert len(lines) == 5
    assert "2 symlinks left out" in done.err
    assert "1 hard links that become files of their own" in done.err


def test_flist_convert_to_a_file_and_back(service: Host) -> None:
    (service.root / "a.flist").write_text(f"/opt/b|{'1' * 32}|5\n/opt/a/c|{'2' * 32}|6\n")
    command = ("flist", "convert", "a.flist", "--to", "full", "--base", "/opt", "-o", "full.flist")
    assert service.ok(*command) == ""
    text = (service.root / "full.flist").read_text()
    assert text.startswith("#flist 2\n#base /opt\n/opt|")
    assert [line.split("|")[0] for line in text.splitlines()[2:]] == [
        "/opt",
        "/opt/a",
        "/opt/a/c",
        "/opt/b",
    ]
    back = service.run("flist", "convert", "full.flist", "--to", "classic")
    assert back.out == f"/opt/a/c|{'2' * 32}|6\n/opt/b|{'1' * 32}|5\n"
    assert {path.name for path in service.root.glob(".*.tmp")} == set()


def test_a_full_list_converts_to_itself_and_keeps_its_header(service: Host) -> None:
    (service.root / "tree").chmod(0o711)
    service.ok("push", "tree", "--name", "root", "--base", "/")
    pushed = (service.root / "store/dedupe/md/jumpscale__root.flist").read_bytes()
    (service.root / "keys.flist").write_bytes(pushed.replace(b"#base /\n", b"#base /\n#note x\n"))
    assert service.run("flist", "convert", "root", "--to", "full").raw == pushed
    kept = service.run("flist", "convert", "keys.flist", "--to", "full").raw
    assert kept == (service.root / "keys.flist").read_bytes()
    based = service.run("flist", "convert", "keys.flist", "--to", "full", "--base", "/opt").raw
    assert based == kept.replace(b"#base /\n", b"#base /opt\n")


def test_flist_diff_knows_the_attributes_of_the_root(service: Host) -> None:
    tree = service.root / "tree"
    service.ok("push", tree, "--name", "one", "--base", "/")
    tree.chmod(0o711)
    service.ok("push", tree, "--name", "two", "--base", "/")
    assert service.run("flist", "diff", "one", "two").out == "~ / (mode)\n"


def test_a_list_published_again_unchanged_is_no_difference(service: Host) -> None:
    service.ok("push", "tree", "--name", "again", "--base", "/opt/test")
    assert service.ok("flist", "diff", "test", "again") == ""
    for number, name in enumerate(("one.flist", "two.flist")):
        (service.root / name).write_text(f"/opt/a|{'1' * 32}|5\n")
        os.utime(service.root / name, ns=(0, number))
    assert service.ok("flist", "diff", "one.flist", "two.flist") == ""


def test_flist_diff_shows_what_changed_and_exits_1(service: Host) -> None:
    tree = service.root / "tree"
    assert service.ok("flist", "diff", "test", "test") == ""
    (tree / "new").touch()
    (tree / "empty").unlink()
    (tree / "bin" / "hello").write_text("other")
    os.utime(tree / "bin" / "hello", ns=(0, 1_400_000_000_123_456_789))
    os.utime(tree, ns=(0, 1_400_000_000_123_456_789))
    service.ok("push", tree, "--name", "test@2", "--base", "/opt/test")
    done = service.run("flist", "diff", "test", "test@2")
    assert (done.code, done.err) == (1, "")
    assert done.out.splitlines() == [
        "~ /opt/test/bin/hello (size, digest)",
        "- /opt/test/empty",
        "+ /opt/test/new",
    ]


# --- the command itself ------------------------------------------------------------------------


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_for_every_shell(host: Host, shell: str) -> None:
    script = host.ok("completion", shell)
    assert "_AYSFS_COMPLETE" in script
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=script.encode(), check=True)


def test_completion_offers_the_commands(host: Host) -> None:
    done = host.run(COMP_WORDS="aysfs un", COMP_CWORD="1", _AYSFS_COMPLETE="bash_complete")
    assert done.out == "plain,unpack\n"


def test_status_without_mounts_is_an_empty_list_or_strangers(host: Host) -> None:
    for mount in json.loads(host.ok("status", "--json")):
        assert mount["state"] == "mounted by somebody else"


def test_help_names_every_command_and_imports_nothing_heavy(host: Host) -> None:
    script = """
import sys
from aysfs.cli.main import COMMANDS, cli, run
assert run(cli, ["--help"], "aysfs") == 0
print(*COMMANDS, file=sys.stderr)
print(*(name for name in ("trio", "rich", "pyfuse3") if name in sys.modules), file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", script],
        env=host.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    commands, heavy = done.stderr.splitlines()
    assert heavy == ""
    shown = done.stdout.partition("Commands:")[2]
    assert [line.split()[0] for line in shown.splitlines() if line.strip()] == commands.split()


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_every_command_has_help(host: Host, option: str) -> None:
    for command in ("push", "mount", "ls", "flist convert", "cache gc", "completion"):
        text = host.ok(*command.split(), option)
        assert text.startswith(f"Usage: aysfs {command} ")


def test_version(host: Host) -> None:
    name, _, version = host.ok("--version").strip().partition(", version ")
    assert name == "aysfs"
    assert version


def test_the_installed_script_is_the_same_command(host: Host) -> None:
    script = Path(sys.executable).with_name("aysfs")
    shown = subprocess.check_output([script, "--version"], env=host.environment, text=True)
    assert shown == host.ok("--version")
