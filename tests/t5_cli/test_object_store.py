"""The commands on a store that is a bucket, on a real S3 server."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.swift import SECRET, Swift
from tests.t5_cli.conftest import Host, command_lines


@pytest.fixture
def bucket(host: Host) -> Iterator[Host]:
    """A host whose store is a bucket, and whose credentials are in its environment."""
    with Swift(host.root / "swift") as server:
        host.environment |= server.environment
        host.environment["AYSFS_STORE"] = f"{server.bucket('services')}/prod"
        yield host


def make_tree(host: Host) -> Path:
    tree = host.root / "tree"
    (tree / "bin").mkdir(parents=True)
    (tree / "empty").touch()
    (tree / "link").symlink_to("bin/0")
    for number in range(100):
        (tree / f"bin/{number}").write_bytes(b"%d" % number * number)
    (tree / "large").write_bytes(os.urandom(20 << 20))  # uploaded in parts
    return tree


def contents(below: Path) -> dict[str, str]:
    files = (path for path in below.rglob("*") if path.is_file() and not path.is_symlink())
    return {
        str(path.relative_to(below)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def test_what_was_pushed_into_a_bucket_is_mounted_from_there_and_kept(bucket: Host) -> None:
    host, tree = bucket, make_tree(bucket)
    assert "102 files" in host.ok("push", tree, "--name", "far", "--tag", "1")
    assert "0 blobs" in host.ok("push", tree, "--name", "far")
    point = host.root / "mnt"
    point.mkdir()
    host.ok("mount", "far@1", point)
    try:
        assert contents(point) == contents(tree)
        status = host.ok("status", "--json")
        (mount,) = (one for one in json.loads(status) if one["point"] == str(point))
        assert mount["store"] == "s3://services/prod"
        assert SECRET.encode() not in command_lines()
    finally:
        host.ok("umount", point)
    logs = b"".join(path.read_bytes() for path in (host.root / "logs").iterdir())
    assert SECRET not in status + logs.decode()

    (tree / "large").write_bytes(b"another")
    host.ok("push", tree, "--name", "far")
    host.ok("store", "untag", "far@1")
    swept = host.run("store", "gc", "--dry-run", "--grace", "0s")  # may say how far it is
    assert swept.code == 0
    assert swept.out.startswith("would delete 1 blobs (20.0 MiB)")
    assert host.run("store", "check", "--deep").code == 0


def test_a_wrong_secret_and_an_absent_bucket_are_said_in_a_line(bucket: Host) -> None:
    bucket.environment["AYSFS_STORE"] = "s3://not-there"
    assert "NoSuchBucket" in bucket.refused(5, "ls", "far")
    bucket.environment["AYSFS_STORE"] = "s3://services"
    bucket.environment["AWS_SECRET_ACCESS_KEY"] = "another"
    assert "answered 403 Forbidden (SignatureDoesNotMatch)" in bucket.refused(5, "ls", "far")
    bucket.environment["AYSFS_STORE"] = f"s3://a:{SECRET}@services"
    assert SECRET not in bucket.refused(11, "ls", "far")
