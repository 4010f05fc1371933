"""An image reads as the tree that it was made from, and damage is one clear error."""

import io
import random
import struct
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given

from aysfs import digest as digests
from aysfs.chunks import Chunks
from aysfs.errors import ImageDamaged, PathMissing
from aysfs.flist import Entry, Kind
from aysfs.image import DigestIndex, ImageTree, erofs, write_image
from aysfs.limits import CHUNK, LARGE
from aysfs.tree import ROOT, Node, Tree, TreeView
from tests.trees import CAPABILITY, directory, lists, regular, special, symlink, tree_of

MUTATIONS = 4000


def compiled(tree: Tree) -> tuple[bytes, DigestIndex]:
    image, index = io.BytesIO(), io.BytesIO()
    write_image(tree, image, index)
    return image.getvalue(), DigestIndex(index.getvalue())


def read(data: bytes, base: bytes = b"/") -> ImageTree:
    return ImageTree(data, source="t.erofs", base=base)


def image_tree(tree: Tree, base: bytes = b"/") -> ImageTree:
    return read(compiled(tree)[0], base)


def seen(view: TreeView, node: Node) -> tuple[object, ...]:
    """All that a view says of an inode."""
    return (
        view.attributes(node),
        view.digest(view.inode(node)),
        view.target(node),
        view.rdev(node),
        view.xattrs(node),
        view.chunks(node),
        view.is_regular(node),
        view.is_directory(node),
    )


def everything(view: TreeView) -> dict[bytes, tuple[object, ...]]:
    return {path: seen(view, node) for path, node in view.paths()}


@given(lists())
def test_an_image_reads_as_its_tree(entries: list[Entry]) -> None:
    tree = tree_of(*entries)
    image = image_tree(tree)
    assert everything(image) == everything(tree)
    assert [path for path, _ in image.paths()] == [path for path, _ in tree.paths()]
    assert (len(image), image.total_size, image.base) == (len(tree), tree.total_size, b"/")
    assert image.has_xattrs == any(tree.xattrs(node) for node in tree.walk())
    for path, node in image.paths():
        known = tree.resolve(path, follow=False)
        assert image.resolve(path, follow=False) == node
        # Of several names in one directory it may be any: an image knows an inode's directory.
        named = tree.resolve(image.path(image.inode(node)), follow=False)
        assert tree.inode(named) == tree.inode(known)
        assert tree.parent(named) == tree.parent(tree.inode(known))
        assert image.path(image.parent(node)) == tree.path(tree.parent(tree.inode(known)))
        assert 0 <= node < image.end


@given(lists())
def test_every_record_of_an_index_leads_to_a_path_of_its_digest(entries: list[Entry]) -> None:
    tree = tree_of(*entries)
    data, index = compiled(tree)
    image = read(data)
    for record in index:
        path = image.path_of(record.directory, record.ordinal)
        node = tree.resolve(path, follow=False)
        assert (tree.digest(node), tree.attributes(node).size) == (record.digest, record.size)
        node = image.resolve(path, follow=False)
        assert image.digest(node) == record.digest


def large(path: bytes, size: int, *ext: tuple[bytes, bytes]) -> Entry:
    return regular(path, b"large", tuple(sorted(ext)))._replace(size=size)


def test_an_image_has_the_chunks_of_large_files_and_no_others() -> None:
    cut = Chunks(CHUNK, digests.of(b"index"))
    chunks, fine = (b"chunks", cut.value), (b"chunks", Chunks(1, cut.digest).value)
    user = (b"xattr.user.a", b"v" * 300)
    tree = tree_of(
        large(b"/a", LARGE + 1, chunks),
        large(b"/b", LARGE + 2, chunks, user)._replace(digest=digests.of(b"b")),
        large(b"/c", LARGE + 1, chunks, (b"hardlink", b"/a")),
        large(b"/d", LARGE, chunks)._replace(digest=digests.of(b"d")),
        large(b"/e", 1 << 42, fine)._replace(digest=digests.of(b"e")),
        large(b"/f", 9 << 40)._replace(digest=digests.of(b"f")),
    )
    data, index = compiled(tree)
    image = read(data)
    assert everything(image) == everything(tree)
    for path, wanted in zip(
        (b"/a", b"/b", b"/c", b"/d", b"/e", b"/f"), (cut,) * 3 + (None,) * 3, strict=True
    ):
        node = image.resolve(path)
        assert image.chunks(node) == wanted
        record = index.find(image.digest(node))
        assert record is not None
        assert image.chunks(image.node_of(record.directory, record.ordinal)) == wanted
    assert image.xattrs(image.resolve(b"/b")) == {b"user.a": b"v" * 300}
    assert image.has_xattrs
    assert not image_tree(tree_of(large(b"/a", LARGE + 1, chunks))).has_xattrs


BASE = b"/opt/x"


def service(base: bytes = b"/") -> Tree:
    return tree_of(
        directory(BASE),
        directory(BASE + b"/bin"),
        regular(BASE + b"/bin/redis", b"program", ((b"xattr.user.a", b"b"),)),
        regular(BASE + b"/bin/again", b"program", ((b"hardlink", BASE + b"/bin/!"),)),
        regular(BASE + b"/bin/!", b"program"),
        symlink(BASE + b"/bin/up", b"../absolute"),
        symlink(BASE + b"/absolute", BASE + b"/bin/redis"),
        symlink(BASE + b"/outside", b"/usr/bin"),
        special(BASE + b"/null", Kind.CHARACTER, ((b"rdev", b"1,3"),)),
        regular(BASE + b"/ping", b"p", ((b"xattr.security.capability", CAPABILITY),)),
        *(regular(BASE + b"/many/%04d" % at + b"x" * 200, b"%d" % at) for at in range(300)),
        regular(b"/usr/bin/other"),
        base=base,
    )


def test_a_directory_of_an_image_can_be_its_root() -> None:
    image, tree = image_tree(service(), BASE), service(BASE)
    assert everything(image) == everything(tree)
    assert image.base == BASE
    alone = tree_of(directory(BASE), regular(BASE + b"/f"))
    assert (len(image_tree(alone)), len(image_tree(alone, BASE))) == (4, 2)
    assert image.list_path(ROOT) == BASE
    assert image.parent(image.resolve(b"/bin")) == ROOT
    assert image.parent(ROOT) == ROOT
    for path in (b"/bin/up", BASE + b"/bin/up", b"../../bin/up", b"/bin/./redis", b"/absolute"):
        assert image.path(image.resolve(path)) == b"/bin/redis"
        assert image.list_path(image.resolve(path)) == BASE + b"/bin/redis"
    for path in (b"/outside", b"/usr", b"/bin/redis/x", b"/opt"):
        with pytest.raises(PathMissing):
            image.resolve(path)


@pytest.mark.parametrize("base", [b"/nothing", BASE + b"/ping", BASE + b"/bin/up"])
def test_only_a_directory_can_be_the_root(base: bytes) -> None:
    with pytest.raises(PathMissing, match="no directory"):
        image_tree(service(), base)


def test_a_listing_goes_on_where_it_stopped() -> None:
    image = image_tree(service())
    folder = image.resolve(BASE + b"/many")
    whole = list(image.listing(folder))
    assert len(whole) == 300
    for number, one in enumerate(whole):
        assert next(image.listing(folder, one.after), None) == (
            whole[number + 1] if number + 1 < len(whole) else None
        )
    assert list(image.listing(image.resolve(BASE + b"/ping"))) == []


def test_names_around_those_of_a_large_directory_are_not_found() -> None:
    image = image_tree(service())
    folder = image.resolve(BASE + b"/many")
    for one in image.listing(folder):
        assert image.lookup(folder, one.name) == one.node
        for other in (one.name[:-1], one.name + b"x", one.name[:4] + b"y"):
            assert image.lookup(folder, other) is None
    for name in (b"", b".", b"..", b"\xff"):
        assert image.lookup(folder, name) is None


# --- damage ----------------------------------------------------------------------------------


def patched(data: bytes, at: int, new: bytes) -> bytes:
    """The image with other bytes somewhere, and a superblock that agrees."""
    changed = bytearray(data)
    changed[at : at + len(new)] = new
    if len(changed) >= erofs.BLOCK:
        changed[1028:1032] = bytes(4)
        checksum = erofs.superblock_checksum(changed[1024 : erofs.BLOCK])
        changed[1028:1032] = checksum.to_bytes(4, "little")
    return bytes(changed)


def place(image: ImageTree, path: bytes) -> int:
    """Where the inode of a path stands."""
    return (image.resolve(path, follow=False) or erofs.ROOT_NID) * erofs.SLOT


def use_all(data: bytes) -> int:
    """Read everything that an image offers; how many entries it showed."""
    image = read(data)
    count = 0
    for path, node in image.paths():
        count += 1
        seen(image, node)
        image.path(node)
        image.lookup(image.parent(node), path.rpartition(b"/")[2])
        assert count < 1000, "no end of entries"
    return count


def test_a_directory_in_a_loop_is_refused() -> None:
    data, _ = compiled(tree_of(directory(b"/a"), directory(b"/a/b"), regular(b"/a/b/f")))
    image = read(data)
    above, below = (place(image, path) for path in (b"/a", b"/a/b"))
    entry = data.index(struct.pack("<Q", image.resolve(b"/a/b/f")), below)
    for nid in (above // erofs.SLOT, erofs.ROOT_NID, below // erofs.SLOT):
        looped = patched(data, entry, struct.pack("<Q", nid))
        with pytest.raises(ImageDamaged, match="where it does not belong"):
            use_all(looped)


def test_parents_in_a_loop_are_refused() -> None:
    data, _ = compiled(tree_of(directory(b"/a"), directory(b"/a/b"), regular(b"/a/b/f")))
    image = read(data)
    a, b = (place(image, path) for path in (b"/a", b"/a/b"))
    file = image.resolve(b"/a/b/f")
    looped = patched(data, a + 20 + 4 * (data[a] & 1), struct.pack("<I", b // erofs.SLOT))
    with pytest.raises(ImageDamaged):
        read(looped).path(file)


Damage = Callable[[bytes, ImageTree], tuple[int, bytes]]

DAMAGES: dict[str, Damage] = {
    "another file": lambda data, image: (1024, b"\0\0\0\0"),
    "another version": lambda data, image: (1024 + 64, b"aysfs-0"),
    "another block size": lambda data, image: (1024 + 12, b"\x09"),
    "a feature": lambda data, image: (1024 + 80, b"\x05"),
    "fewer blocks": lambda data, image: (1024 + 36, b"\1\0\0\0"),
    "a root outside": lambda data, image: (1024 + 14, b"\xff\xff"),
    "a root in the superblock": lambda data, image: (1024 + 14, b"\x20\0"),
    "a layout": lambda data, image: (place(image, b"/d"), b"\x0f"),
    "a kind": lambda data, image: (place(image, b"/d") + 4, b"\0\0"),
    "attributes beyond the end": lambda data, image: (place(image, b"/x") + 2, b"\xff\xff"),
    "shared attributes beyond": lambda data, image: (place(image, b"/x") + 36, b"\xff"),
    "an unknown attribute": lambda data, image: (data.index(b"user.k"[5:] + b"vvvv") - 3, b"\5"),
    "a block outside": lambda data, image: (place(image, b"/big") + 16, b"\xff\xff\0\0"),
    "a redirect elsewhere": lambda data, image: (data.index(b"/9/d/9dd4e461268"), b"/../"),
    "a redirect in another folder": lambda data, image: (data.index(b"/9/d/9dd4e461268"), b"/8"),
    "a name with a slash": lambda data, image: (data.index(b"zebra"), b"ze/ra"),
    "a name with NUL": lambda data, image: (data.index(b"zebra"), b"ze\0ra"),
    "names out of order": lambda data, image: (data.index(b"zebra"), b"aebra"),
    "NUL in a target": lambda data, image: (data.index(b"somewhere"), b"some\0here"),
    "an endless directory": lambda data, image: (place(image, b"/d") + 8, b"\xff\xff\xff\x7f"),
}


def sample() -> Tree:
    entries = [
        directory(b"/d"),
        regular(b"/d/zebra"),
        regular(b"/d/x"),
        symlink(b"/l", b"somewhere"),
        regular(b"/x", b"x", ((b"xattr.user.k", b"vvvv"),)),
        directory(b"/big"),
        *(regular(b"/big/" + b"%03d" % at + b"n" * 200, b"%d" % at) for at in range(40)),
        special(b"/fifo", Kind.FIFO),
    ]
    return tree_of(*entries)


def test_the_sample_is_whole() -> None:
    data, _ = compiled(sample())
    assert use_all(data) == len(sample())
    assert patched(data, 0, b"") == data


@pytest.mark.parametrize("what", DAMAGES)
def test_damage_is_named(what: str) -> None:
    data, _ = compiled(sample())
    damaged = patched(data, *DAMAGES[what](data, read(data)))
    assert damaged != data
    with pytest.raises(ImageDamaged, match=r"t\.erofs: damaged tree image: "):
        use_all(damaged)


def test_a_superblock_whose_checksum_is_wrong_is_refused() -> None:
    data = bytearray(compiled(sample())[0])
    data[1200] ^= 1
    with pytest.raises(ImageDamaged, match="superblock was altered"):
        read(bytes(data))


def test_every_length_but_the_right_one_is_refused() -> None:
    data, _ = compiled(sample())
    for length in [*range(0, len(data), 61), len(data) - 1, len(data) - erofs.BLOCK]:
        with pytest.raises(ImageDamaged):
            read(data[:length])
    with pytest.raises(ImageDamaged):
        read(data + bytes(erofs.BLOCK))


def mutations() -> Iterator[bytes]:
    """The sample with one to three small damages, the superblock agreeing."""
    source = random.Random(20151204)
    data, _ = compiled(sample())
    interesting = [bytes(1), b"\xff", b"\x80", bytes(4), b"\xff" * 4, b"\x7f\xff", b"/", b".", b"@"]
    for _ in range(MUTATIONS):
        changed = data
        for _ in range(source.randint(1, 3)):
            at = source.randrange(1024, len(data) - 8)
            new = source.choice([*interesting, source.randbytes(source.randint(1, 8))])
            if source.randrange(4) == 0:  # what stands elsewhere, where it does not belong
                other = source.randrange(1024, len(data) - 64) // 4 * 4
                at, new = at // 4 * 4, data[other : other + source.choice([4, 8, 32, 64])]
            changed = patched(changed, at, new)[: len(data)]
        yield changed


def test_any_damage_is_one_clear_refusal_or_none() -> None:
    refusals = []
    for damaged in mutations():
        try:
            use_all(damaged)
        except ImageDamaged as error:
            refusals.append(str(error))
    assert all(words.isprintable() for words in refusals)
    refused = len(refusals)
    assert MUTATIONS / 10 < refused < MUTATIONS * 9 / 10, refused
