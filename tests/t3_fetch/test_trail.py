"""Where a miss leads: what it refers to comes in that order, once, and with few requests."""

from collections.abc import Mapping, Sequence

from hypothesis import given
from hypothesis import strategies as st

from aysfs import digest as digests
from aysfs.digest import Digest
from aysfs.fetch.planner import LED_REACH, LONGEST_REACH, Around, Packs
from aysfs.fetch.segment import MOST_FRAMES, Segment, Wanted
from aysfs.fetch.trail import Trail, leads, near
from aysfs.pack.frame import compress
from aysfs.pack.index import PackIndex, PackInfo
from aysfs.store.memory import MemoryStore
from tests.packing import many, packed

EACH = len(compress(many(1)[0]))


def everything(_digest: Digest, _size: int) -> bool:
    return True


def trusted(_pack: PackInfo) -> bool:
    return True


def lead(index: PackIndex, here: int, wanted: Wanted) -> list[int]:
    """What a blob leads to and is wanted."""
    return [at for at in leads(index, here, wanted) if at is not None]


def index_of(
    data: Sequence[bytes], leads: Mapping[int, Sequence[int]], sizes: Sequence[int] = ()
) -> PackIndex:
    """Packs of so many of the blobs, in turn, which refer to others by their numbers."""
    packs, at = [], 0
    for size in [*sizes, len(data)]:
        packs.append(data[at : at + size])
        at += size
    references = {data[one]: [data[to] for to in some] for one, some in leads.items()}
    return packed(MemoryStore(), [one for one in packs if one], references=references)


def segments(trail: Trail, most: int = 1 << 30) -> list[list[int]]:
    """The positions of each segment that a trail gives."""
    found = []
    while not trail.look():
        pass
    while not trail.is_over:
        segment = trail.next(most)
        if segment is not None:
            assert segment.length <= most or len(segment.frames) == 1
            found.append(positions(trail.index, segment))
    return found


def positions(index: PackIndex, segment: Segment) -> list[int]:
    found = []
    for frame in segment.frames:
        at = index.find(frame.digest)
        assert at is not None
        assert index.offset(at) == segment.start + frame.start
        assert frame.start + frame.stored <= segment.length
        found.append(at)
    return found


def test_what_a_blob_leads_to_comes_depth_first_as_modules_are_imported() -> None:
    data = many(8)
    index = index_of(data, {0: [3, 1], 3: [5, 4], 4: [0, 7], 1: [3, 2]})
    assert lead(index, 0, everything) == [3, 5, 4, 7, 1, 2]
    assert lead(index, 6, everything) == []


def test_what_is_here_is_not_asked_for_and_what_it_leads_to_is() -> None:
    data = many(5)
    index = index_of(data, {0: [1], 1: [2], 2: [3]})
    here = {digests.of(data[1]), digests.of(data[3])}
    assert lead(index, 0, lambda digest, _size: digest not in here) == [2]


def test_a_walk_has_an_end_in_blobs_and_in_bytes() -> None:
    data = [b"%d" % number for number in range(5000)]
    index = index_of(data, {number: [number + 1] for number in range(4999)})
    assert 1000 < len(lead(index, 0, everything)) < 2100
    data = many(30, 1 << 20)
    index = index_of(data, {number: [number + 1] for number in range(29)})
    assert 16 <= len(lead(index, 0, everything)) <= 17


def test_neighbours_that_are_on_the_trail_come_together_and_small_gaps_with_them() -> None:
    data = many(100)
    index = index_of(data, {})
    order = [50, 90, 49, 52, 12]
    assert segments(Trail(index, iter(order), everything, trusted)) == [
        [49, 50, 51, 52],
        [90],
        [49, 50, 51, 52],
        [49, 50, 51, 52],
        [12],
    ]
    taken: set[int] = set()

    def wanted(digest: Digest, _size: int) -> bool:
        return index.find(digest) not in taken

    trail = Trail(index, iter(order), wanted, trusted)
    found = []
    while not trail.look():
        pass
    while not trail.is_over:
        segment = trail.next(1 << 20)
        if segment is not None:
            found.append(positions(index, segment))
            taken.update(found[-1])
    assert found == [[49, 50, 51, 52], [90], [12]]


def test_a_long_gap_is_not_paid_for() -> None:
    data = many(40)
    index = index_of(data, {})
    assert segments(Trail(index, iter([3, 30]), everything, trusted)) == [[3], [30]]


def test_a_trail_stays_within_packs_and_passes_those_that_are_not_believed() -> None:
    data = many(9)
    index = index_of(data, {}, [3, 3])
    bad = index.packs[1].digest
    trail = Trail(index, iter([2, 3, 6]), everything, lambda pack: pack.digest != bad)
    assert segments(trail) == [[2], [6]]


@given(
    st.lists(st.integers(0, 59), min_size=1, max_size=60, unique=True),
    st.lists(st.integers(1, 30), max_size=4),
    st.sets(st.integers(0, 59)),
    st.integers(1, 40 * EACH),
)
def test_a_trail_gives_each_wanted_blob_once(
    order: list[int], sizes: list[int], here: set[int], most: int
) -> None:
    data = many(60)
    index = index_of(data, {}, sizes)
    taken = set(here)

    def wanted(digest: Digest, _size: int) -> bool:
        return index.find(digest) not in taken

    trail = Trail(index, iter(order), wanted, trusted)
    found: list[int] = []
    while not trail.look():
        pass
    while not trail.is_over:
        segment = trail.next(most)
        if segment is not None:
            assert segment.length <= most or len(segment.frames) == 1
            some = positions(index, segment)
            assert not taken.intersection(some)
            taken.update(some)
            found += some
    assert len(set(found)) == len(found)
    assert set(order) - here <= set(found)


def test_the_nearest_come_first_from_both_sides_and_reach_past_what_is_here() -> None:
    data = many(60)
    index = index_of(data, {}, [40])
    here = {digests.of(data[21]), digests.of(data[18])}
    found = near(index, 20, 5 * EACH, lambda digest, _size: digest not in here)
    assert [at for at in found if at is not None] == [19, 22, 23, 17, 24]
    assert [*near(index, 39, EACH, everything)] == [38]
    assert [*near(index, 40, 1 << 30, everything)] == [*range(41, 60)]


def test_a_trail_lets_others_run_while_it_is_looked_for() -> None:
    data = [b"%d" % number for number in range(3000)]
    index = index_of(data, {number: [number + 1] for number in range(2999)})
    looked = 0

    def wanted(_digest: Digest, _size: int) -> bool:
        nonlocal looked
        looked += 1
        return False

    trail = Trail(index, leads(index, 0, wanted), wanted, trusted)
    steps = []
    while not trail.is_over:
        before = looked
        trail.look()
        steps.append(looked - before)
    assert steps[:3] == [4, 8, 16]
    assert max(steps) == 64


def test_a_trail_lets_others_run_among_blobs_that_all_refer_to_each_other() -> None:
    index = index_of(
        [b"%d" % number for number in range(255)], dict.fromkeys(range(255), range(255))
    )
    assert sum(at is None for at in leads(index, 0, everything)) >= 255 * 254 // 64


# --- a miss ------------------------------------------------------------------------------


def brought(around: Around) -> list[Digest]:
    """What comes beside a miss, in its order."""
    found: list[Digest] = []
    while not around.rest.look():
        pass
    while not around.rest.is_over:
        segment = around.rest.next(1 << 30)
        if segment is not None:
            found += [frame.digest for frame in segment.frames]
    return found


def test_a_miss_brings_where_it_leads_before_its_neighbours() -> None:
    data = many(1200)
    packs = Packs()
    packs.add(index_of(data, {100: [1100, 900]}))
    around = packs.around(digests.of(data[100]), 2000, everything)
    assert around is not None
    assert around.segment.frames[0].digest == digests.of(data[100])
    assert brought(around)[:2] == [digests.of(data[1100]), digests.of(data[900])]


def test_with_references_a_miss_reaches_less_far_and_a_further_one_farther() -> None:
    data = many(1200)
    packs = Packs()
    packs.add(index_of(data, {0: [1]}))
    lengths = []
    for at in (200, 600, 800, 300, 400):
        around = packs.around(digests.of(data[at]), 2000, everything)
        assert around is not None
        lengths.append(around.segment.length)
    assert abs(2 * lengths[0] - LED_REACH) < 3 * EACH
    assert lengths == sorted(lengths)
    assert abs(2 * lengths[-1] - LONGEST_REACH) < 3 * EACH


def test_a_miss_among_tiny_blobs_brings_a_bounded_number_of_them() -> None:
    packs = Packs()
    packs.add(index_of([b"%d" % number for number in range(4000)], {}))
    around = packs.around(digests.of(b"9"), 1, everything)
    assert around is not None
    assert len(around.segment.frames) == MOST_FRAMES


def test_the_index_says_more_than_the_head_of_the_start_pack_that_came_before_it() -> None:
    data = many(300)
    index = packed(
        MemoryStore(), [data[:3], data[3:]], has_start=True, references={data[1]: [data[250]]}
    )
    packs = Packs()
    packs.add(packed(MemoryStore(), [data[:3]], has_start=True))
    packs.add(index)
    around = packs.around(digests.of(data[1]), 2000, everything)
    assert around is not None
    assert digests.of(data[250]) in brought(around)
