"""Eviction: the oldest first, never what is read, and space counts when it is free."""

import mmap
import os
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from aysfs import digest as digests
from aysfs.cache.blobs import Cache
from aysfs.cache.eviction import make_room, shrink
from aysfs.cache.recovery import flush, look_over, recover, scrub
from aysfs.digest import Digest
from aysfs.errors import NoSpace
from aysfs.limits import Limits
from tests.conftest import next_tick

PAGE = 4096


def insert(cache: Cache, data: bytes) -> Digest:
    digest = digests.of(data)
    insertion = cache.insertion(digest, len(data))
    insertion.write(data)
    insertion.commit()
    return digest


def fill(cache: Cache, count: int) -> list[Digest]:
    """Blobs that came one after the other, each in a tick of its own of the files' clock."""
    blobs = []
    for number in range(count):
        blobs.append(insert(cache, bytes([number]) * PAGE))
        next_tick(Path(cache.path(blobs[-1])))
    return blobs


def test_the_oldest_goes_first(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", Limits(size=10 * PAGE, keep_free=0))
    blobs = fill(cache, 10)
    done = make_room(cache, PAGE)
    assert 1 <= done.blobs < 10
    here = [cache.has(digest, PAGE) for digest in blobs]
    assert here == sorted(here)
    assert cache.usage.used == sum(here) * PAGE
    cache.close()


def test_a_blob_removed_as_soon_as_it_came_is_not_counted(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", Limits(size=1 << 20, keep_free=0))
    insert(cache, b"x" * PAGE)
    for stored in list(cache.scan()):
        assert cache.unlink(stored)
        cache.usage.freed(stored.size)
    assert cache.usage.used == 0
    cache.close()


class Counted(Cache):
    """Somebody counts at the moment when a blob is about to get its name."""

    def _rename(self, tmp: str, digest: Digest) -> None:
        self.recount()
        super()._rename(tmp, digest)


def test_a_blob_that_gets_its_name_after_a_recount_is_counted(tmp_path: Path) -> None:
    cache = Counted(tmp_path / "cache", Limits(size=1 << 20, keep_free=0))
    insert(cache, b"x" * PAGE)
    assert cache.usage.used == PAGE
    cache.close()


def test_room_that_another_takes_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache(tmp_path / "cache", Limits(size=10 * PAGE, keep_free=0))
    fill(cache, 10)
    taken = 0
    freed = cache.usage.freed

    def taken_at_once(size: int) -> None:
        """The first objects to go are room for downloads that begin at that moment."""
        nonlocal taken
        freed(size)
        for _ in range(min(5 - taken, size // PAGE)):
            taken += 1
            cache.usage.reserve(PAGE)

    monkeypatch.setattr(cache.usage, "freed", taken_at_once)
    assert make_room(cache, PAGE).blobs > taken == 5
    cache.close()


def test_room_that_was_only_counted_wrongly_and_is_taken_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache(tmp_path / "cache", Limits(size=10 * PAGE, keep_free=0))
    fill(cache, 8)
    cache.usage.recount(lambda: 10 * PAGE)
    real, calls = cache.usage.reserve, iter([2 * PAGE])

    def reserve(size: int) -> None:
        for other in calls:  # a download that begins at that moment, once
            real(other)
        real(size)

    monkeypatch.setattr(cache.usage, "reserve", reserve)
    assert make_room(cache, PAGE).blobs > 0
    cache.close()


def test_room_on_the_disk_that_downloads_under_way_will_take_is_made_again(
    tmp_path: Path,
) -> None:
    (tmp_path / "cache").mkdir(mode=0o700)
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", str(tmp_path / "cache")]
    subprocess.run(mount, check=True)
    try:
        cache = Cache(tmp_path / "cache", Limits(size=1 << 20, keep_free=60 * PAGE))
        for number in range(10):
            insert(cache, bytes([number]) * 10 * PAGE)
        under_way = cache.usage.disk_free() - 90 * PAGE
        cache.usage.reserve(under_way)
        with pytest.raises(NoSpace):
            cache.usage.reserve(40 * PAGE)
        # Else `make_room` would find that there is room and that there is none, again and again.
        assert cache.usage.excess(40 * PAGE) > 0
        assert make_room(cache, 40 * PAGE).blobs < 10
        cache.close()
    finally:
        subprocess.run(["umount", str(tmp_path / "cache")], check=True)


def test_nothing_is_evicted_when_there_is_room(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", Limits(size=10 * PAGE, keep_free=0))
    fill(cache, 3)
    assert make_room(cache, PAGE).blobs == 0
    cache.close()


def test_an_open_blob_stays_and_does_not_count_as_freed(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", Limits(size=10 * PAGE, keep_free=0))
    blobs = fill(cache, 2)
    reader = cache.open(blobs[0], PAGE)
    assert reader is not None
    done = shrink(cache, 0)
    assert (done.blobs, done.in_use) == (1, 1)
    assert cache.usage.used == PAGE
    assert os.pread(reader, PAGE, 0) == bytes(PAGE)
    os.close(reader)
    assert shrink(cache, 0).blobs == 1
    assert cache.usage.used == 0
    cache.close()


def test_a_mapped_blob_stays(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", Limits(size=10 * PAGE, keep_free=0))
    (digest,) = fill(cache, 1)
    with open(cache.path(digest), "rb") as file:
        mapped = mmap.mmap(file.fileno(), PAGE, prot=mmap.PROT_READ)
    assert shrink(cache, 0).in_use == 1
    mapped.close()
    assert shrink(cache, 0).blobs == 1
    cache.close()


def test_a_wrong_count_is_put_right(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", Limits(size=10 * PAGE, keep_free=0))
    fill(cache, 2)
    cache.usage.recount(lambda: 10 * PAGE)
    make_room(cache, PAGE)
    assert cache.usage.used <= 2 * PAGE
    cache.close()


def test_a_scrub_finds_what_a_stamp_cannot_show(tmp_path: Path) -> None:
    reports: list[str] = []
    cache = Cache(tmp_path / "cache", Limits(keep_free=0), report=reports.append)
    good, rotten = fill(cache, 2)
    status = os.stat(cache.path(rotten))
    os.chmod(cache.path(rotten), 0o600)
    with open(cache.path(rotten), "r+b") as file:
        file.write(b"rot")
    os.utime(cache.path(rotten), ns=(status.st_atime_ns, status.st_mtime_ns))
    assert cache.has(rotten, PAGE)
    assert scrub(cache) == (2, 1)
    assert not cache.has(rotten, PAGE)
    assert cache.has(good, PAGE)
    assert len(reports) == 1
    assert rotten.hex() in reports[0]
    cache.close()


def tear(cache: Cache, digest: Digest) -> None:
    """Alter the bytes and keep the stamp, as a crash can."""
    path = cache.path(digest)
    status = os.stat(path)
    os.chmod(path, 0o600)
    with open(path, "r+b") as file:
        file.write(bytes(1024))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_what_arrives_in_the_moment_of_a_flush_is_hashed_after_a_crash(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", Limits(keep_free=0))
    torn = insert(cache, b"torn" * 1024)
    tear(cache, torn)
    (stored,) = cache.scan()
    (cache.root / "synced").write_text(f"boot-one {stored.arrived_ns}\n")
    assert recover(cache, "boot-two") == 1
    cache.close()


def test_after_a_crash_what_was_not_flushed_is_hashed(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", Limits(keep_free=0))
    (flushed,) = fill(cache, 1)
    flush(cache, "boot-one")
    torn = insert(cache, b"torn" * 1024)
    tear(cache, torn)
    assert recover(cache, "boot-one") == 0
    assert recover(cache, "boot-two") == 1
    assert cache.has(flushed, PAGE)
    assert not cache.has(torn, 4096)
    cache.close()


def test_two_that_flush_at_once_both_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both, replace = threading.Barrier(2, timeout=30), os.replace

    def replace_together(source: Path, place: Path) -> None:
        both.wait()
        replace(source, place)

    monkeypatch.setattr(os, "replace", replace_together)
    cache = Cache(tmp_path / "cache", Limits(keep_free=0))
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(flush, cache, "boot-one") for _ in range(2)]:
            done.result()
    assert (cache.root / "synced").read_text().startswith("boot-one ")
    assert not list(cache.usage.directory.glob("synced*"))
    cache.close()


def test_what_has_no_stamp_is_hashed_and_what_is_wrong_put_aside(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", Limits(keep_free=0))
    untouched, dated, altered = fill(cache, 3)
    os.utime(cache.path(dated), ns=(0, 0))
    os.chmod(cache.path(altered), 0o600)
    Path(cache.path(altered)).write_bytes(bytes(PAGE - 1) + b"x")
    assert {one.digest for one in cache.scan() if not one.stamped} == {dated, altered}
    assert look_over(cache) == 1
    assert cache.has(untouched, PAGE)
    assert cache.has(dated, PAGE)
    assert not os.path.exists(cache.path(altered))
    assert look_over(cache) == 0
    cache.close()
