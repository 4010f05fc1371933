"""What the kernel shows of an image is what the list says, entry by entry."""

import os
import stat
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from aysfs import digest
from aysfs.flist import Entry, Kind
from aysfs.tree import Node, Tree
from tests.t4_image.conftest import check_with_tools, compile_into, mounted
from tests.trees import CAPABILITY, directory, lists, regular, special, symlink, tree_of

OVERLAY = b"trusted.overlay."


def redirect_of(tree: Tree, node: Node) -> dict[bytes, bytes]:
    """What overlayfs must find on a node."""
    node = tree.inode(node)
    if not tree.is_regular(node) or not tree.sizes[node]:
        return {}
    name = tree.digest(node).hex()
    place = f"/{name[0]}/{name[1]}/{name}".encode()
    return {OVERLAY + b"metacopy": b"", OVERLAY + b"redirect": place}


def xattrs_at(path: bytes) -> dict[bytes, bytes]:
    names = [os.fsencode(name) for name in os.listxattr(path, follow_symlinks=False)]
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in names}


def compare(tree: Tree, node: Node, path: bytes) -> None:
    """One entry; a directory's names and their types too."""
    found, columns, inode = os.lstat(path), tree.columns, tree.inode(node)
    mode = columns.modes[inode]
    assert found.st_mode == mode, path
    assert (found.st_uid, found.st_gid) == (columns.uids[inode], columns.gids[inode]), path
    assert found.st_mtime_ns == columns.mtimes[inode], path
    assert found.st_nlink == columns.nlinks[inode], path
    assert xattrs_at(path) == tree.xattrs(node) | redirect_of(tree, node), path
    if stat.S_ISLNK(mode):
        assert os.readlink(path) == tree.target(node)
    elif stat.S_ISREG(mode):
        assert found.st_size == tree.sizes[node], path
    elif stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        assert (os.major(found.st_rdev), os.minor(found.st_rdev)) == tree.rdev(node)
    elif stat.S_ISDIR(mode):
        children = {tree.names[child]: tree.modes[child] for child in tree.children(node)}
        with os.scandir(path) as listing:
            seen = {
                one.name: (one.is_dir(follow_symlinks=False), one.is_symlink()) for one in listing
            }
        assert seen == {
            name: (stat.S_ISDIR(mode), stat.S_ISLNK(mode)) for name, mode in children.items()
        }


def compare_all(tree: Tree, root: Path) -> None:
    inodes: dict[int, Node] = {}
    for node in tree.walk():
        path = os.fsencode(root) + tree.path(node)
        compare(tree, node, path)
        number = os.lstat(path).st_ino
        assert inodes.setdefault(number, tree.inode(node)) == tree.inode(node)
    assert len(inodes) == len({tree.inode(node) for node in tree.walk()})


def check(tree: Tree, folder: Path) -> None:
    image = compile_into(tree, folder)
    check_with_tools(image)
    with mounted(image, folder / "mnt") as root:
        compare_all(tree, root)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(lists())
def test_a_random_tree_is_what_the_kernel_shows(entries: list[Entry]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        check(tree_of(*entries), Path(folder))


@pytest.mark.parametrize("count", [0, 1, 80, 200, 5000])
def test_directories_of_any_size(tmp_path: Path, count: int) -> None:
    names = [b"%d" % number + b"x" * (number * 7 % 240) for number in range(count)]
    check(tree_of(directory(b"/d"), *(regular(b"/d/" + name, name) for name in names)), tmp_path)


@pytest.mark.parametrize("size", [*range(4030, 4035), *range(4062, 4067), *range(4094, 4099)])
def test_a_directory_around_the_size_of_a_block(tmp_path: Path, size: int) -> None:
    """Where its data fits behind a large inode, behind a small one, into a block, and not."""
    names = [b"%03d" % number + b"x" * 243 for number in range(15)]
    names.append(b"y" * (size - sum(12 + len(name) for name in [b".", b"..", *names, b""])))
    files = (regular(folder + name) for folder in (b"/large/", b"/small/") for name in names)
    check(tree_of(directory(b"/small"), *files), tmp_path)


def test_names_before_and_between_the_dots(tmp_path: Path) -> None:
    names = [b"!", b"-", b"-x", b".", b"..", b"..-", b"...", b".a", b".-", b"+", b"0", b"\xff"]
    kept = [name for name in names if name not in (b".", b"..")]
    many = [b"+%d" % number + b"x" * 200 for number in range(100)]
    tree = tree_of(*(regular(b"/d/" + name) for name in [*kept, *many]))
    check(tree, tmp_path)


def test_tails_never_cross_a_block(tmp_path: Path) -> None:
    targets = [b"t" * (1 + number * 37 % 4095) for number in range(400)]
    check(tree_of(*(symlink(b"/%04d" % at, target) for at, target in enumerate(targets))), tmp_path)


@pytest.mark.parametrize("size", [0, 1, 4096, 4097, 1 << 32, 1 << 43, (1 << 43) + 1, 1 << 49])
def test_sizes(tmp_path: Path, size: int) -> None:
    entry = regular(b"/f")._replace(size=size)
    check(tree_of(entry, regular(b"/g")._replace(size=0)), tmp_path)


def test_attributes_of_any_size(tmp_path: Path) -> None:
    sizes = [0, 1, 3, 4, 100, 3900, 4095, 4096, 20_000, 60_000]
    entries = [
        regular(b"/f%d" % size, b"x", ((b"xattr.user.a", b"v" * size), (b"xattr.user.b", b"w")))
        for size in sizes
    ]
    folders = [
        special(b"/d%d" % size, Kind.DIRECTORY, ((b"xattr.user." + b"n" * 250, b"v" * size),))
        for size in sizes
    ]
    capable = regular(b"/ping", b"p", ((b"xattr.security.capability", CAPABILITY),))
    check(tree_of(*entries, *folders, capable), tmp_path)


def test_a_thousand_hard_links_and_directories(tmp_path: Path) -> None:
    first = regular(b"/0")
    linked = [regular(b"/d/%d" % at, b"x", ((b"hardlink", b"/0"),)) for at in range(70_000)]
    folders = [directory(b"/s/%d" % at) for at in range(70_000)]
    tree = tree_of(first, *linked, *folders)
    image = compile_into(tree, tmp_path)
    check_with_tools(image)
    with mounted(image, tmp_path / "mnt") as root:
        assert os.lstat(root / "0").st_nlink == 70_001
        assert os.lstat(root / "d/69999").st_ino == os.lstat(root / "0").st_ino
        assert os.lstat(root / "s").st_nlink == 70_002
        assert len(os.listdir(root / "s")) == 70_000


def test_a_file_without_its_blob_reads_as_zeros(tmp_path: Path) -> None:
    """The image holds no content: what is not joined with a cache shows none."""
    tree = tree_of(regular(b"/f", b"secret"))
    with mounted(compile_into(tree, tmp_path), tmp_path / "mnt") as root:
        assert (root / "f").read_bytes() == bytes(6)
        assert digest.of(b"secret").hex().encode() in os.getxattr(root / "f", OVERLAY + b"redirect")
