"""The same tree is the same image, what no image can hold is refused, and memory stays small."""

import hashlib
import io
import tracemalloc
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given

from aysfs.errors import ImageRefused
from aysfs.flist import Entry, FlistReader, Header, Kind
from aysfs.image import WRITER_VERSION, ImageTree, erofs, write_image
from aysfs.tree import Tree, TreeBuilder
from tests.trees import directory, lists, regular, special, symlink, tree_of

GOLDEN = Path(__file__).parent.parent / "golden" / "lists"


def image_of(tree: Tree) -> tuple[bytes, bytes]:
    image, index = io.BytesIO(), io.BytesIO()
    write_image(tree, image, index)
    return image.getvalue(), index.getvalue()


def read(path: Path) -> Tree:
    builder = TreeBuilder(b"/")
    with open(path, "rb") as file:
        reader = FlistReader(file, source=path.name, mtime_ns=0, resolve=lambda *_: None)
        builder.add(reader)
    return builder.build()


class Unchecked:
    """Entries that no list could hold, as a source of entries."""

    source, line, header = "unchecked", 1, Header(2)

    def __init__(self, *entries: Entry) -> None:
        self.entries = entries

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)


@given(lists())
def test_the_same_tree_is_the_same_image(entries: list[Entry]) -> None:
    first = image_of(tree_of(*entries))
    assert image_of(tree_of(*reversed(entries))) == first


def test_another_tree_is_another_image_with_another_uuid() -> None:
    one, other = (image_of(tree_of(regular(b"/" + name)))[0] for name in (b"a", b"b"))
    assert one != other
    uuids = [image[1024 + 48 : 1024 + 64] for image in (one, other)]
    assert uuids[0] != uuids[1]
    assert all(any(uuid) for uuid in uuids)


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.flist")), ids=lambda path: path.stem)
def test_images_of_released_lists_stay_as_they_are(path: Path) -> None:
    """Images are cached and published by the writer's version: other bytes need another."""
    assert WRITER_VERSION == 2
    found = [hashlib.sha256(part).hexdigest()[:16] for part in image_of(read(path))]
    assert found == IMAGES[path.stem]


def test_the_checksum_is_that_of_its_block() -> None:
    image, _ = image_of(tree_of(regular(b"/a")))
    block = bytearray(image[1024:4096])
    checksum = int.from_bytes(block[4:8], "little")
    block[4:8] = bytes(4)
    assert erofs.superblock_checksum(block) == checksum
    block[200] ^= 1
    assert erofs.superblock_checksum(block) != checksum


def test_the_checksum_is_crc32c() -> None:
    """The known answer of crc32c for `123456789`, before its last inversion."""
    assert erofs.superblock_checksum(b"123456789") ^ 0xFFFFFFFF == 0xE3069283


def inodes(tree: Tree) -> Iterator[tuple[int, int, int]]:
    """Of every inode of a tree's image: its place, its end without data, bytes of inline data."""
    data, _ = image_of(tree)
    image = ImageTree(data, source="x")
    for _, node in image.paths():
        at = (node or erofs.ROOT_NID) * erofs.SLOT
        form, units, _, _, size = erofs.EXTENDED.unpack_from(data, at)[:5]
        head = erofs.EXTENDED.size if form & 1 else erofs.COMPACT.size
        end = at + head + (12 + 4 * (units - 1) if units else 0)
        assert at // erofs.BLOCK == (at + head - 1) // erofs.BLOCK, "an inode crosses a block"
        size &= (1 << 64) - 1 if form & 1 else (1 << 32) - 1
        yield at, end, (size - 1) % erofs.BLOCK + 1 if form >> 1 == erofs.INLINE else 0


@pytest.mark.parametrize("uid", [0, 70_000])
def test_no_inode_and_no_inline_data_crosses_a_block(uid: int) -> None:
    """Kernels differ in what they do about it: some read on, some call it damage."""
    links = [symlink(b"/l%04d" % at, b"t" * (1 + at * 37 % 4095)) for at in range(400)]
    files = [regular(b"/d%d/%s" % (at, b"x" * (1 + at % 200)), b"%d" % at) for at in range(1, 500)]
    named = special(b"/named", Kind.DIRECTORY, ((b"xattr.user.a", b"v" * 3000),))
    tree = tree_of(*(one._replace(uid=uid) for one in [*links, *files, named]))
    places = []
    for at, end, inline in inodes(tree):
        places.append((at, end + inline))
        assert end // erofs.BLOCK == max(end, end + inline - 1) // erofs.BLOCK or not inline
    places.sort()
    for (_, end), (start, _) in pairwise(places):
        assert end <= start, "two inodes share bytes"


@pytest.mark.parametrize("attribute", [b"trusted.overlay.redirect", b"trusted.x", b"system.a"])
def test_an_attribute_that_steers_overlayfs_is_never_written(attribute: bytes) -> None:
    builder = TreeBuilder(b"/")
    evil = regular(b"/a", b"x", ((b"xattr." + attribute, b"/0/0/" + b"0" * 32),))
    builder.add(Unchecked(evil))
    with pytest.raises(ImageRefused, match="an attribute that no list may name"):
        image_of(builder.build())


def test_what_no_image_holds_is_refused_by_name() -> None:
    large = regular(b"/d/large", b"x", ((b"xattr.user.a", b"v" * 65536),))
    with pytest.raises(ImageRefused, match="65536 bytes"):
        image_of(tree_of(large))
    many = special(
        b"/d/many",
        Kind.DIRECTORY,
        tuple((b"xattr.user.%d" % at, b"v" * 60000) for at in range(5)),
    )
    with pytest.raises(ImageRefused, match=r"/d/many: 3000\d\d bytes of attributes"):
        image_of(tree_of(many))
    huge = regular(b"/d/huge")._replace(size=erofs.MAX_SIZE + 1)
    with pytest.raises(ImageRefused, match="/d/huge: 562949953421313 bytes"):
        image_of(tree_of(huge))


def test_a_name_that_is_too_long_is_never_written() -> None:
    """No list holds one; the kernel would refuse the whole directory."""
    builder = TreeBuilder(b"/")
    builder.add(Unchecked(regular(b"/d/" + b"x" * 256)))
    with pytest.raises(ImageRefused, match="a name of 256 bytes"):
        image_of(builder.build())


def test_one_digest_with_two_sizes_is_refused() -> None:
    """Their blob can have one size only: the other file would be cut off, or padded."""
    one = regular(b"/a")
    with pytest.raises(ImageRefused, match="two different sizes"):
        image_of(tree_of(one, one._replace(path=b"/b", size=one.size + 1)))


def test_only_a_whole_list_makes_an_image() -> None:
    with pytest.raises(ValueError, match="whole list"):
        image_of(tree_of(regular(b"/a/b"), base=b"/a"))


def test_an_image_is_written_in_little_memory(tmp_path: Path) -> None:
    count = 20_000
    entries = [regular(b"/d%d/%d" % (at % 100, at), b"%d" % at) for at in range(count)]
    tree = tree_of(directory(b"/d0"), *entries)
    with open(tmp_path / "image", "w+b") as image, open(tmp_path / "index", "w+b") as index:
        tracemalloc.start()
        write_image(tree, image, index)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    # 32 bytes of index and 6 of places an entry, and pieces of 1 MiB
    assert peak < 4 * (1 << 20) + 60 * count, peak


# sha256 of image and index, the first 16 digits
IMAGES = {
    "classic": ["52d770d7952e049c", "b254e6d973a18784"],
    "every-kind": ["7e330aa58395104e", "63b27d24d95ad124"],
    "lineage-converted": ["348d2a7c7caee92f", "0f95439ac906fac2"],
    "lineage": ["0c8c96e8d4392b79", "3fe614182ad8cc5d"],
}
