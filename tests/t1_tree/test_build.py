"""From lists to one tree: bases, implied parents, clashes, hard links, and every refusal."""

import io
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aysfs import digest
from aysfs.errors import BadList
from aysfs.flist import FlistReader, Header
from aysfs.tree import ROOT, Clash, Node, Tree, TreeBuilder, choose_base

LISTED = 5_000_000_000
ZEROS = "0" * 32


def file(path: str, content: str = "x", mode: str = "0644", ext: str = "") -> str:
    data = content.encode()
    return (
        f"{path}|{digest.of(data).hex()}|{len(data)}|0|0|{mode}|2|1.000000000|1.000000000|{ext}\n"
    )


def directory(path: str, mode: str = "0700", uid: int = 0, ext: str = "") -> str:
    return f"{path}|{ZEROS}|0|{uid}|0|{mode}|4|2.000000000|2.000000000|{ext}\n"


def symlink(path: str, target: str) -> str:
    return f"{path}|{ZEROS}|0|0|0|0777|1|1.000000000|1.000000000|target={target}\n"


def lineage_file(path: str, content: str = "x") -> str:
    return f"{path}|{digest.of(content.encode()).hex()}|{len(content)}\n"


def lineage_directory(path: str, mode: str = "755") -> str:
    return f"{path}|{ZEROS}|0|0|0|{mode}|4|1|1|\n"


def reader(*lines: str, source: str = "a.flist", header: str = "#flist 2\n") -> FlistReader:
    data = (header + "".join(lines)).encode()
    return FlistReader(io.BytesIO(data), source=source, mtime_ns=LISTED)


def lineage(*lines: str, source: str = "a.flist") -> FlistReader:
    return reader(*lines, source=source, header="")


def build(*lists: FlistReader, base: bytes = b"/") -> Tree:
    builder = TreeBuilder(base)
    for one in lists:
        builder.add(one, mtime_ns=LISTED)
    return builder.build()


def paths(tree: Tree) -> list[bytes]:
    return [tree.path(node) for node in tree.walk()]


def find(tree: Tree, path: bytes) -> Node:
    return tree.resolve(path, follow=False)


def refusal(*lists: FlistReader) -> BadList:
    with pytest.raises(BadList) as caught:
        build(*lists)
    return caught.value


# --- bases -----------------------------------------------------------------------------------

V2 = Header(2)
BASED = Header(2, b"/opt/listed")


@pytest.mark.parametrize(
    ("header", "given", "point", "listed", "expected"),
    [
        (BASED, b"/given", b"/mnt", [b"/mnt/a"], b"/given"),
        (BASED, None, b"/mnt", [b"/mnt/a"], b"/opt/listed"),
        (V2, None, b"/mnt", [b"/mnt/a", b"/mnt/b/c"], b"/mnt"),
        (V2, None, b"/mnt", [b"/mnt", b"/mnt/a"], b"/mnt"),
        (V2, None, b"/mnt", [b"/mnt/a", b"/mntb/c"], b"/"),
        (V2, None, b"/mnt", [b"/", b"/mnt/a"], b"/"),
        (V2, None, None, [b"/mnt/a"], b"/"),
        (V2, None, b"/", [b"/mnt/a"], b"/"),
        (V2, b"/given", None, [], b"/given"),
        (BASED, b"/", None, [], b"/"),
        (V2, b"/given/", None, [], b"/given"),
    ],
    ids=[
        "given-wins",
        "the-lists-own",
        "the-mount-point-when-all-lies-below",
        "the-mount-point-itself-is-below",
        "a-longer-name-is-not-below",
        "a-listed-root-is-not-below",
        "no-mount-point",
        "mount-point-is-the-root",
        "given-without-mount-point",
        "everything-although-a-base-is-listed",
        "trailing-slash",
    ],
)
def test_the_base_of_a_mount(
    header: Header, given: bytes | None, point: bytes | None, listed: list[bytes], expected: bytes
) -> None:
    assert choose_base(header, given, point, listed) == expected


def test_paths_are_only_read_when_they_decide() -> None:
    unread = iter([b"/mnt/a"])
    assert choose_base(V2, b"/x", b"/mnt", unread) == b"/x"
    assert choose_base(BASED, None, b"/mnt", unread) == b"/opt/listed"
    assert next(unread) == b"/mnt/a"


def test_the_root_shows_the_base_and_what_is_outside_is_counted() -> None:
    builder = TreeBuilder(b"/opt/x")
    builder.add(
        reader(
            file("/etc/passwd"),
            directory("/opt/x", mode="0711", uid=7),
            file("/opt/x/a"),
            file("/opt/xy"),
        )
    )
    tree = builder.build()
    assert paths(tree) == [b"/", b"/a"]
    assert builder.outside == 2
    assert (stat.S_IMODE(tree.modes[ROOT]), tree.columns.uids[ROOT]) == (0o711, 7)
    assert tree.list_path(ROOT) == b"/opt/x"
    assert tree.list_path(find(tree, b"/a")) == b"/opt/x/a"


def test_each_list_may_have_its_own_base() -> None:
    builder = TreeBuilder(b"/opt/a")
    builder.add(reader(file("/opt/a/one")))
    builder.add(reader(file("/opt/b/two"), source="b.flist"), b"/opt/b")
    assert paths(builder.build()) == [b"/", b"/one", b"/two"]


def test_a_base_that_is_a_file_is_refused() -> None:
    builder = TreeBuilder(b"/opt/x")
    with pytest.raises(BadList, match=r"^a\.flist:2: the base of a list must be a directory$"):
        builder.add(reader(file("/opt/x")))


def test_a_list_without_entries_is_an_empty_tree() -> None:
    tree = build(reader())
    assert paths(tree) == [b"/"]
    assert (len(tree), tree.total_size, tree.columns.nlinks[ROOT]) == (1, 0, 2)


# --- directories -----------------------------------------------------------------------------


def test_parents_are_implied_with_root_0755_and_the_lists_time() -> None:
    tree = build(reader(file("/a/b/c"), directory("/d/e/f")))
    for path in (b"/a", b"/a/b", b"/d", b"/d/e"):
        entry = tree.entry(find(tree, path))
        assert (entry.mode, entry.uid, entry.gid) == (0o755, 0, 0)
        assert entry.mtime_ns == LISTED


def test_the_root_of_a_list_that_does_not_name_it_has_the_lists_time() -> None:
    assert build(reader(file("/a"))).entry(ROOT).mtime_ns == LISTED
    assert build(reader(directory("/"), file("/a"))).entry(ROOT).mtime_ns == 2_000_000_000


def test_a_listed_directory_keeps_its_attributes_whether_its_line_comes_first_or_last() -> None:
    lines = [lineage_directory("/d", "711"), lineage_file("/d/f")]
    for order in (lines, lines[::-1]):
        tree = build(lineage(*order))
        assert tree.entry(find(tree, b"/d")).mode == 0o711
        assert paths(tree) == [b"/", b"/d", b"/d/f"]


def test_children_are_sorted_as_bytes_not_as_the_list_orders_them() -> None:
    # In the list `%25` comes before `-`, and bytes over 0x7f are text; in the tree `%` is `%`.
    tree = build(reader(file("/%25z"), file("/%FF"), file("/-"), file("/A"), file("/a")))
    assert [tree.names[node] for node in tree.children(ROOT)] == [b"%z", b"-", b"A", b"a", b"\xff"]


def test_link_counts_of_directories() -> None:
    tree = build(reader(file("/a/b/f"), file("/a/c/f"), file("/a/f"), symlink("/l", "a")))
    counts = {path: tree.columns.nlinks[find(tree, path)] for path in paths(tree)}
    assert counts == {
        b"/": 3,
        b"/a": 4,
        b"/a/b": 2,
        b"/a/b/f": 1,
        b"/a/c": 2,
        b"/a/c/f": 1,
        b"/a/f": 1,
        b"/l": 1,
    }


def test_lists_may_nest_a_thousand_deep() -> None:
    deep = "/d" * 1000
    for one in (reader(file(f"{deep}/f")), reader(directory(deep), file(f"{deep}/f"))):
        tree = build(one)
        assert len(tree) == 1002
        assert tree.path(find(tree, f"{deep}/f".encode())) == f"{deep}/f".encode()


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


# --- hard links --------------------------------------------------------------------------------


def test_hard_links_share_the_inode_of_the_name_that_comes_first() -> None:
    tree = build(
        reader(
            file("/a", ext="xattr.user.k=v"),
            file("/b", ext="hardlink=/a"),
            file("/d/c", ext="hardlink=/a"),
            file("/single"),
        )
    )
    first = find(tree, b"/a")
    for path in (b"/a", b"/b", b"/d/c"):
        node = find(tree, path)
        assert tree.inode(node) == first
        assert tree.columns.nlinks[node] == 3
        assert tree.xattrs(node) == {b"user.k": b"v"}
    single = find(tree, b"/single")
    assert (tree.inode(single), tree.columns.nlinks[single]) == (single, 1)


@pytest.mark.parametrize(
    "lines",
    [
        [file("/b", ext="hardlink=/a")],
        [directory("/a"), file("/b", ext="hardlink=/a")],
        [file("/a", "other"), file("/b", ext="hardlink=/a")],
        [file("/a", mode="0600"), file("/b", ext="hardlink=/a")],
    ],
    ids=["nothing", "directory", "other-content", "other-mode"],
)
def test_a_hard_link_to_another_or_no_file_is_refused_with_its_line(lines: list[str]) -> None:
    refused = refusal(reader(*lines))
    assert refused.line == 1 + len(lines)
    assert refused.reason == "a hard link to another or no file: /a"


def test_a_hard_link_to_a_hard_link_is_refused() -> None:
    lines = [file("/a"), file("/b", ext="hardlink=/a"), file("/c", ext="hardlink=/b")]
    refused = refusal(reader(*lines))
    assert (refused.line, refused.reason) == (4, "a hard link to another or no file: /b")


def test_a_hard_link_to_a_name_outside_the_base_is_a_file_of_its_own() -> None:
    tree = build(reader(file("/etc/a"), file("/opt/b", ext="hardlink=/etc/a")), base=b"/opt")
    node = find(tree, b"/b")
    assert (tree.inode(node), tree.columns.nlinks[node]) == (node, 1)


def test_a_hard_link_whose_first_name_lost_a_clash_is_a_file_of_its_own() -> None:
    for winner in (file("/a", "other"), file("/a"), directory("/a"), symlink("/a", "z")):
        tree = build(
            reader(winner, source="winner.flist"),
            reader(file("/a"), file("/b", ext="hardlink=/a")),
        )
        node = find(tree, b"/b")
        assert tree.digest(node) == digest.of(b"x")
        assert (tree.inode(node), tree.columns.nlinks[node]) == (node, 1)
