"""Small blobs that a store has at hand: taken in without a flight, and with the same promises."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from aysfs import digest as digests
from aysfs.cache.blobs import Cache
from aysfs.digest import Digest
from aysfs.errors import AysfsError, Corrupt, NoSpace
from aysfs.fetch.fetcher import open_fetcher
from aysfs.limits import Limits
from aysfs.store.faults import Passes
from aysfs.store.memory import MemoryStore
from tests.conftest import ExpectOutput

DATA = b"small and near" * 100
DIGEST = digests.of(DATA)
BOUND = 64 << 10


class Near(Passes):
    """A store that has at hand what it was told, true or not, and counts flights."""

    def __init__(self, held: bytes) -> None:
        memory = MemoryStore()
        memory.add(DATA)
        super().__init__(memory)
        self._held = held

    def at_hand(self, digest: Digest, size: int) -> bytes | None:
        return self._held


async def test_it_is_taken_in_without_a_flight(tmp_path: Path, no_leaks: None) -> None:
    cache = Cache(tmp_path / "cache", Limits(keep_free=0))
    async with open_fetcher(cache, Near(DATA)) as fetcher:
        descriptor = fetcher.open_at_once(DIGEST, len(DATA))
        assert descriptor is not None
        assert os.pread(descriptor, 1 << 20, 0) == DATA
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(descriptor, b"x")
        os.close(descriptor)
        assert cache.has(DIGEST, len(DATA))
        assert (fetcher.counters.misses, fetcher.counters.fetched_bytes) == (1, len(DATA))
    cache.close()


@pytest.mark.parametrize(
    "held",
    [DATA[:-1] + b"x", DATA[:-1], DATA + b"x", b""],
    ids=["altered", "cut short", "too long", "empty"],
)
async def test_wrong_bytes_are_never_taken_in(tmp_path: Path, held: bytes, no_leaks: None) -> None:
    cache = Cache(tmp_path / "cache", Limits(keep_free=0))
    async with open_fetcher(cache, Near(held)) as fetcher:
        assert fetcher.open_at_once(DIGEST, len(DATA)) is None
        assert not cache.is_doubtful(DIGEST)
        assert cache.usage.used == 0
        with os.fdopen(await fetcher.open(DIGEST, len(DATA)), "rb") as file:
            assert file.read() == DATA  # a flight asked ``get``, which does not lie
    cache.close()


async def test_a_doubtful_entry_is_left_to_a_flight(
    tmp_path: Path, expected_output: ExpectOutput
) -> None:
    expected_output(r".*corrupt entry.*")
    cache = Cache(tmp_path / "cache", Limits(keep_free=0), report=print)
    os.close(cache.insert(DIGEST, DATA))
    os.chmod(cache.path(DIGEST), 0o600)
    Path(cache.path(DIGEST)).write_bytes(b"altered")
    async with open_fetcher(cache, Near(DATA)) as fetcher:
        assert fetcher.open_at_once(DIGEST, len(DATA)) is None
        os.close(await fetcher.open(DIGEST, len(DATA)))
    assert cache.usage.used == 4096
    cache.close()


def test_wrong_bytes_are_corrupt(tmp_path: Path, no_leaks: None) -> None:
    cache = Cache(tmp_path / "cache", Limits(keep_free=0))
    with pytest.raises(Corrupt):
        cache.insert(DIGEST, b"something else")
    assert list(cache.scan()) == []
    cache.close()


def test_a_full_cache_has_no_space(tmp_path: Path, no_leaks: None) -> None:
    cache = Cache(tmp_path / "cache", Limits(size=BOUND, keep_free=0))
    for number in range(BOUND // 4096):
        data = b"%d" % number
        os.close(cache.insert(digests.of(data), data))
    with pytest.raises(NoSpace):
        cache.insert(DIGEST, DATA)
    assert cache.usage.used <= BOUND
    cache.close()


def remove_tmp(cache: Cache) -> None:
    for item in cache.usage.directory.iterdir():
        item.unlink()
    cache.usage.directory.rmdir()


def block_objects(cache: Cache) -> None:
    (cache.root / "objects").rmdir()
    (cache.root / "objects").write_bytes(b"")


@pytest.mark.parametrize("damage", [remove_tmp, block_objects])
def test_a_failed_insertion_gives_its_room_back(
    tmp_path: Path, damage: Callable[[Cache], None], no_leaks: None
) -> None:
    cache = Cache(tmp_path / "cache", Limits(size=BOUND, keep_free=0))
    damage(cache)
    for _ in range(2 * BOUND // 4096):  # were the room lost, it would be NoSpace in the end
        with pytest.raises(AysfsError) as caught:
            cache.insert(DIGEST, DATA)
        assert not isinstance(caught.value, NoSpace)
    cache.close()
