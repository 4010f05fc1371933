"""An index of packs says what its blobs refer to; that costs little, and no damage goes further."""

import random
import struct
import time
import tracemalloc
from collections.abc import Iterator, Mapping, Sequence

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from aysfs import digest as digests
from aysfs.digest import Digest
from aysfs.errors import PackDamaged
from aysfs.pack import Columns, PackIndex, PackInfo, compress, head_size
from aysfs.pack import references as columns
from aysfs.pack.index import Pack
from aysfs.pack.references import MOST, ReferenceColumns
from tests.packs import described, packed

References = Mapping[Digest, Sequence[Digest]]

MUTATIONS = 5_000
BLOBS = [b"%d" % number for number in range(8)]
DIGESTS = [digests.of(one) for one in BLOBS]


def index_with(references: References | None, packs: Sequence[Sequence[bytes]]) -> PackIndex:
    made = [described(packed(one)) for one in packs]
    return PackIndex.join(made, has_start=False, references=references)


def plain(index: PackIndex) -> bytes:
    return zstandard.ZstdDecompressor().decompress(index.encode())


def all_of(index: PackIndex) -> list[list[int]]:
    return [list(index.references(at)) for at in range(len(index))]


numbers = st.integers(0, len(BLOBS) + 2)  # the last of them are in no pack


@given(st.dictionaries(numbers, st.lists(numbers, max_size=12), max_size=10), st.integers(0, 7))
def test_every_blob_refers_to_what_it_was_said_to(said: dict[int, list[int]], cut: int) -> None:
    known = [*DIGESTS, *(digests.of(b"nowhere %d" % at) for at in range(3))]
    references = {known[at]: [known[one] for one in some] for at, some in said.items()}
    packs = [one for one in (BLOBS[:cut], BLOBS[cut:]) if one]
    written = index_with(references, packs)
    read = PackIndex.decode(written.encode())
    for index in (written, read):
        assert index.has_references
        assert all_of(index) == [
            [one for one in said.get(at, []) if one < len(BLOBS)] for at in range(len(BLOBS))
        ]
    assert read.encode() == written.encode()


def test_an_index_without_references_has_the_bytes_that_it_always_had() -> None:
    index = index_with(None, [BLOBS])
    data = plain(index)
    assert data[16:20] == bytes(4)
    assert len(data) == 24 + 28 + len(BLOBS) * 32
    for one in (index, PackIndex.decode(index.encode())):
        assert not one.has_references
        assert all_of(one) == [[]] * len(BLOBS)


def test_that_nothing_refers_to_anything_is_known_too() -> None:
    index = PackIndex.decode(index_with({}, [BLOBS]).encode())
    assert index.has_references
    assert all_of(index) == [[]] * len(BLOBS)
    empty = PackIndex.decode(index_with({}, []).encode())
    assert empty.has_references
    assert len(empty) == 0


def test_the_bytes_of_references_are_those_of_the_format() -> None:
    first, second, third = DIGESTS[:3]
    references = {first: [third, second, first], third: [first], digests.of(b"x"): [first]}
    data = plain(index_with(references, [BLOBS[:2], BLOBS[2:3]]))
    assert data[:24] == b"aysfsix1" + struct.pack("<IIII", 1, 2, 2, 3)
    assert data[24 + 2 * 28 + 3 * 32 :] == bytes([3, 0, 1]) + struct.pack("<4I", 2, 1, 0, 0)


def test_the_head_of_a_pack_tells_of_no_references() -> None:
    data = packed(BLOBS)
    info = PackInfo(digests.of(data), len(data), 0, len(BLOBS))
    index = PackIndex.of_pack(info, data)
    assert not index.has_references
    assert all_of(index) == [[]] * len(BLOBS)


def test_a_blob_refers_to_no_more_than_a_byte_counts() -> None:
    blobs = [b"%d" % number for number in range(MOST + 5)]
    targets = [digests.of(one) for one in reversed(blobs)]
    index = PackIndex.decode(index_with({targets[-1]: targets}, [blobs]).encode())
    assert list(index.references(0)) == list(range(MOST + 4, 4, -1))


def test_a_writer_leaves_out_what_is_more_than_an_index_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(columns, "MAX_REFERENCES", 5)
    index = index_with(dict.fromkeys(DIGESTS, DIGESTS[:2]), [BLOBS])
    assert all_of(PackIndex.decode(index.encode())) == [[0, 1]] * 2 + [[]] * 6


def test_more_references_than_an_index_takes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = index_with(dict.fromkeys(DIGESTS, DIGESTS[:2]), [BLOBS]).encode()
    monkeypatch.setattr(columns, "MAX_REFERENCES", 15)
    with pytest.raises(PackDamaged, match="at most 15"):
        PackIndex.decode(data)


GOOD = plain(index_with({DIGESTS[0]: DIGESTS[1:], DIGESTS[5]: [DIGESTS[0]]}, [BLOBS]))
COUNTS = 24 + 28 + len(BLOBS) * 32


@pytest.mark.parametrize(
    ("at", "new"),
    [
        (16, b"\0"),  # no flag, and bytes that nobody told of
        (16, b"\4"),
        (16, b"\6"),
        (COUNTS, b"\6"),
        (COUNTS, b"\xff"),
        (COUNTS + 7, b"\1"),
        (COUNTS + 8, b"\x08"),  # one more than the last blob
        (COUNTS + 8, b"\xff" * 4),
        (-4, b"\0\0\0\x80"),
    ],
)
def test_references_that_lie_are_refused(at: int, new: bytes) -> None:
    PackIndex.decode(compress(GOOD))
    data = bytearray(GOOD)
    at %= len(data)
    data[at : at + len(new)] = new
    assert data != GOOD, "no damage at all"
    with pytest.raises(PackDamaged):
        PackIndex.decode(compress(bytes(data)))


def test_references_of_another_length_are_refused() -> None:
    for length in range(COUNTS, len(GOOD)):
        with pytest.raises(PackDamaged):
            PackIndex.decode(compress(GOOD[:length]))
    for more in range(1, 9):
        with pytest.raises(PackDamaged):
            PackIndex.decode(compress(GOOD + bytes(more)))


def test_references_of_other_blobs_are_refused() -> None:
    pack = described(packed(BLOBS))
    info = PackInfo(pack.digest, pack.size, 0, len(BLOBS))
    for count in (len(BLOBS) - 1, len(BLOBS) + 1):
        wrong = ReferenceColumns.decode(memoryview(bytes(count)), count)
        with pytest.raises(PackDamaged):
            PackIndex([info], pack.blobs, has_start=False, references=wrong)


def mutations() -> Iterator[bytes]:
    """The columns of references with one to three damages, the rest of the index whole."""
    source = random.Random(20261127)
    interesting = [bytes(1), b"\1", b"\xff", b"\x80", bytes(4), b"\xff" * 4, b"\7\0\0\0"]
    for _ in range(MUTATIONS):
        changed = bytearray(GOOD)
        for _ in range(source.randint(1, 3)):
            at = source.randrange(COUNTS, len(GOOD))
            new = source.choice([*interesting, source.randbytes(source.randint(1, 8))])
            changed[at : at + len(new)] = new
        yield compress(bytes(changed[: len(GOOD) - source.choice([0, 0, 0, 1, 4])]))


def refused(data: bytes) -> list[str]:
    """The words by which an index is refused; if it is not, it leads nowhere else."""
    try:
        index = PackIndex.decode(data)
    except PackDamaged as error:
        return [str(error)]
    assert all(0 <= one < len(index) for some in all_of(index) for one in some)
    return []


def test_any_damage_is_one_clear_refusal_or_leads_to_blobs_of_the_index() -> None:
    refusals = [words for data in mutations() for words in refused(data)]
    assert all(words.isprintable() for words in refusals)
    assert MUTATIONS / 5 < len(refusals) < MUTATIONS, len(refusals)


def test_a_million_references_take_little_memory_and_time() -> None:
    count, each = 100_000, 10
    source = random.Random(7)
    blobs = Columns()
    blobs.digests += source.randbytes(16 * count)
    blobs.sizes.extend([100] * count)
    blobs.stored.extend([50] * count)
    pack = Pack(Digest(bytes(16)), head_size(count) + 50 * count, blobs)
    known = [blobs.digest(at) for at in range(count)]
    references = {one: known[at % 90_000 : at % 90_000 + each] for at, one in enumerate(known)}
    started = time.process_time()
    data = PackIndex.join([pack], has_start=False, references=references).encode()
    tracemalloc.start()
    try:
        index = PackIndex.decode(data)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert list(index.references(7)) == list(range(7, 17))
    assert held < (45 + 4 * each) * count
    assert peak < (150 + 15 * each) * count
    assert time.process_time() - started < 30
