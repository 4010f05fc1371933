"""Lists that contradict themselves or each other, in one tree."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aysfs import digest
from aysfs.errors import BadList
from aysfs.tree import Clash, TreeBuilder
from tests.t1_tree.lists import (
    build,
    directory,
    file,
    find,
    lineage,
    lineage_directory,
    lineage_file,
    paths,
    reader,
    refusal,
    symlink,
)

# --- one list that contradicts itself ----------------------------------------------------------


def test_the_same_path_twice_with_the_same_content_is_one_entry() -> None:
    tree = build(lineage(lineage_file("/f"), lineage_file("/g"), lineage_file("/f")))
    assert paths(tree) == [b"/", b"/f", b"/g"]
    assert tree.total_size == 2


def test_the_same_path_twice_with_different_content_is_refused_at_its_second_line() -> None:
    refused = refusal(lineage(lineage_file("/f"), lineage_file("/g"), lineage_file("/f", "other")))
    assert (refused.source, refused.line) == ("a.flist", 3)
    assert refused.reason == "the same path twice with different content: /f"


def test_the_same_directory_twice_is_one_when_nothing_differs() -> None:
    assert paths(build(lineage(lineage_directory("/d"), lineage_directory("/d")))) == [b"/", b"/d"]
    refused = refusal(lineage(lineage_directory("/d"), lineage_directory("/d", "700")))
    assert (refused.line, refused.reason) == (2, "the same path twice: /d")


@pytest.mark.parametrize(
    ("lines", "line"),
    [
        ([lineage_file("/x"), lineage_directory("/x")], 2),
        ([lineage_directory("/x"), lineage_file("/x")], 2),
        ([lineage_directory("/x"), lineage_file("/x/f"), lineage_file("/x")], 3),
        ([lineage_file("/x/f"), lineage_file("/x")], 2),
        ([lineage_file("/a"), lineage_file("/x"), lineage_file("/x/f")], 2),
    ],
    ids=["file-first", "directory-first", "with-content", "implied-first", "implied-last"],
)
def test_a_file_that_is_also_a_directory_is_refused(lines: list[str], line: int) -> None:
    refused = refusal(lineage(*lines))
    assert (refused.line, refused.reason) == (line, "a file that is also a directory: /x")


def test_a_symlink_with_entries_below_it_is_refused() -> None:
    refused = refusal(reader(symlink("/l", "/etc"), file("/l/passwd")))
    assert (refused.line, refused.reason) == (2, "a file that is also a directory: /l")


# --- several lists -----------------------------------------------------------------------------


def test_the_first_list_wins_a_clash_and_the_clash_is_kept() -> None:
    for count in (2, 3):
        builder = TreeBuilder()
        for number in range(count):
            builder.add(reader(file("/f", f"content {number}"), source=f"{number}.flist"))
        tree = builder.build()
        assert tree.digest(find(tree, b"/f")) == digest.of(b"content 0")
        assert builder.clashes == [
            Clash(b"/f", "0.flist", f"{number}.flist") for number in range(1, count)
        ]


def test_equal_content_in_two_lists_is_no_clash() -> None:
    builder = TreeBuilder()
    builder.add(reader(file("/f")))
    builder.add(reader(file("/f"), source="b.flist"))
    assert paths(builder.build()) == [b"/", b"/f"]
    assert builder.clashes == []


def test_a_directory_that_loses_to_a_file_takes_its_content_with_it() -> None:
    builder = TreeBuilder()
    builder.add(reader(file("/x")))
    builder.add(reader(directory("/x"), file("/x/f"), file("/y"), source="b.flist"))
    tree = builder.build()
    assert paths(tree) == [b"/", b"/x", b"/y"]
    assert tree.is_regular(find(tree, b"/x"))
    assert builder.clashes == [Clash(b"/x", "a.flist", "b.flist")]


def test_a_file_that_loses_to_a_directory_is_not_shown() -> None:
    builder = TreeBuilder()
    builder.add(reader(file("/x/f")))
    builder.add(reader(file("/x"), source="b.flist"))
    tree = builder.build()
    assert paths(tree) == [b"/", b"/x", b"/x/f"]
    assert builder.clashes == [Clash(b"/x", "a.flist", "b.flist")]


def test_directories_of_two_lists_are_joined_with_the_first_lists_attributes() -> None:
    tree = build(
        reader(directory("/d", mode="0711"), file("/d/one")),
        reader(directory("/d", mode="0755"), file("/d/two"), source="b.flist"),
    )
    assert paths(tree) == [b"/", b"/d", b"/d/one", b"/d/two"]
    assert tree.entry(find(tree, b"/d")).mode == 0o711


@pytest.mark.parametrize(
    "second",
    [
        directory("/d", mode="0755"),
        directory("/d", uid=7),
        directory("/d", ext="xattr.user.a=b"),
    ],
    ids=["mode", "owner", "xattr"],
)
def test_a_directory_that_two_lists_describe_differently_is_a_clash(second: str) -> None:
    builder = TreeBuilder()
    builder.add(reader(file("/d/implied")))
    builder.add(reader(directory("/d"), source="b.flist"))
    builder.add(reader(second, source="c.flist"))
    tree = builder.build()
    assert builder.clashes == [Clash(b"/d", "b.flist", "c.flist")]
    assert tree.entry(find(tree, b"/d")).mode == 0o700


def test_a_directory_of_two_lists_with_other_times_is_no_clash() -> None:
    builder = TreeBuilder()
    builder.add(reader(directory("/d")))
    builder.add(reader(directory("/d").replace("2.0", "3.0"), source="b.flist"))
    builder.build()
    assert builder.clashes == []


CONTRADICTION = [file("/x"), file("/x/y")]


@pytest.mark.parametrize(
    ("before", "lines", "after", "line"),
    [
        ([], CONTRADICTION, [directory("/x")], 2),
        ([directory("/x")], CONTRADICTION, [], 2),
        ([file("/x/other")], CONTRADICTION, [], 2),
        ([file("/x")], CONTRADICTION, [], 2),
        ([file("/x", "0")], [directory("/x"), file("/x/f"), file("/x/f", "2")], [], 4),
        ([directory("/x/d")], [file("/x"), directory("/x/d")], [], 2),
        ([directory("/x")], [directory("/x"), directory("/x", "0755")], [], 3),
        ([directory("/x")], [file("/x", "1"), file("/x", "2")], [], 3),
    ],
    ids=[
        "directory-after",
        "directory-before",
        "implied-before",
        "both-hidden",
        "below-a-hidden-directory",
        "named-by-both",
        "directory-twice",
        "file-twice",
    ],
)
def test_a_list_that_contradicts_itself_is_refused_whatever_others_say(
    before: list[str], lines: list[str], after: list[str], line: int
) -> None:
    others = [reader(*before, source="before"), reader(*lines), reader(*after, source="after")]
    with pytest.raises(BadList) as refused:
        build(*others)
    assert (refused.value.source, refused.value.line) == ("a.flist", line)


SOME_PATHS = st.sampled_from(["/a", "/b", "/a/a", "/a/b", "/a/a/a", "/a/a/b", "/b/a"])
SOME_LINES = st.builds(
    lambda path, kind: (
        directory(path, mode=f"070{kind}") if kind < 2 else file(path, content=str(kind))
    ),
    SOME_PATHS,
    st.integers(0, 3),
)


def is_refused(*lists: list[str]) -> bool:
    try:
        build(*(reader(*lines) for lines in lists))
    except BadList:
        return True
    return False


@given(st.lists(st.lists(SOME_LINES, max_size=4), min_size=1, max_size=3))
def test_lists_are_refused_together_when_one_is_refused_alone(lists: list[list[str]]) -> None:
    assert is_refused(*lists) == any(is_refused(lines) for lines in lists)


def test_what_a_loser_carried_is_gone() -> None:
    tree = build(
        reader(file("/f", "one")),
        reader(file("/f", "two", ext="xattr.user.a=b"), source="b.flist"),
    )
    assert not tree.has_xattrs
    assert tree.xattrs(find(tree, b"/f")) == {}
