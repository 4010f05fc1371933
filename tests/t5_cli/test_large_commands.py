"""The commands on a file that is large enough to have chunks."""

import hashlib
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from aysfs.limits import CHUNK, LARGE
from tests.t5_cli.conftest import MAIN, Host

SIZE = LARGE + 3 * CHUNK + 17
_MEBIBYTE = random.Random(17).randbytes(1 << 20)
DATA = b"".join(b"%8d" % at + _MEBIBYTE[8:] for at in range(-(-SIZE // (1 << 20))))[:SIZE]
MD5 = hashlib.md5(DATA).hexdigest()
INDEX_SIZE = 16 * -(-SIZE // CHUNK)


@pytest.fixture
def large(host: Host) -> Host:
    """A host whose store has a service with a large file and a small one."""
    (host.root / "tree").mkdir()
    (host.root / "tree/large").write_bytes(DATA)
    (host.root / "tree/small").write_bytes(b"small")
    host.ok("push", "tree", "--name", "test", "--base", "/opt/test")
    return host


def begin(host: Host, count: int) -> None:
    """Read the beginning of the file, and leave."""
    command = [sys.executable, "-P", "-c", MAIN, "cat", "test:large"]
    with subprocess.Popen(
        command, cwd=host.root, env=host.environment, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(count) == DATA[:count]
        process.kill()


def parts(host: Host) -> tuple[int, int]:
    """How many large blobs are here in part, and what of them."""
    stats = json.loads(host.ok("cache", "stats", "--json"))
    return stats["partial"], stats["partial_bytes"]


def test_cat_streams_a_large_file(large: Host) -> None:
    assert large.run("cat", "test:large").raw == DATA
    begun, _ = parts(large)  # it ends with the last byte, and may not have verified the whole
    assert begun + (MD5 in [path.name for path in large.cached()]) == 1
    blobs = large.blobs()
    for path in blobs:
        path.rename(path.with_name("away"))
    assert large.run("cat", "test:large").raw == DATA


def test_fetch_completes_what_was_begun(large: Host) -> None:
    begin(large, 3 << 20)
    number, size = parts(large)
    assert number == 1
    assert 3 << 20 <= size < SIZE
    assert "of parts of 1 large blobs" in large.ok("cache", "stats")
    report = json.loads(large.ok("fetch", "test", "--json"))
    assert (report["failed"], report["blobs"]) == (0, 2)
    # What was read is not fetched again. A chunk more may lie there that was not marked in time.
    assert report["fetched_bytes"] <= SIZE + 5 - (3 << 20)
    assert parts(large) == (0, 0)
    assert MD5 in [path.name for path in large.cached()]
    assert large.ok("cache", "verify").endswith(", 0 corrupt\n")


def test_clear_drops_parts(large: Host) -> None:
    begin(large, 1 << 20)
    large.ok("cache", "clear")
    assert parts(large) == (0, 0)
    assert json.loads(large.ok("cache", "stats", "--json"))["used"] == 0


def test_stores_are_looked_after_with_their_chunks(large: Host) -> None:
    chunks = json.loads(large.ok("stat", "test:large", "--json"))["chunks"]
    cut, _, index = chunks.partition(",")
    assert int(cut) == CHUNK
    assert [path.stat().st_size for path in large.blobs() if path.name == index] == [INDEX_SIZE]
    info = json.loads(large.ok("store", "info", "--json"))
    assert (info["indexes_size"], info["unnamed"], info["saved"]) == (INDEX_SIZE, 0, 0)
    assert large.run("store", "gc", "--delete", "--grace", "0s").code == 0  # it waits, and says so
    large.ok("store", "check", "--deep")
    large.ok("store", "init", large.root / "other")
    large.ok("store", "copy", "test", "--to", large.root / "other")
    large.ok("store", "check", "--deep", AYSFS_STORE=str(large.root / "other"))
    (path,) = [path for path in large.blobs() if path.name == index]
    path.chmod(0o600)
    path.write_bytes(bytes(INDEX_SIZE))
    done = large.run("store", "check", "--deep")
    assert done.code == 6
    assert "/opt/test/large" in done.out
    assert (large.root / "tree/large").stat().st_size == SIZE


def test_unpack_writes_a_large_file(large: Host) -> None:
    large.ok("unpack", "test", "copy")
    assert Path(large.root / "copy/large").read_bytes() == DATA
