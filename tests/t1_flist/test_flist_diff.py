"""The differences of two lists."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aysfs import digest
from aysfs.flist import Change, ChangeKind, Entry, Ext, Kind, diff, encode_path


def regular(path: bytes, content: bytes = b"", mode: int = 0o644, ext: Ext = ()) -> Entry:
    return Entry(path, Kind.REGULAR, mode, 0, 0, len(content), digest.of(content), 0, ext)


def test_added_removed_changed() -> None:
    old = [regular(b"/a"), regular(b"/b", b"1"), regular(b"/c")]
    new = [regular(b"/b", b"22", 0o755), regular(b"/c"), regular(b"/d")]
    assert list(diff(old, new)) == [
        Change(ChangeKind.REMOVED, b"/a", old[0], None),
        Change(ChangeKind.CHANGED, b"/b", old[1], new[0], ("mode", "size", "digest")),
        Change(ChangeKind.ADDED, b"/d", None, new[2]),
    ]


def test_ext_keys_are_named() -> None:
    old = [regular(b"/a", ext=((b"sha256", b"1"), (b"xattr.user.a", b"1"), (b"z", b"")))]
    new = [regular(b"/a", ext=((b"sha256", b"2"), (b"xattr.user.b", b"1"), (b"z", b"")))]
    (change,) = diff(old, new)
    assert change.fields == ("ext.sha256", "ext.xattr.user.a", "ext.xattr.user.b")


def test_nothing_differs_from_itself_and_all_from_nothing() -> None:
    entries = [regular(b"/a"), regular(b"/b")]
    assert not list(diff(entries, entries))
    assert [change.kind for change in diff([], entries)] == [ChangeKind.ADDED] * 2
    assert [change.kind for change in diff(entries, [])] == [ChangeKind.REMOVED] * 2


def test_the_order_is_that_of_the_list() -> None:
    # As raw bytes `|` comes after `a`, as a list writes it (`%7C`) before.
    both = [regular(b"/|"), regular(b"/a")]
    assert [change.path for change in diff([], both)] == [b"/|", b"/a"]
    assert [change.path for change in diff(both, both[1:])] == [b"/|"]


@pytest.mark.parametrize("twice", [[b"/b", b"/a"], [b"/a", b"/a"]])
def test_unsorted_input_is_a_mistake_of_the_caller(twice: list[bytes]) -> None:
    entries = [regular(path) for path in twice]
    with pytest.raises(ValueError, match="new side is not sorted"):
        list(diff([], entries))
    with pytest.raises(ValueError, match="old side is not sorted"):
        list(diff(entries, []))


def test_it_streams() -> None:
    def endless() -> Iterator[Entry]:
        number = 0
        while True:
            yield regular(b"/%09d" % number)
            number += 1

    changes = diff(endless(), ())
    assert next(changes).path == b"/000000000"
    assert next(changes).path == b"/000000001"


trees = st.dictionaries(st.sampled_from([b"/a", b"/|", b"/%", b"/b", b"/c/d"]), st.binary())


@given(trees, trees)
def test_it_says_what_a_dictionary_would(old: dict[bytes, bytes], new: dict[bytes, bytes]) -> None:
    def entries(tree: dict[bytes, bytes]) -> list[Entry]:
        return [regular(path, tree[path]) for path in sorted(tree, key=encode_path)]

    found = {change.path: change.kind for change in diff(entries(old), entries(new))}
    assert {path for path, kind in found.items() if kind == "added"} == new.keys() - old.keys()
    assert {path for path, kind in found.items() if kind == "removed"} == old.keys() - new.keys()
    assert {path for path, kind in found.items() if kind == "changed"} == {
        path for path in old.keys() & new.keys() if old[path] != new[path]
    }
