"""Which blobs lie together in packs, and that a change of one of them stays where it is."""

import random
from collections.abc import Sequence

from hypothesis import given

from aysfs import digest as digests
from aysfs.digest import Digest
from aysfs.flist.entry import Entry, Kind
from aysfs.limits import LARGE
from aysfs.pack.cut import LEAST, MOST, MOST_CONTENT, goes_in, in_order, is_last
from tests.trees import directory, lists, regular, symlink

Stored = tuple[Digest, int]


def cut(blobs: Sequence[Stored]) -> list[list[Stored]]:
    """The packs of blobs with these lengths of frames."""
    packs: list[list[Stored]] = []
    held = MOST + 1
    for digest, stored in blobs:
        if not packs or not goes_in(held, stored):
            packs.append([])
            held = 0
        packs[-1].append((digest, stored))
        held += stored
        if is_last(held, 0, digest, stored):
            held = MOST + 1
    return packs


def some_blobs(count: int, seed: int, most: int = 60_000) -> list[Stored]:
    source = random.Random(seed)
    return [(Digest(source.randbytes(16)), source.randint(9, most)) for _ in range(count)]


def size(pack: Sequence[Stored]) -> int:
    return sum(stored for _, stored in pack)


def test_packs_are_of_one_to_eight_mebibytes_and_of_four_on_average() -> None:
    for most in (400, 60_000, 1 << 20):
        blobs = some_blobs(400 << 21 >> most.bit_length(), 5, most)
        packs = cut(blobs)
        assert [one for pack in packs for one in pack] == blobs
        assert all(LEAST <= size(pack) <= MOST for pack in packs[:-1])
        average = size(blobs) / len(packs)
        assert 3 << 20 < average < 5 << 20, (most, average)


def test_a_frame_larger_than_a_pack_has_one_with_little_beside_it() -> None:
    blobs = some_blobs(30, 6, 100_000)
    large = (Digest(bytes(16)), 40 << 20)
    packs = cut([*blobs, large, *blobs])
    [with_large] = [pack for pack in packs if large in pack]
    assert with_large[-1] == large
    assert size(with_large) < LEAST + large[1]


def test_a_pack_ends_with_a_bound_of_content_however_short_its_frames_are() -> None:
    assert not is_last(9, MOST_CONTENT - 1, Digest(bytes(16)), 9)
    assert is_last(9, MOST_CONTENT, Digest(b"\xff" * 16), 9)


def test_a_change_changes_the_packs_around_it_and_no_other() -> None:
    blobs = some_blobs(5_000, 7)
    before = cut(blobs)
    assert len(before) > 25
    source = random.Random(8)
    differing = []
    for _ in range(200):
        at = source.randrange(len(blobs))
        new = (Digest(source.randbytes(16)), source.randint(9, 60_000))
        changed = source.choice(
            [
                [*blobs[:at], new, *blobs[at + 1 :]],
                [*blobs[:at], new, *blobs[at:]],
                [*blobs[:at], *blobs[at + 1 :]],
            ]
        )
        differing.append(sum(pack not in before for pack in cut(changed)))
    assert sum(differing) / len(differing) < 1.5
    assert max(differing) <= 6


@given(lists())
def test_every_small_blob_is_in_the_order_once(entries: list[Entry]) -> None:
    blobs = in_order(entries)
    expected = {
        one.digest: one.size
        for one in reversed(entries)
        if one.kind is Kind.REGULAR and one.size <= LARGE
    }
    assert len(blobs) == len(expected)
    assert dict(blobs) == expected


def test_files_of_a_directory_come_one_after_the_other() -> None:
    """Of a blob with several paths the first of the list decides."""
    large = Entry(b"/a/large", Kind.REGULAR, 0, 0, 0, LARGE + 1, Digest(b"l" * 16), 0)
    just = Entry(b"/a/z", Kind.REGULAR, 0, 0, 0, LARGE, Digest(b"j" * 16), 0)
    entries = [
        directory(b"/a"),
        regular(b"/a/b", b"1"),
        regular(b"/a/d/e", b"2"),
        regular(b"/a/d/f", b"3"),
        symlink(b"/a/e", b"d"),
        large,
        just,
        regular(b"/b", b"4"),
        regular(b"/c/a", b"2"),
        regular(b"/c/b", b"5"),
    ]
    order = [digest for digest, _ in in_order(entries)]
    expected = [digests.of(one) for one in (b"4", b"1")]
    expected += [just.digest, *(digests.of(one) for one in (b"2", b"3", b"5"))]
    assert order == expected
