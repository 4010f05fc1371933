"""The cache: only verified bytes get in, and only unchanged ones come out."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from aysfs import digest as digests
from aysfs.cache import stamp
from aysfs.cache.blobs import Cache
from aysfs.cache.usage import on_disk
from aysfs.digest import Digest
from aysfs.errors import CacheUnusable, Corrupt, NoSpace
from aysfs.limits import Limits

ROOMY = Limits(size=1 << 30, keep_free=0)


@pytest.fixture
def cache(tmp_path: Path, no_leaks: None) -> Iterator[Cache]:
    reports: list[str] = []
    cache = Cache(tmp_path / "cache", ROOMY, report=reports.append)
    yield cache
    cache.close()
    assert os.listdir(tmp_path / "cache" / "tmp") == []


def insert(cache: Cache, data: bytes) -> Digest:
    digest = digests.of(data)
    insertion = cache.insertion(digest, len(data))
    insertion.write(data)
    insertion.commit()
    return digest


def read(cache: Cache, digest: Digest, size: int) -> bytes | None:
    descriptor = cache.open(digest, size)
    if descriptor is None:
        return None
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


def test_what_goes_in_comes_out(cache: Cache) -> None:
    digest = insert(cache, b"content")
    assert read(cache, digest, 7) == b"content"
    assert cache.has(digest, 7)
    assert cache.usage.used == on_disk(7)


def test_the_descriptor_of_a_commit_reads_the_blob(cache: Cache) -> None:
    insertion = cache.insertion(digests.of(b"abc"), 3)
    insertion.write(b"a")
    insertion.write(memoryview(b"bc"))
    with os.fdopen(insertion.commit_and_open(), "rb") as file:
        assert file.read() == b"abc"


@pytest.mark.parametrize("data", [b"conten", b"contenT", b"content!", b""])
def test_other_bytes_never_appear(cache: Cache, data: bytes) -> None:
    digest = digests.of(b"content")
    insertion = cache.insertion(digest, 7)
    with pytest.raises(Corrupt):  # noqa: PT012 - either step may be the one that notices
        insertion.write(data)
        insertion.commit()
    insertion.abort()
    assert not cache.is_doubtful(digest)
    assert cache.usage.used == 0
    assert cache.usage.excess(0) == 0


@pytest.mark.parametrize("before", [b"", b"con", b"contenT", b"content!", b"content"])
def test_an_insertion_begins_again(cache: Cache, before: bytes) -> None:
    digest = digests.of(b"content")
    insertion = cache.insertion(digest, 7)
    with contextlib.suppress(Corrupt):
        insertion.write(before)
    insertion.restart()
    assert insertion.progress == 0
    insertion.write(b"content")
    with os.fdopen(insertion.commit_and_open(), "rb") as file:
        assert file.read() == b"content"
    assert cache.usage.used == on_disk(7)


def test_wrong_bytes_are_refused_with_the_last_of_them(cache: Cache) -> None:
    """Whoever sends them can then ask another source; after the end it is too late for that."""
    insertion = cache.insertion(digests.of(b"content"), 7)
    insertion.write(b"Conten")
    with pytest.raises(Corrupt, match="wrong bytes"):
        insertion.write(b"t")
    insertion.abort()


def test_a_write_after_the_abort_is_refused(cache: Cache) -> None:
    insertion = cache.insertion(digests.of(b"ab"), 2)
    insertion.abort()
    with pytest.raises(Corrupt, match="given up"):
        insertion.write(b"ab")
    with pytest.raises(Corrupt, match="given up"):
        insertion.restart()


def test_two_insertions_of_one_blob_both_succeed(cache: Cache, tmp_path: Path) -> None:
    other = Cache(tmp_path / "cache", ROOMY)
    digest = digests.of(b"twice")
    first, second = cache.insertion(digest, 5), other.insertion(digest, 5)
    for insertion in (first, second):
        insertion.write(b"twice")
    for insertion in (first, second):
        with os.fdopen(insertion.commit_and_open(), "rb") as file:
            assert file.read() == b"twice"
    other.close()


def damage(path: str, how: str) -> None:
    os.chmod(path, 0o600)
    with open(path, "r+b") as file:
        if how == "altered":
            file.write(b"C")
        elif how == "truncated":
            file.truncate(3)
        elif how == "emptied":
            file.truncate(0)
        else:
            file.seek(0, os.SEEK_END)
            file.write(b"more")


@pytest.mark.parametrize("how", ["altered", "truncated", "emptied", "longer"])
def test_a_damaged_entry_is_a_miss_and_is_quarantined(cache: Cache, how: str) -> None:
    digest = insert(cache, b"content")
    damage(cache.path(digest), how)
    assert cache.open(digest, 7) is None
    assert not cache.revalidate(digest, 7)
    assert os.listdir(cache.root / "quarantine") == [digest.hex()]
    assert not cache.is_doubtful(digest)
    assert insert(cache, b"content") == digest
    assert read(cache, digest, 7) == b"content"


def test_an_entry_that_lost_its_stamp_is_hashed_and_used(cache: Cache) -> None:
    digest = insert(cache, b"content")
    os.utime(cache.path(digest))
    assert cache.open(digest, 7) is None
    assert cache.revalidate(digest, 7)
    assert read(cache, digest, 7) == b"content"


def test_a_stamp_speaks_of_one_inode_size_and_digest(tmp_path: Path) -> None:
    digest = digests.of(b"x")
    assert stamp.expected(1, 1, digest) != stamp.expected(2, 1, digest)
    assert stamp.expected(1, 1, digest) != stamp.expected(1, 2, digest)
    assert 0 <= stamp.expected(2**63, 2**63, digest) < 2**31


def test_the_bound_is_a_bound(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", Limits(size=8192, keep_free=0))
    insert(cache, b"a" * 4096)
    pending = cache.insertion(digests.of(b"b"), 1)
    with pytest.raises(NoSpace):
        cache.insertion(digests.of(b"c"), 1)
    pending.abort()
    insert(cache, b"c")
    cache.close()


def test_a_reservation_counts_in_every_process(tmp_path: Path) -> None:
    limits = Limits(size=8192, keep_free=0)
    one, two = Cache(tmp_path / "cache", limits), Cache(tmp_path / "cache", limits)
    pending = one.insertion(digests.of(b"b"), 5000)
    with pytest.raises(NoSpace):
        two.insertion(digests.of(b"c"), 1)
    pending.abort()
    insert(two, b"c")
    for cache in (one, two):
        cache.close()


def test_the_disk_keeps_its_free_space(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", Limits(size=1 << 30, keep_free=1 << 60))
    with pytest.raises(NoSpace, match="free"):
        cache.insertion(digests.of(b"b"), 1)
    cache.close()


def test_what_a_dead_process_left_is_swept(tmp_path: Path) -> None:
    dead = tmp_path / "cache" / "tmp" / "99999-dead"
    dead.mkdir(parents=True)
    (tmp_path / "cache").chmod(0o700)
    (dead / "alive").touch()
    (dead / "7").write_bytes(b"half a blob")
    cache = Cache(tmp_path / "cache", ROOMY)
    assert not dead.exists()
    cache.close()


def test_a_cache_of_another_user_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "cache"
    root.mkdir()
    os.chown(root, 12345, 12345)
    with pytest.raises(CacheUnusable, match="12345"):
        Cache(root, ROOMY)


def test_a_file_in_place_of_the_cache_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    with pytest.raises(CacheUnusable, match="cannot be used"):
        Cache(tmp_path / "cache", ROOMY)


def test_a_directory_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "file").touch()
    (tmp_path / "shared").chmod(0o1777)
    with pytest.raises(CacheUnusable, match="no cache"):
        Cache(tmp_path / "shared", ROOMY)
    assert (tmp_path / "shared").stat().st_mode & 0o7777 == 0o1777


def test_a_size_that_lies_costs_nobody_a_blob(cache: Cache) -> None:
    digest = insert(cache, b"content")
    assert cache.open(digest, 6) is None
    with pytest.raises(Corrupt, match="the list says 6"):
        cache.revalidate(digest, 6)
    assert read(cache, digest, 7) == b"content"


def test_a_full_disk_is_an_error_and_not_a_crash(tmp_path: Path) -> None:
    root = tmp_path / "cache"
    root.mkdir(mode=0o700)
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs", str(root)]
    subprocess.run(mount, check=True)
    try:
        cache = Cache(root, Limits(size=1 << 30, keep_free=0))
        with open(root / "filler", "wb", buffering=0) as filler, contextlib.suppress(OSError):
            while True:
                filler.write(bytes(4096))
        with pytest.raises(NoSpace):
            cache.insertion(digests.of(b"x" * 9000), 9000)
        cache.close()
    finally:
        subprocess.run(["umount", str(root)], check=True)


def test_a_cache_is_nobody_elses_to_read(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir(mode=0o755)
    cache = Cache(tmp_path / "cache", ROOMY)
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700
    cache.close()


def test_a_blob_that_cannot_be_placed_leaves_nothing(cache: Cache) -> None:
    data = b"nowhere to go"
    insertion = cache.insertion(digests.of(data), len(data))
    insertion.write(data)
    (cache.root / "objects" / digests.of(data).hex()[0]).touch()  # where a directory belongs
    with pytest.raises(CacheUnusable):
        insertion.commit()
    insertion.abort()
    assert set(os.listdir(cache.usage.directory)) == {"alive", "reserved"}
    assert cache.usage.used == 0
