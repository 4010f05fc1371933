"""Clashes of compiled trees are those that joining the lists finds."""

from hypothesis import given
from hypothesis import strategies as st

from aysfs.tree import TreeBuilder
from aysfs.tree.clashes import find_clashes
from tests.t1_tree.lists import build, directory, file, reader, symlink

NAMES = st.sampled_from("abc")
FILES = st.sampled_from(["1", "2", "3"])
NESTED = st.recursive(
    st.one_of(FILES, st.sampled_from(["link:x", "link:y"])),
    lambda inner: st.tuples(
        st.sampled_from(["0700", "0755"]), st.dictionaries(NAMES, inner, max_size=3)
    ),
    max_leaves=8,
)
TREES = st.dictionaries(NAMES, NESTED, min_size=1, max_size=3)


def lines_of(tree: dict[str, object], top: str = "") -> list[str]:
    """A list that names every directory."""
    lines = []
    for name, what in sorted(tree.items()):
        path = f"{top}/{name}"
        if isinstance(what, tuple):
            mode, inner = what
            lines.append(directory(path, mode=mode))
            lines.extend(lines_of(inner, path))
        else:
            assert isinstance(what, str)
            kind, _, target = what.partition(":")
            lines.append(symlink(path, target) if kind == "link" else file(path, what))
    return lines


@given(st.lists(TREES, min_size=2, max_size=4))
def test_both_ways_to_join_lists_find_the_same(trees: list[dict[str, object]]) -> None:
    lists = [lines_of(tree) for tree in trees]
    sources = [f"{number}.flist" for number in range(len(lists))]
    joined = TreeBuilder()
    for lines, source in zip(lists, sources, strict=True):
        joined.add(reader(*lines, source=source))
    joined.build()
    found = find_clashes([build(reader(*lines)) for lines in lists], sources)
    if len(lists) == 2:
        assert sorted(found) == sorted(joined.clashes)
    else:  # joining tells also of clashes among those that lose anyway
        told = {one.path for one in found}
        assert told <= {one.path for one in joined.clashes}
        hidden = {one.path for one in joined.clashes} - told
        assert all(any(path.startswith(one + b"/") for one in told) for path in hidden)
