"""Looking things up in a tree, and that a tree gives back the entries it was made from."""

import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aysfs import digest
from aysfs.errors import PathMissing
from aysfs.flist import Entry, Kind
from aysfs.flist.rules import MAX_ID, MAX_TIME_NS, MIN_TIME_NS
from aysfs.tree import ROOT, Tree
from tests.trees import directory, regular, special, symlink, tree_of, written

BASE = b"/opt/x"


@pytest.fixture
def service() -> Tree:
    return tree_of(
        directory(BASE),
        directory(BASE + b"/bin"),
        regular(BASE + b"/bin/redis", b"program"),
        directory(BASE + b"/etc"),
        regular(BASE + b"/etc/conf", b"configuration"),
        symlink(BASE + b"/absolute", BASE + b"/etc/conf"),
        symlink(BASE + b"/bin/up", b"../etc/conf"),
        symlink(BASE + b"/chain", b"relative"),
        symlink(BASE + b"/dangling", b"nothing"),
        symlink(BASE + b"/folder", b"./bin/"),
        symlink(BASE + b"/home", BASE),
        symlink(BASE + b"/loop", b"loop"),
        symlink(BASE + b"/outside", b"/etc/conf"),
        symlink(BASE + b"/ping", b"pong"),
        symlink(BASE + b"/pong", b"ping"),
        symlink(BASE + b"/relative", b"etc/conf"),
        symlink(BASE + b"/similar", BASE + b"y/etc/conf"),
        symlink(BASE + b"/way-up", b"../../../../etc/conf"),
        base=BASE,
    )


# --- lookups ---------------------------------------------------------------------------------


def test_a_lookup_finds_exactly_the_names_of_a_directory() -> None:
    names = [b"a", b"aa", b"b", b"\xc3\xa9", b"\xff", b"A", b"-"]
    tree = tree_of(*(regular(b"/d/" + name) for name in names), regular(b"/z"))
    folder = tree.lookup(ROOT, b"d")
    assert folder is not None
    for name in names:
        node = tree.lookup(folder, name)
        assert node is not None
        assert (tree.names[node], tree.parent(node)) == (name, folder)
    for name in (b"", b"0", b"ab", b"z", b"~", b"\xff\xff"):
        assert tree.lookup(folder, name) is None
    assert [tree.names[node] for node in tree.children(folder)] == sorted(names)


def test_nothing_is_inside_a_file() -> None:
    tree = tree_of(regular(b"/f"))
    file = tree.resolve(b"/f")
    assert tree.lookup(file, b"x") is None
    assert list(tree.children(file)) == []


def test_the_root_is_its_own_parent(service: Tree) -> None:
    assert tree_of().parent(ROOT) == ROOT
    assert (service.path(ROOT), service.list_path(ROOT)) == (b"/", BASE)
    assert service.list_path(service.resolve(b"/bin/redis")) == BASE + b"/bin/redis"


def test_what_a_kind_does_not_have_is_empty() -> None:
    tree = tree_of(
        special(b"/dev", Kind.CHARACTER, ((b"rdev", b"1,3"),)),
        regular(b"/f", b"x", ((b"xattr.user.k", b"v"),)),
        symlink(b"/l", b"where"),
    )
    device, file, link = (tree.resolve(path, follow=False) for path in (b"dev", b"f", b"l"))
    assert [tree.rdev(node) for node in (device, file, link)] == [(1, 3), (0, 0), (0, 0)]
    assert [tree.target(node) for node in (device, file, link)] == [b"", b"", b"where"]
    assert [tree.xattrs(node) for node in (device, file)] == [{}, {b"user.k": b"v"}]
    assert tree.has_xattrs
    assert not tree_of(regular(b"/f")).has_xattrs


def test_a_walk_names_a_directory_before_what_it_holds(service: Tree) -> None:
    found = [service.path(node) for node in service.walk()]
    assert found[:6] == [b"/", b"/absolute", b"/bin", b"/bin/redis", b"/bin/up", b"/chain"]
    assert sorted(found, key=lambda path: path.split(b"/")) == found
    assert len(found) == len(set(found)) == len(service)
    below = [service.path(node) for node in service.walk(service.resolve(b"/bin"))]
    assert below == [b"/bin", b"/bin/redis", b"/bin/up"]


def test_a_listing_goes_on_where_it_stopped(service: Tree) -> None:
    whole = list(service.listing(ROOT))
    assert [one.node for one in whole] == list(service.children(ROOT))
    assert [one.name for one in whole] == [service.names[one.node] for one in whole]
    for number, one in enumerate(whole):
        assert list(service.listing(ROOT, one.after)) == whole[number + 1 :]
    assert list(service.listing(service.resolve(b"/etc/conf"))) == []


def test_paths_are_those_of_a_walk(service: Tree) -> None:
    for top in (ROOT, service.resolve(b"/bin"), service.resolve(b"/etc/conf")):
        nodes = list(service.walk(top))
        assert list(service.paths(top)) == [(service.path(node), node) for node in nodes]


@pytest.mark.parametrize(
    ("path", "shortest"),
    [
        (b"", b"/"),
        (b"/bin/redis", b"/bin/redis"),
        (b"//bin/.././folder/redis/", b"/bin/redis"),
        (b"absolute/../bin", None),
        (b"/folder", b"/folder"),
        (b"home/etc/conf", b"/etc/conf"),
        (BASE + b"/bin/up", b"/bin/up"),
        (b"../../bin/../etc", b"/etc"),
    ],
)
def test_a_located_path_is_the_shortest_one(
    service: Tree, path: bytes, shortest: bytes | None
) -> None:
    if shortest is None:
        with pytest.raises(PathMissing):
            service.locate(path, follow=False)
        return
    node, found = service.locate(path, follow=False)
    assert (found, service.path(node)) == (shortest, shortest)


def test_attributes_are_those_of_the_inode() -> None:
    first = regular(b"/a", b"content")
    tree = tree_of(
        first, first._replace(path=b"/b", ext=((b"hardlink", b"/a"),)), symlink(b"/l", b"xyz")
    )
    one, other, link = (
        tree.attributes(tree.resolve(path, follow=False)) for path in (b"a", b"b", b"l")
    )
    assert one == other
    assert (one.uid, one.gid, one.size, one.mtime_ns, one.nlink) == (1, 2, 7, 3, 2)
    assert stat.S_ISREG(one.mode)
    assert (link.size, link.nlink) == (3, 1)


# --- resolving -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"", b"/"),
        (b"/", b"/"),
        (b"bin/redis", b"/bin/redis"),
        (b"/bin/redis", b"/bin/redis"),
        (b"//bin///redis", b"/bin/redis"),
        (b"/bin/./../bin/redis", b"/bin/redis"),
        (b"/../../bin", b"/bin"),
        (BASE, b"/"),
        (BASE + b"/bin/redis", b"/bin/redis"),
        (b"/relative", b"/etc/conf"),
        (b"/absolute", b"/etc/conf"),
        (b"/chain", b"/etc/conf"),
        (b"/bin/up", b"/etc/conf"),
        (b"/folder", b"/bin"),
        (b"/folder/redis", b"/bin/redis"),
        (b"/folder/up", b"/etc/conf"),
        (b"/home", b"/"),
        (b"/home/home/bin", b"/bin"),
        (b"/way-up", b"/etc/conf"),
        (BASE + b"/home/absolute", b"/etc/conf"),
    ],
)
def test_a_path_resolves_as_the_mount_would_show_it(
    service: Tree, path: bytes, expected: bytes
) -> None:
    assert service.path(service.resolve(path)) == expected


@pytest.mark.parametrize(
    "path",
    [
        b"/nothing",
        b"/bin/nothing",
        b"/bin/redis/x",
        b"/dangling",
        b"/dangling/x",
        b"/loop",
        b"/loop/x",
        b"/ping",
        b"/outside",
        b"/similar",
        b"/opt",
        b"/opt/xy",
        b"/bin\0",
        b"/\xff",
    ],
)
def test_a_path_that_leads_nowhere_is_missing(service: Tree, path: bytes) -> None:
    with pytest.raises(PathMissing, match=r"^no such path in this service: "):
        service.resolve(path)


@pytest.mark.parametrize("name", [b"relative", b"dangling", b"loop", b"outside", b"folder"])
def test_without_following_the_last_link_is_itself(service: Tree, name: bytes) -> None:
    assert service.path(service.resolve(b"/" + name, follow=False)) == b"/" + name


def test_links_on_the_way_are_followed_in_any_case(service: Tree) -> None:
    node = service.resolve(b"/folder/up", follow=False)
    assert (service.path(node), service.target(node)) == (b"/bin/up", b"../etc/conf")


def test_forty_links_are_followed_and_no_more() -> None:
    links = [symlink(b"/%03d" % number, b"%03d" % (number + 1)) for number in range(41)]
    tree = tree_of(*links, regular(b"/041"))
    assert tree.path(tree.resolve(b"/001")) == b"/041"
    with pytest.raises(PathMissing):
        tree.resolve(b"/000")


def test_a_path_in_the_tree_goes_before_the_same_path_in_the_list() -> None:
    tree = tree_of(regular(b"/a/a/f", b"deep"), regular(b"/a/f", b"top"), base=b"/a")
    assert tree.digest(tree.resolve(b"/a/f")) == digest.of(b"deep")
    assert tree.digest(tree.resolve(b"/f")) == digest.of(b"top")


def test_a_thousand_levels_resolve() -> None:
    deep = b"/d" * 1000
    tree = tree_of(regular(deep + b"/f"))
    node = tree.resolve(deep + b"/f")
    assert tree.path(node) == deep + b"/f"
    assert [tree.path(one) for one in tree.walk()][-1] == deep + b"/f"
    assert tree.resolve(deep + b"/.." * 1000) == ROOT


# --- what goes in comes out --------------------------------------------------------------------

NAMES = st.binary(min_size=1, max_size=6).filter(
    lambda name: name not in (b".", b"..") and not set(name) & {0, 0x2F}
)
EXTS = {
    Kind.SYMLINK: NAMES.map(lambda target: ((b"target", target),)),
    Kind.BLOCK: st.just(((b"rdev", b"8,1"),)),
    Kind.CHARACTER: st.just(((b"rdev", b"1,3"),)),
    Kind.REGULAR: st.sampled_from([(), ((b"unknown", b"|&="),), ((b"xattr.user.k", b"\xff"),)]),
}


@st.composite
def entries_of_a_tree(draw: st.DrawFn) -> list[Entry]:
    """Entries of every kind, every directory among them."""
    directories = [b""]
    found: dict[bytes, Entry] = {}
    for name in draw(st.lists(NAMES, max_size=25)):
        path = draw(st.sampled_from(directories)) + b"/" + name
        if path in found:
            continue
        kind = draw(st.sampled_from(Kind))
        content = draw(st.binary(max_size=3)) if kind is Kind.REGULAR else None
        if kind is Kind.DIRECTORY:
            directories.append(path)
        found[path] = Entry(
            path,
            kind,
            draw(st.integers(0, 0o7777)),
            draw(st.integers(0, MAX_ID)),
            draw(st.integers(0, MAX_ID)),
            len(content or b""),
            digest.ZERO if content is None else digest.of(content),
            draw(st.integers(MIN_TIME_NS, MAX_TIME_NS)),
            draw(EXTS.get(kind, st.just(()))),
        )
    return list(found.values())


@given(entries_of_a_tree())
def test_a_tree_gives_back_the_entries_of_its_list(entries: list[Entry]) -> None:
    tree = tree_of(*entries)
    nodes = [node for node in tree.walk() if node != ROOT]
    assert {tree.path(node): tree.entry(node) for node in nodes} == {
        entry.path: entry for entry in entries
    }
    assert written([tree.entry(node) for node in nodes]) == written(entries)
    assert tree.total_size == sum(entry.size for entry in entries)
    for node in nodes:
        assert tree.resolve(tree.path(node), follow=False) == node
        assert tree.lookup(tree.parent(node), tree.names[node]) == node
    for node in tree.walk():
        names = [tree.names[child] for child in tree.children(node)]
        assert names == sorted(set(names))
