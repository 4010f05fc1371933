"""The index of packs finds every blob where it is and no other, and no damage goes further."""

import random
import struct
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from aysfs import digest as digests
from aysfs.digest import Digest
from aysfs.errors import PackDamaged
from aysfs.pack import Columns, Entry, PackIndex, PackInfo, compress, expand, head_size, read_head
from aysfs.pack.index import MAX_BLOBS, MAX_SIZE, Pack
from tests.packs import indexed, packed

MUTATIONS = 20_000
GOOD = indexed([], has_start=False).encode()

services = st.lists(st.binary(max_size=40), unique=True, max_size=30).flatmap(
    lambda blobs: st.lists(st.integers(1, 5), max_size=10).map(lambda cuts: _cut(blobs, cuts))
)


def _cut(blobs: list[bytes], cuts: list[int]) -> list[list[bytes]]:
    packs = []
    for count in [*cuts, len(blobs)]:
        if blobs[:count]:
            packs.append(blobs[:count])
        blobs = blobs[count:]
    return packs


@given(services, st.booleans())
def test_every_blob_is_found_where_it_is(service: list[list[bytes]], start: bool) -> None:
    packs = [packed(one) for one in service]
    written = indexed(packs, has_start=start and bool(packs))
    index = PackIndex.decode(written.encode())
    assert index.packs == written.packs
    assert index.has_start == (start and bool(packs))
    assert len(index) == sum(map(len, service))
    for number, one in enumerate(index.packs):
        assert (one.digest, one.size) == (digests.of(packs[number]), len(packs[number]))
        assert one.count == len(service[number])
    for number, blobs in enumerate(service):
        for content in blobs:
            at = index.find(digests.of(content))
            assert at is not None
            assert (index.digest(at), index.size(at)) == (digests.of(content), len(content))
            assert index.pack(at) == number
            assert index.packs[number].first <= at
            frame = packs[number][index.offset(at) :][: index.stored(at)]
            assert expand(frame, index.size(at)) == content


@given(services, st.binary(min_size=16, max_size=16))
def test_no_other_blob_is_found(service: list[list[bytes]], other: bytes) -> None:
    index = indexed([packed(one) for one in service], has_start=False)
    known = {index.digest(at) for at in range(len(index))}
    neighbours = (
        Digest((int.from_bytes(one, "big") ^ 1 << bit).to_bytes(16, "big"))
        for one in known
        for bit in (0, 64, 120, 127)
    )
    for value in (Digest(other), Digest(bytes(16)), Digest(b"\xff" * 16), *neighbours):
        assert (index.find(value) is None) == (value not in known)


def test_the_bytes_of_an_index_are_those_of_the_format() -> None:
    first, second = packed([b"a", b"bb"]), packed([b"ccc"])
    data = indexed([first, second]).encode()
    plain = zstandard.ZstdDecompressor().decompress(data)
    md5s = [digests.of(one) for one in (b"a", b"bb", b"ccc")]
    assert plain == b"".join(
        (
            b"aysfsix1" + struct.pack("<IIII", 1, 2, 1, 3),
            digests.of(first) + struct.pack("<QI", len(first), 2),
            digests.of(second) + struct.pack("<QI", len(second), 1),
            *md5s,
            struct.pack("<3Q", 1, 2, 3),
            struct.pack("<3Q", 10, 11, 12),
        )
    )


def test_the_head_of_a_pack_is_an_index_of_its_own() -> None:
    data = packed([b"a", b"bb"])
    info = PackInfo(digests.of(data), len(data), 0, 2)
    index = PackIndex.of_pack(info, data[: head_size(2)])
    assert index.packs == (info,)
    assert index.has_start
    at = index.find(digests.of(b"bb"))
    assert at is not None
    assert data[index.offset(at) :] == compress(b"bb")


def test_a_head_that_is_not_the_promised_one_is_refused() -> None:
    data = packed([b"a", b"bb"])
    good = PackInfo(digests.of(data), len(data), 0, 2)
    for info in (replace(good, count=1), replace(good, size=len(data) + 1), replace(good, size=0)):
        with pytest.raises(PackDamaged):
            PackIndex.of_pack(info, data)


def plain_index() -> bytes:
    packs = [packed([b"%d" % at, b"%d again" % at]) for at in range(4)]
    return zstandard.ZstdDecompressor().decompress(indexed(packs).encode())


@pytest.mark.parametrize(
    ("at", "new"),
    [
        (0, b"aysfsix2"),
        (8, b"\2"),
        (12, b"\5"),
        (12, b"\3"),
        (12, b"\xff" * 4),
        (16, b"\2"),
        (16, b"\xff"),
        (20, b"\7"),
        (20, b"\xff" * 4),
        (24 + 16, b"\0"),
        (24 + 16, b"\xff" * 8),
        (24 + 24, b"\0"),
        (24 + 24, b"\1"),
        (24 + 24, b"\3"),
        (24 + 24, b"\xff" * 4),
        (-8, b"\x08"),
        (-8, b"\x09"),
        (-8, b"\xff" * 8),
        (-72, b"\xff" * 8),
    ],
)
def test_a_lying_index_is_refused(at: int, new: bytes) -> None:
    data = bytearray(plain_index())
    at %= len(data)
    before = bytes(data)
    data[at : at + len(new)] = new
    assert data != before, "no damage at all"
    with pytest.raises(PackDamaged):
        PackIndex.decode(compress(bytes(data)))


def test_an_index_of_another_length_is_refused() -> None:
    data = plain_index()
    for length in range(len(data)):
        with pytest.raises(PackDamaged):
            PackIndex.decode(compress(data[:length]))
    with pytest.raises(PackDamaged):
        PackIndex.decode(compress(data + b"\0"))
    frame = compress(data)
    for length in range(len(frame)):
        with pytest.raises(PackDamaged):
            PackIndex.decode(frame[:length])


def test_an_index_that_claims_to_be_huge_is_refused_before_it_is_read() -> None:
    header = b"\x28\xb5\x2f\xfd\xc0\x50"
    for claimed in (MAX_SIZE + 1, 1 << 40, (1 << 64) - 1):
        with pytest.raises(PackDamaged):
            PackIndex.decode(header + struct.pack("<Q", claimed) + b"\1\0\0")
    unknown = zstandard.ZstdCompressor(write_content_size=False).compress(plain_index())
    with pytest.raises(PackDamaged, match="how large"):
        PackIndex.decode(unknown)


def test_more_blobs_than_an_index_holds_are_refused() -> None:
    columns = Columns([Entry(Digest(bytes(16)), 1, 10)])
    for _ in range(19):
        columns.extend(columns)
    size = head_size(len(columns)) + 10 * len(columns)
    packs = [Pack(Digest(bytes(16)), size, columns)] * (MAX_BLOBS // len(columns))
    PackIndex.join(packs, has_start=False)
    with pytest.raises(PackDamaged, match="at most"):
        PackIndex.join([*packs, packs[0]], has_start=False)


def test_two_hundred_thousand_blobs_take_little_memory_and_time() -> None:
    count = 200_000
    source = random.Random(7)
    columns = Columns()
    columns.digests += source.randbytes(16 * count)
    columns.sizes.extend([100] * count)
    columns.stored.extend([50] * count)
    pack = Pack(Digest(bytes(16)), head_size(count) + 50 * count, columns)
    data = PackIndex.join([pack], has_start=False).encode()
    started = time.process_time()
    tracemalloc.start()
    try:
        index = PackIndex.decode(data)
        assert index.find(columns.digest(count - 1)) == count - 1
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 44 * count
    assert peak < 150 * count
    assert time.process_time() - started < 30


def use_all(data: bytes, pack: bytes) -> None:
    """Read everything that an index and a pack offer, as far as it goes."""
    index = PackIndex.decode(data)
    for at in range(len(index)):
        found = index.find(index.digest(at))
        assert found is not None
        assert index.digest(found) == index.digest(at)
        assert 0 <= index.pack(at) < len(index.packs)
        assert index.offset(at) + index.stored(at) <= index.packs[index.pack(at)].size
    entries = read_head(pack)
    at = head_size(len(entries))
    for one in entries:
        assert len(expand(pack[at : at + one.stored], one.size)) == one.size
        at += one.stored


def mutations() -> Iterator[tuple[bytes, bytes]]:
    """An index and a pack, with one to three small damages; half of the time before packing."""
    source = random.Random(20261126)
    plain = plain_index()
    pack = packed([b"%d" % at * at for at in range(12)])
    interesting = [bytes(1), b"\xff", b"\x80", bytes(4), b"\xff" * 4, b"\x7f\xff", bytes(8)]

    def damaged(data: bytes) -> bytes:
        changed = bytearray(data)
        for _ in range(source.randint(1, 3)):
            at = source.randrange(len(data))
            new = source.choice([*interesting, source.randbytes(source.randint(1, 8))])
            changed[at : at + len(new)] = new
        return bytes(changed[: len(data) - source.choice([0, 0, 0, 1, 16])])

    for number in range(MUTATIONS):
        index = compress(damaged(plain)) if number % 2 else damaged(compress(plain))
        yield index, damaged(pack)


def refusal(index: bytes, pack: bytes) -> list[str]:
    """The words by which these are refused, if they are."""
    try:
        use_all(index, pack)
    except PackDamaged as error:
        return [str(error)]
    return []


def test_any_damage_is_one_clear_refusal_or_none() -> None:
    refusals: list[str] = []
    for index, pack in mutations():
        refusals += [*refusal(index, packed([])), *refusal(GOOD, pack)]
    assert all(words.isprintable() for words in refusals)
    refused = len(refusals)
    assert MUTATIONS / 5 < refused < MUTATIONS * 19 / 10, refused
