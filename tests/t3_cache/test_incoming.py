"""Links for overlays: made anew, expired by age, gone with their blob, and never too early."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from aysfs import digest
from aysfs.cache.blobs import Cache
from aysfs.cache.eviction import shrink
from aysfs.cache.incoming import KEPT, Incoming
from aysfs.digest import Digest


class Clock:
    """Seconds, as a test says."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    cache = Cache(tmp_path / "cache")
    yield cache
    cache.close()


def put(cache: Cache, text: str) -> Digest:
    data = text.encode()
    os.close(cache.insert(digest.of(data), data))
    return digest.of(data)


def linked(cache: Cache) -> set[str]:
    return {path.name for path in (cache.root / "incoming").glob("?/?/*")}


def test_a_link_is_the_blob(cache: Cache) -> None:
    one = put(cache, "one")
    Incoming(cache).link(one)
    assert os.path.samefile(cache.path(one), cache.arrival_path(one))


def test_a_link_expires_a_minute_after_it_was_made_last(cache: Cache) -> None:
    clock = Clock()
    incoming = Incoming(cache, clock)
    one, two = put(cache, "one"), put(cache, "two")
    incoming.link(one)
    clock.now += 1
    incoming.link(two)
    clock.now += KEPT / 2
    incoming.link(one)  # asked for again
    clock.now += KEPT / 2
    incoming.expire()
    assert linked(cache) == {one.hex(), two.hex()}  # the second is not a whole minute old
    clock.now += 1
    incoming.expire()
    assert linked(cache) == {one.hex()}
    clock.now += KEPT / 2
    incoming.expire()
    assert linked(cache) == set()
    assert os.path.exists(cache.path(one))


def test_links_of_a_process_that_died_are_found_and_expire(cache: Cache) -> None:
    one = put(cache, "one")
    Incoming(cache).link(one)
    clock = Clock()
    incoming = Incoming(cache, clock)
    (cache.root / "incoming" / "not-a-digest").touch()
    clock.now += KEPT - 1
    incoming.expire()
    assert linked(cache) == {one.hex()}
    clock.now += 2
    incoming.expire()
    assert linked(cache) == set()


def test_a_link_of_other_bytes_is_replaced(cache: Cache) -> None:
    """That of a blob which was put into quarantine, and fetched again."""
    one = put(cache, "one")
    incoming = Incoming(cache)
    incoming.link(one)
    os.unlink(cache.path(one))
    put(cache, "one")
    assert not os.path.samefile(cache.path(one), cache.arrival_path(one))
    incoming.link(one)
    assert os.path.samefile(cache.path(one), cache.arrival_path(one))


def test_what_is_not_in_the_cache_cannot_be_linked(cache: Cache) -> None:
    with pytest.raises(FileNotFoundError):
        Incoming(cache).link(digest.of(b"absent"))
    assert linked(cache) == set()


def test_a_link_goes_with_its_blob(cache: Cache) -> None:
    incoming = Incoming(cache)
    one = put(cache, "one")
    incoming.link(one)
    assert shrink(cache, 0).blobs == 1
    assert linked(cache) == set()
    assert cache.usage.used == 0


def test_a_quarantined_blob_takes_its_link_along(cache: Cache) -> None:
    incoming = Incoming(cache)
    one = put(cache, "one")
    incoming.link(one)
    os.chmod(cache.path(one), 0o600)
    Path(cache.path(one)).write_text("wrong")
    assert not cache.revalidate(one)
    assert linked(cache) == set()


def test_links_are_made_while_others_expire(cache: Cache) -> None:
    """What was linked after the clock's last step is there, whatever expired meanwhile."""
    clock = Clock()
    incoming = Incoming(cache, clock)
    blobs = [put(cache, str(number)) for number in range(200)]
    for blob in blobs:
        incoming.link(blob)
    for _ in range(10):
        clock.now += KEPT + 1
        with ThreadPoolExecutor(3) as pool:
            expiring = [pool.submit(incoming.expire) for _ in range(2)]
            list(pool.map(incoming.link, blobs))
            for one in expiring:
                one.result()
        assert linked(cache) == {blob.hex() for blob in blobs}
