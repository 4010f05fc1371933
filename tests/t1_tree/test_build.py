"""From lists to one tree: bases, implied parents, hard links."""

import stat

import pytest

from aysfs import digest
from aysfs.errors import BadList
from aysfs.flist import Header
from aysfs.tree import ROOT, TreeBuilder, choose_base
from tests.t1_tree.lists import (
    LISTED,
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
