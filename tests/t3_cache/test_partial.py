"""Entries of which only chunks are here: what is marked is right, across processes and restarts."""

import contextlib
import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aysfs import digest as digests
from aysfs.cache import partial as partial_module
from aysfs.cache.blobs import Cache
from aysfs.cache.eviction import shrink
from aysfs.cache.partial import Partial, make_partial, open_partial
from aysfs.chunks import ChunkHasher, Chunks
from aysfs.limits import Limits

CUT = 4096
DATA = random.Random(3).randbytes(9 * CUT + 100)
COUNT = 10
DIGEST = digests.of(DATA)
HASHER = ChunkHasher(CUT)
HASHER.update(DATA)
INDEX = HASHER.index()
CHUNKS = Chunks(CUT, digests.of(INDEX))


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    cache = Cache(tmp_path / "cache", Limits(keep_free=0))
    yield cache
    cache.close()


def made(cache: Cache) -> Partial:
    return make_partial(cache, DIGEST, len(DATA), CHUNKS, INDEX)


def put(cache: Cache, entry: Partial, *numbers: int) -> None:
    with entry.opened_to_write() as descriptor:
        for number in numbers:
            data = DATA[number * CUT : (number + 1) * CUT]
            cache.usage.reserve(len(data))
            entry.put(descriptor, number, data)


def here(entry: Partial) -> set[int]:
    return {number for number in range(COUNT) if entry.has(number)}


@contextlib.contextmanager
def reopened(cache: Cache) -> Iterator[Partial]:
    entry = open_partial(cache, DIGEST, len(DATA), CHUNKS)
    assert entry is not None
    try:
        yield entry
    finally:
        entry.close()


def restart_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, boot: int) -> None:
    file = tmp_path / f"boot-{boot}"
    file.write_text(f"{boot:08x}-0000-0000-0000-000000000000\n")
    monkeypatch.setattr(partial_module, "_BOOT", file)


def test_chunks_are_there_for_the_next_who_opens(cache: Cache, no_leaks: None) -> None:
    entry = made(cache)
    assert here(entry) == set()
    put(cache, entry, 3, 9)
    assert here(entry) == {3, 9}
    with reopened(cache) as other:
        assert here(other) == {3, 9}
        put(cache, other, 4)
        assert os.pread(other.descriptor, CUT, 4 * CUT) == DATA[4 * CUT : 5 * CUT]
    assert here(entry) == {3, 4, 9}
    assert os.fstat(entry.descriptor).st_size == len(DATA)
    assert os.fstat(entry.descriptor).st_blocks * 512 < len(DATA)
    entry.close()


def test_a_complete_entry_becomes_the_blob(cache: Cache, no_leaks: None) -> None:
    entry = made(cache)
    put(cache, entry, *range(COUNT))
    assert entry.is_complete
    with reopened(cache) as other:
        assert entry.complete()
        assert not other.complete()
        assert here(other) == set(range(COUNT))
    entry.close()
    descriptor = cache.open(DIGEST, len(DATA))
    assert descriptor is not None
    with os.fdopen(descriptor, "rb") as file:
        assert file.read() == DATA
    assert open_partial(cache, DIGEST, len(DATA), CHUNKS) is None


def test_after_a_restart_of_the_host_nothing_is_believed(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_leaks: None
) -> None:
    restart_host(monkeypatch, tmp_path, 1)
    entry = made(cache)
    put(cache, entry, 1, 2, 3, 9)
    entry.close()
    path = cache.partial_path(DIGEST)
    with open(path, "r+b") as file:  # what had not reached the disk
        file.seek(2 * CUT)
        file.write(bytes(CUT))
    restart_host(monkeypatch, tmp_path, 2)
    with reopened(cache) as entry:
        assert here(entry) == {1, 3, 9}
        put(cache, entry, 2)
    with reopened(cache) as entry:
        assert here(entry) == {1, 2, 3, 9}
    # What was looked at in this life of the host is believed in it, what was not is not.
    restart_host(monkeypatch, tmp_path, 3)
    with reopened(cache) as entry:
        assert entry.has(1)
    with open(path, "r+b") as file:
        file.write(bytes(len(DATA)))
    with reopened(cache) as entry:
        assert here(entry) == {1}


@pytest.mark.parametrize(
    ("what", "at", "data"),
    [
        ("map", 0, b"AYSFSMAP"),
        ("map", 8, b"\x02"),
        ("map", 20, b"\xff"),
        ("map", 44, b"\xff"),
        ("map", 110, b"\xff" * 5),
        ("map", None, b""),
        ("map", None, bytes(500)),
        ("data", None, b"short"),
        ("map", -1, None),
    ],
    ids=["magic", "version", "size", "digest", "index", "empty", "zeros", "another file", "none"],
)
def test_a_damaged_entry_is_one_that_is_not_there(
    cache: Cache, what: str, at: int | None, data: bytes | None, no_leaks: None
) -> None:
    entry = made(cache)
    put(cache, entry, 1)
    entry.close()
    path = Path(cache.partial_path(DIGEST) + (".map" if what == "map" else ""))
    if data is None:
        path.unlink()
    elif at is None:
        path.write_bytes(data)
    else:
        with path.open("r+b") as file:
            file.seek(at)
            file.write(data)
    assert open_partial(cache, DIGEST, len(DATA), CHUNKS) is None
    assert list(cache.scan_partial()) == []
    assert not list((cache.root / "partial").rglob("*.map"))
    entry = made(cache)
    assert here(entry) == set()
    entry.close()


def test_a_replaced_file_is_not_what_the_map_speaks_of(cache: Cache) -> None:
    entry = made(cache)
    put(cache, entry, 1)
    entry.close()
    path = Path(cache.partial_path(DIGEST))
    other = path.with_name("other")
    other.write_bytes(bytes(len(DATA)))
    other.rename(path)
    assert open_partial(cache, DIGEST, len(DATA), CHUNKS) is None


def test_other_chunks_of_the_same_blob_begin_anew(cache: Cache) -> None:
    entry = made(cache)
    put(cache, entry, 1)
    entry.close()
    other = Chunks(CUT, digests.of(b"another index"))
    assert open_partial(cache, DIGEST, len(DATA), other) is None
    assert open_partial(cache, DIGEST, len(DATA), CHUNKS) is None


def test_room_is_counted_by_chunk_and_comes_back(cache: Cache, no_leaks: None) -> None:
    entry = made(cache)
    put(cache, entry, 0, 5)
    assert (cache.usage.used, cache.usage._pending) == (2 * CUT, 0)
    cache.recount()
    assert cache.usage.used == 2 * CUT
    done = shrink(cache, 0)
    assert (done.blobs, done.in_use) == (0, 1)
    assert here(entry) == {0, 5}
    entry.close()
    assert shrink(cache, 0).blobs == 1
    assert cache.usage.used == 0
    assert [path for path in (cache.root / "partial").rglob("*") if path.is_file()] == [
        cache.root / "partial/lock"
    ]


def test_a_discarded_entry_can_be_read_on(cache: Cache, no_leaks: None) -> None:
    entry = made(cache)
    put(cache, entry, 0)
    entry.discard()
    assert cache.usage.used == 0
    assert os.pread(entry.descriptor, CUT, 0) == DATA[:CUT]
    with contextlib.closing(made(cache)) as other:
        entry.discard()  # of the old one: the new one stays
        assert not entry.complete()
        assert here(other) == set()
    entry.close()
    assert len(list(cache.scan_partial())) == 1


ACTIONS = st.one_of(
    st.tuples(st.just("put"), st.sets(st.integers(0, COUNT - 1), min_size=1)),
    st.tuples(st.sampled_from(["close", "look", "other"]), st.just(set[int]())),
    st.tuples(st.just("restart"), st.sets(st.integers(0, COUNT - 1))),
)


@given(st.lists(ACTIONS, max_size=12))
def test_the_map_says_what_is_there_whatever_happens(
    actions: list[tuple[str, set[int]]],
) -> None:
    """Processes come and go, hosts stop and lose what they had not written."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as monkeypatch:
        restart_host(monkeypatch, Path(folder), 0)
        cache = Cache(Path(folder) / "cache", Limits(keep_free=0))
        known: set[int] = set()
        entry = made(cache)
        for number, (action, some) in enumerate(actions):
            if action == "put":
                put(cache, entry, *(some - known))
                known |= some
            elif action == "look":
                assert here(entry) == known
            elif action == "other":
                with reopened(cache) as other:
                    assert here(other) == known
            else:
                entry.close()
                if action == "restart":
                    with open(cache.partial_path(DIGEST), "r+b") as file:
                        for lost in some:
                            os.pwrite(file.fileno(), b"torn", lost * CUT)
                    known -= some
                    restart_host(monkeypatch, Path(folder), number + 1)
                entry = made(cache)
        assert here(entry) == known
        for at in known:
            piece = DATA[at * CUT : (at + 1) * CUT]
            assert os.pread(entry.descriptor, len(piece), at * CUT) == piece
        assert entry.is_complete == (len(known) == COUNT)
        entry.close()
        cache.close()
