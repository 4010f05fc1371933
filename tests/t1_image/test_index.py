"""The digest index knows every digest of a list and no other, and notices damage."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aysfs import digest
from aysfs.digest import Digest
from aysfs.errors import ImageDamaged
from aysfs.flist import Entry
from aysfs.image import DigestIndex, Record, write_image
from aysfs.tree import Tree
from tests.trees import lists, regular, tree_of

HEADER = 96


def index_of(tree: Tree) -> bytes:
    image, index = io.BytesIO(), io.BytesIO()
    write_image(tree, image, index)
    return index.getvalue()


def sizes_of(tree: Tree) -> dict[Digest, int]:
    """Digests of a tree's files with content, and their sizes."""
    nodes = (node for node in tree.walk() if tree.is_regular(node) and tree.sizes[node])
    return {tree.digest(node): tree.sizes[node] for node in nodes}


@given(lists())
def test_an_index_holds_the_digests_of_its_list_and_their_sizes(entries: list[Entry]) -> None:
    tree = tree_of(*entries)
    index = DigestIndex(index_of(tree))
    index.verify()
    expected = sizes_of(tree)
    assert {record.digest: record.size for record in index} == expected
    assert len(index) == len(expected)
    for value, size in expected.items():
        found = index.find(value)
        assert isinstance(found, Record)
        assert (found.digest, found.size) == (value, size)


def test_a_digest_is_found_among_many_and_its_neighbours_are_not() -> None:
    files = [regular(b"/%d" % at, b"%d" % at) for at in range(3000)]
    index = DigestIndex(index_of(tree_of(*files)))
    digests = [record.digest for record in index]
    assert digests == sorted({one.digest for one in files})
    for value in digests[::50]:
        number = int.from_bytes(value, "big")
        for other in ((number - 1) % 2**128, (number + 1) % 2**128):
            assert index.find(Digest(other.to_bytes(16, "big"))) is None
        assert index.find(value) is not None
    for edge in (bytes(16), b"\xff" * 16):
        assert index.find(Digest(edge)) is None


def test_an_index_of_nothing_finds_nothing() -> None:
    index = DigestIndex(index_of(tree_of()))
    assert len(index) == 0
    assert index.find(digest.EMPTY) is None
    assert list(index) == []


def test_the_first_of_several_names_is_kept() -> None:
    """So that the same list names the same path in the same trouble."""
    index = DigestIndex(index_of(tree_of(regular(b"/a/z"), regular(b"/b"), regular(b"/c"))))
    (record,) = index
    assert record.ordinal == 3  # of `.`, `..`, `a`, `b` and `c`


def test_an_altered_byte_is_noticed() -> None:
    data = index_of(tree_of(*(regular(b"/%d" % at, b"%d" % at) for at in range(9))))
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 0x40
        if 24 <= at < 40 or 72 <= at < HEADER:
            continue  # the image's uuid, and what means nothing
        with pytest.raises(ImageDamaged):
            DigestIndex(bytes(damaged)).verify()


def test_an_index_of_another_length_is_refused() -> None:
    data = index_of(tree_of(regular(b"/a"), regular(b"/b", b"y")))
    for length in range(len(data)):
        with pytest.raises(ImageDamaged):
            DigestIndex(data[:length])
    with pytest.raises(ImageDamaged):
        DigestIndex(data + bytes(32))


@given(st.binary(max_size=200), st.binary(min_size=16, max_size=16))
def test_any_records_are_searched_without_a_fault(tail: bytes, wanted: bytes) -> None:
    """Unsorted, doubled, cut: what is found is what was asked for, or nothing."""
    data = index_of(tree_of())[:16]
    count = len(tail) // 32
    data += count.to_bytes(8, "little") + bytes(HEADER - 24) + tail[: count * 32]
    index = DigestIndex(data)
    for value in (wanted, tail[:16]):
        found = index.find(Digest(value))
        assert found is None or found.digest == value
