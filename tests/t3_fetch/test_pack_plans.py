"""What is asked of packs: everything that is wanted, once, in order, and within the bounds."""

from hypothesis import given
from hypothesis import strategies as st

from aysfs import digest as digests
from aysfs.digest import Digest
from aysfs.fetch.planner import FIRST_REACH, Around, Packs
from aysfs.fetch.segment import Segment
from aysfs.pack.frame import compress
from aysfs.pack.index import PackIndex
from aysfs.store.memory import MemoryStore
from tests.packing import many, packed

blobs = st.lists(st.binary(min_size=1, max_size=400), min_size=1, max_size=30, unique=True)


def digests_of(segment: Segment) -> list[Digest]:
    return [frame.digest for frame in segment.frames]


def split(data: list[bytes], sizes: list[int]) -> list[list[bytes]]:
    parts, at = [], 0
    for size in [*sizes, len(data)]:
        if data[at : at + size]:
            parts.append(data[at : at + size])
        at += size
    return parts


@given(blobs, st.lists(st.integers(1, 10), max_size=5), st.data(), st.integers(1, 2000))
def test_a_course_gives_each_wanted_blob_once_and_where_it_is(
    data: list[bytes], sizes: list[int], draw: st.DataObject, most: int
) -> None:
    store = MemoryStore()
    index = packed(store, split(data, sizes))
    wanted = set(draw.draw(st.sets(st.sampled_from([digests.of(one) for one in data]))))
    course = Packs().course(
        index, start_pack_only=False, wanted=lambda digest, _size: digest in wanted
    )
    given_ = []
    while (segment := course.next(most)) is not None:
        assert segment.length <= most or len(segment.frames) == 1
        pack = store.blobs[segment.pack.digest]
        part = pack[segment.start : segment.start + segment.length]
        assert len(part) == segment.length
        assert segment.length == sum(frame.stored for frame in segment.frames)
        for frame in segment.frames:
            here = index.find(frame.digest)
            assert here is not None
            at = index.offset(here)
            assert part[frame.start : frame.start + frame.stored] == pack[at : at + frame.stored]
        given_ += digests_of(segment)
    assert given_ == [one for one in map(digests.of, data) if one in wanted]
    assert course.passed == course.total


def everything(_digest: Digest, _size: int) -> bool:
    return True


def packs_with(index: PackIndex) -> Packs:
    packs = Packs()
    packs.add(index)
    return packs


def rest_of(around: Around, taken: set[Digest]) -> list[Digest]:
    """What comes after the segment, and is taken as it comes, in its order."""
    found: list[Digest] = []
    while not around.rest.look():
        pass
    while not around.rest.is_over:
        segment = around.rest.next(1 << 30)
        if segment is not None:
            found += digests_of(segment)
            taken.update(found)
    return found


def test_a_miss_reaches_to_both_sides_and_a_further_one_twice_as_far() -> None:
    data = many(2000)
    numbers = {digests.of(one): number for number, one in enumerate(data)}
    packs = packs_with(packed(MemoryStore(), [data]))
    taken: set[Digest] = set()

    def wanted(digest: Digest, _size: int) -> bool:
        return digest not in taken

    sizes = []
    for at in (700, 1400):
        around = packs.around(digests.of(data[at]), len(data[at]), wanted)
        assert around is not None
        first = digests_of(around.segment)
        assert first == [digests.of(one) for one in data[at : at + len(first)]]
        taken.update(first)
        found = sorted(numbers[one] for one in (*first, *rest_of(around, taken)))
        assert found == [*range(found[0], found[-1] + 1)]
        assert abs((at - found[0]) - (found[-1] - at)) < 3
        sizes.append(len(found))
    stored = compress(data[0])
    assert abs(sizes[0] * len(stored) - FIRST_REACH) < 3 * len(stored)
    assert 1.9 < sizes[1] / sizes[0] < 2.1


def test_a_miss_reaches_past_what_is_here_and_not_out_of_its_pack() -> None:
    data = many(20)
    taken = {digests.of(data[7])}
    packs = packs_with(packed(MemoryStore(), [data[:15], data[15:]]))

    def wanted(digest: Digest, _size: int) -> bool:
        return digest not in taken

    around = packs.around(digests.of(data[3]), len(data[3]), wanted)
    assert around is not None
    assert digests_of(around.segment) == [digests.of(one) for one in data[3:7]]
    taken.update(digests_of(around.segment))
    assert rest_of(around, taken) == [digests.of(one) for one in data[:3] + data[8:15]]


def test_a_blob_can_be_asked_for_alone() -> None:
    data = many(3)
    index = packed(MemoryStore(), [data])
    packs = packs_with(index)
    segment = packs.alone(digests.of(data[1]), len(data[1]), [index])
    assert segment is not None
    assert digests_of(segment) == [digests.of(data[1])]
    assert segment.length == len(compress(data[1]))
    packs.distrust(index.packs[0].digest)
    assert packs.alone(digests.of(data[1]), len(data[1]), [index]) is None


def test_what_is_in_no_pack_or_has_another_size_there_is_not_planned() -> None:
    data = many(3)
    index = packed(MemoryStore(), [data])
    packs = packs_with(index)
    assert packs.alone(digests.of(b"else"), 4, [index]) is None
    assert packs.alone(digests.of(data[0]), len(data[0]) + 1, [index]) is None
    assert packs.alone(digests.of(data[0]), len(data[0]), []) is None, "not of what is coming"
    assert packs.around(digests.of(b"else"), 4, everything) is None
    assert packs.around(digests.of(data[0]), len(data[0]) + 1, everything) is None


def test_a_pack_that_is_not_believed_is_not_planned_with() -> None:
    data = many(6)
    index = packed(MemoryStore(), [data[:3], data[3:]])
    packs = packs_with(index)
    course = packs.course(index, start_pack_only=False, wanted=everything)
    assert packs.distrust(index.packs[0].digest)
    assert not packs.distrust(index.packs[0].digest)
    assert packs.around(digests.of(data[1]), len(data[1]), everything) is None
    segment = course.next(1 << 20)
    assert segment is not None
    assert digests_of(segment) == [digests.of(one) for one in data[3:]]


def test_a_removed_index_is_not_planned_with() -> None:
    data = many(3)
    index = packed(MemoryStore(), [data])
    packs = packs_with(index)
    packs.remove(index)
    assert packs.around(digests.of(data[1]), len(data[1]), everything) is None


def test_without_ranges_a_course_takes_whole_packs_and_a_miss_takes_none() -> None:
    data = many(6)
    index = packed(MemoryStore(), [data[:3], data[3:]])
    packs = packs_with(index)
    course = packs.course(
        index, start_pack_only=False, wanted=lambda digest, _size: digest != digests.of(data[1])
    )
    packs.whole_only = True
    assert packs.around(digests.of(data[0]), len(data[0]), everything) is None
    segment = course.next(1)
    assert segment is not None
    assert (segment.start, segment.length) == (0, index.packs[0].size)
    assert digests_of(segment) == [digests.of(data[0]), digests.of(data[2])]


def test_a_course_of_the_start_pack_ends_with_it() -> None:
    data = many(6)
    index = packed(MemoryStore(), [data[:3], data[3:]], has_start=True)
    course = Packs().course(index, start_pack_only=True, wanted=everything)
    segment = course.next(1 << 20)
    assert segment is not None
    assert digests_of(segment) == [digests.of(one) for one in data[:3]]
    assert course.next(1 << 20) is None


def test_a_course_past_what_is_here_lets_others_run() -> None:
    data = many(2000, 32)
    index = packed(MemoryStore(), [data])
    last = digests.of(data[-1])
    course = Packs().course(
        index, start_pack_only=False, wanted=lambda digest, _size: digest == last
    )
    steps = 0
    while (segment := course.next(1 << 20)) is None:
        assert not course.is_over
        steps += 1
    assert steps > 2
    assert digests_of(segment) == [last]
    assert course.is_over


def test_a_course_that_goes_back_gives_what_is_still_wanted_once_more() -> None:
    data = many(6)
    index = packed(MemoryStore(), [data])
    here: set[Digest] = set()
    course = Packs().course(
        index, start_pack_only=False, wanted=lambda digest, _size: digest not in here
    )
    first = course.next(4100)
    second = course.next(4100)
    assert first is not None
    assert second is not None
    here.update(digests_of(first))
    course.go_back(second)
    again = course.next(1 << 20)
    assert again is not None
    assert digests_of(again) == [digests.of(one) for one in data[len(first.frames) :]]


def test_a_segment_of_tiny_blobs_has_no_more_than_can_be_kept_track_of() -> None:
    index = packed(MemoryStore(), [[one.to_bytes(4, "little") for one in range(9000)]])
    course = Packs().course(index, start_pack_only=False, wanted=everything)
    counts = []
    while (segment := course.next(4 << 20)) is not None:
        counts.append(len(segment.frames))
    assert sum(counts) == 9000
    assert max(counts) < 3000
