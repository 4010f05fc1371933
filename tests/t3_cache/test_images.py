"""An image in the cache is found whole, or not at all."""

import io
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import islice, permutations
from pathlib import Path

import pytest

from aysfs import digest
from aysfs.cache import images as images_module
from aysfs.cache.compile import compile_list
from aysfs.cache.images import CachedImage, ImageCache
from aysfs.cache.list_key import ListKey
from aysfs.errors import BadList, CacheUnusable, ImageRefused, NoSpace, PathMissing
from aysfs.flist import Entry, Kind
from aysfs.image.compile import WatchedReader, read_tree
from aysfs.image.facts import Facts, Owner
from tests.trees import directory, regular, special, symlink, tree_of, written

pytestmark = pytest.mark.usefixtures("no_leaks")

KEY = ListKey("a" * 64, 1_500_000_000)
BASE = b"/opt/x"


def entries() -> list[Entry]:
    return [
        directory(BASE),
        regular(BASE + b"/f", b"content"),
        symlink(BASE + b"/l", b"f"),
        *(regular(BASE + b"/d/%d" % at, b"%d" % at) for at in range(50)),
    ]


@pytest.fixture
def reports() -> list[str]:
    return []


@pytest.fixture
def images(tmp_path: Path, reports: list[str]) -> ImageCache:
    return ImageCache(tmp_path / "cache", report=reports.append)


def compiled(images: ImageCache, key: ListKey = KEY, data: bytes | None = None) -> CachedImage:
    file = io.BytesIO(written(entries()) if data is None else data)
    return compile_list(images, key, file, "t.flist")


@pytest.fixture
def kept(images: ImageCache) -> Path:
    """The folder of an image that was compiled and closed."""
    compiled(images).close()
    (folder,) = (one for one in images.folder.iterdir() if one.is_dir())
    return folder


def is_found(images: ImageCache, key: ListKey = KEY) -> bool:
    found = images.find(key)
    if found is not None:
        found.close()
    return found is not None


def test_a_list_is_compiled_once_and_found_from_then_on(images: ImageCache) -> None:
    assert not is_found(images)
    first = compiled(images)
    first.close()
    found = images.find(KEY)
    assert found is not None
    tree, known = found.tree(), tree_of(*entries())
    assert dict(tree.paths()).keys() == dict(known.paths()).keys()
    assert len(found.index) == 51
    record = found.index.find(digest.of(b"content"))
    assert record is not None
    assert tree.path_of(record.directory, record.ordinal) == BASE + b"/f"
    found.close()
    assert not list(images.folder.glob("tmp-*"))


def test_a_tree_lives_on_without_the_rest(images: ImageCache) -> None:
    tree = compiled(images).take_tree(BASE)
    assert tree.path(tree.resolve(b"/f")) == b"/f"
    tree.close()


def test_a_base_that_is_not_there_is_missing(images: ImageCache) -> None:
    found = compiled(images)
    with pytest.raises(PathMissing):
        found.tree(b"/opt/y")
    found.close()


@pytest.mark.parametrize(
    "other", [ListKey("b" * 64, KEY.mtime_ns), ListKey(KEY.sha256, KEY.mtime_ns + 1)]
)
def test_another_list_has_another_image(images: ImageCache, kept: Path, other: ListKey) -> None:
    assert is_found(images)
    assert not is_found(images, other)


def test_another_writer_has_another_image(
    images: ImageCache, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images_module, "WRITER_VERSION", 0)
    assert not is_found(images)


# --- what is known of a list -----------------------------------------------------------------


def test_what_a_list_tells_is_kept(images: ImageCache) -> None:
    found = compiled(images)
    facts = found.facts
    found.close()
    assert (facts.base, facts.trunk, facts.above, facts.owners) == (None, BASE, (), ())
    assert (facts.named, facts.implied) == (53, 2)  # /opt and /opt/x/d are implied


@pytest.mark.parametrize(
    ("paths", "trunk", "above"),
    [
        ("/", "/", ""),
        ("/a/b/c", "/a/b/c", ""),
        ("/a /a/b /a/b/c", "/a/b/c", "/a /a/b"),
        ("/a/b /a/bc", "/a", ""),
        ("/a /a/b /a/bc", "/a", ""),
        ("/ /a/b/c /a/b/d", "/a/b", "/"),
        ("/a/b /a/b/c /a/b/d", "/a/b", ""),
        ("/a /a/b /a/b/c /a/b/d", "/a/b", "/a"),
        ("/a /a/b/c /a/b/d", "/a/b", "/a"),
        ("/a/b/c /a/b/d /x", "/", ""),
        ("/a /a/b /a/b/c /a/b/c/d /a/x", "/a", ""),
    ],
)
def test_where_the_entries_of_a_list_are(
    images: ImageCache, paths: str, trunk: str, above: str
) -> None:
    """In whatever order a list names them: those of the lineage have none."""
    found = [path.encode() for path in paths.split()]
    folders = {path for path in found if any(one.startswith(path + b"/") for one in found)} | {b"/"}
    lines = [
        b"%b|%b|1|0|0|755|%d|1|1|\n" % (path, b"0" * 32, 4 if path in folders else 2)
        for path in found
    ]
    for ordered in islice(permutations(lines), 24):
        reader = WatchedReader(io.BytesIO(b"".join(ordered)), source="l", mtime_ns=0)
        assert len(list(reader)) == len(lines)
        assert (reader.trunk, reader.above) == (trunk.encode(), above.encode().split()), ordered


def test_what_is_outside_a_base() -> None:
    facts = Facts(None, b"/a/b/c", (b"/", b"/a/b"), 9, 9)
    known = {b"/": 0, b"/a": 1, b"/a/b": 1, b"/a/b/c": 2, b"/a/b/c/d": None, b"/a/bc": None}
    assert {base: facts.outside(base) for base in known} == known
    assert facts.common == b"/"


def test_paths_of_any_bytes_are_kept(images: ImageCache) -> None:
    paths = [b"/\xff", b"/\xff/\xfe\n", b"/\xff/\xfe\n/a", b"/\xff/\xfe\n/b"]
    found = compiled(images, data=written([*map(directory, paths[:2]), *map(regular, paths[2:])]))
    assert (found.facts.trunk, found.facts.above) == (paths[1], (paths[0],))
    found.close()


LINEAGE = b"/bin/a|%b|3|alice|staff|0755|2|5|5|\n" % digest.of(b"abc").hex().encode()


def test_an_image_is_found_only_while_its_names_mean_the_same(images: ImageCache) -> None:
    ids: dict[bytes, int | None] = {b"alice": 1000, b"staff": None}
    found = compile_list(images, KEY, io.BytesIO(LINEAGE), "l", lambda _what, name: ids[name])
    assert set(found.facts.owners) == {Owner("user", "alice", 1000), Owner("group", "staff", None)}
    found.close()
    for changed, meaning in ((b"alice", 1001), (b"staff", 5)):
        others = ids | {changed: meaning}
        assert images.find(KEY, lambda _what, name: others[name]) is None  # noqa: B023 - used now
    again = images.find(KEY, lambda _what, name: ids[name])
    assert again is not None
    again.close()


# --- damage ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tree.erofs", "tree.index", "facts"])
def test_an_altered_byte_anywhere_is_noticed(
    images: ImageCache, kept: Path, reports: list[str], name: str
) -> None:
    """Whatever the times of the file say."""
    data = (kept / name).read_bytes()
    status = (kept / name).stat()
    places = [*range(0, len(data), max(1, len(data) // 40)), len(data) - 1]
    for count, at in enumerate(places, 1):
        with open(kept / name, "r+b") as file:
            file.seek(at)
            file.write(bytes((data[at] ^ 0x10,)))
        os.utime(kept / name, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert not is_found(images), at
        assert len(reports) == count
        assert "damaged tree image" in reports[-1]
        assert not kept.exists()
        compiled(images).close()
        assert is_found(images)


@pytest.mark.parametrize("name", ["tree.erofs", "tree.index", "facts"])
@pytest.mark.parametrize("what", ["cut", "empty", "longer", "gone", "a folder"])
def test_a_file_that_is_not_whole_is_noticed(
    images: ImageCache, kept: Path, reports: list[str], name: str, what: str
) -> None:
    path = kept / name
    if what in ("gone", "a folder"):
        path.unlink()
        if what == "a folder":
            path.mkdir()
    elif what == "longer":
        with open(path, "ab") as file:
            file.write(bytes(4096))
    else:
        os.truncate(path, path.stat().st_size - 1 if what == "cut" else 0)
    assert not is_found(images)
    assert len(reports) == 1
    compiled(images).close()
    assert is_found(images)


def test_an_image_of_another_list_is_not_taken_for_this_one(images: ImageCache, kept: Path) -> None:
    """Both are whole: the index speaks of another image."""
    other = ListKey("b" * 64, 0)
    compiled(images, other, written([regular(b"/other")])).close()
    (place,) = (one for one in images.folder.iterdir() if one.name.startswith("b"))
    first, second = (one / "tree.index" for one in (kept, place))
    first.rename(kept / "x")
    second.rename(first)
    assert not is_found(images)


def test_a_list_that_is_wrong_leaves_nothing(images: ImageCache) -> None:
    with pytest.raises(BadList):
        compiled(images, data=b"#flist 2\nrubbish\n")
    refused = special(b"/x", Kind.DIRECTORY, ((b"xattr.user.a", b"v" * 65536),))
    with pytest.raises(ImageRefused):
        compiled(images, data=written([refused]))
    assert images.stored() == (0, 0)
    assert not list(images.folder.glob("tmp-*"))


# --- several at once -------------------------------------------------------------------------


def test_several_that_compile_at_once_all_have_an_image(
    images: ImageCache, reports: list[str]
) -> None:
    """And whoever looks meanwhile takes none that is being replaced for a damaged one."""
    began, found = threading.Barrier(4), []

    def work() -> None:
        began.wait()
        for _ in range(5):
            is_found(images)
            image = compiled(images)
            tree = image.tree()
            found.append(tree.attributes(tree.resolve(BASE + b"/f")).size)
            image.close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [7] * 20
    assert reports == []
    assert images.stored()[0] == 1
    assert not list(images.folder.glob("tmp-*"))


def test_of_two_that_compile_at_once_the_first_is_kept(images: ImageCache) -> None:
    """Others use it already: replacing it would double what is kept in memory of it."""

    class Overtaken(ImageCache):
        """Somebody else compiles the same list while this one does."""

        @contextmanager
        def _scratch(self) -> Iterator[Path]:
            with super()._scratch() as scratch:
                compiled(images).close()
                theirs.append(inode())
                yield scratch

    theirs: list[int] = []

    def inode() -> int:
        (folder,) = images.folder.glob("a*")
        return folder.stat().st_ino

    compiled(Overtaken(images.folder.parent)).close()
    assert theirs == [inode()]
    assert not list(images.folder.glob("tmp-*"))


def test_what_was_put_there_since_it_was_looked_for_is_used(images: ImageCache) -> None:
    """Between a search in vain and the compilation: that of somebody else is not replaced."""
    tree, facts = read_tree(io.BytesIO(written(entries())), "t.flist", KEY.mtime_ns)

    def put(owner: int) -> int:
        """Which folder has the image in the end, as one that knows this owner puts its own."""
        image = images.put(KEY, tree, facts._replace(owners=(Owner("user", "somebody", owner),)))
        assert image.tree().resolve(BASE + b"/f")
        image.close()
        (folder,) = images.folder.glob("a*")
        return folder.stat().st_ino

    first = put(7)
    assert put(7) == first
    assert put(8) != first, "that of another time, when the name meant somebody else"


def test_an_open_image_is_the_one_that_was_verified(images: ImageCache, kept: Path) -> None:
    """Its descriptor is, whatever is done to its name meanwhile."""
    with closing(compiled(images)) as image:
        good = (kept / "tree.erofs").read_bytes()
        images.clear()
        assert not kept.exists()
        assert os.pread(image.descriptor, len(good) + 1, 0) == good


def test_a_compiler_that_died_leaves_nothing_for_long(images: ImageCache, tmp_path: Path) -> None:
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from aysfs.cache.images import ImageCache\n"
        "with ImageCache(Path(sys.argv[1]))._scratch() as scratch:\n"
        "    (scratch / 'tree.erofs').write_bytes(bytes(5000))\n"
        "    print('ready', flush=True)\n"
        "    sys.stdin.read()\n"
        "    os._exit(9)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, images.folder.parent],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        compiled(images).close()
        assert len(list(images.folder.glob("tmp-*"))) == 1, "that of a living process"
        process.stdin.close()
    assert len(list(images.folder.glob("tmp-*"))) == 1
    compiled(images, ListKey("c" * 64, 0)).close()
    assert not list(images.folder.glob("tmp-*"))


# --- room ------------------------------------------------------------------------------------


def age(folder: Path, seconds: float) -> None:
    moment = time.time() - seconds
    os.utime(folder / "facts", (moment, moment))


def test_what_was_not_used_for_longest_is_evicted(tmp_path: Path) -> None:
    images = ImageCache(tmp_path / "cache")
    keys = [ListKey(letter * 64, 0) for letter in "abcd"]
    for number, key in enumerate(keys[:3]):
        compiled(images, key).close()
        (folder,) = images.folder.glob(f"{key.sha256}*")
        age(folder, 10_000 - number)
    _, size = images.stored()
    images = ImageCache(tmp_path / "cache", bound=size)
    assert is_found(images, keys[0]), "which is using it"
    compiled(images, keys[3]).close()
    assert [is_found(images, key) for key in keys] == [True, False, True, True]


def test_what_was_used_just_now_is_not_evicted(tmp_path: Path) -> None:
    images = ImageCache(tmp_path / "cache", bound=0)
    for letter in "abc":
        compiled(images, ListKey(letter * 64, 0)).close()
    assert images.stored()[0] == 3


def test_an_evicted_image_can_be_read_to_its_end(images: ImageCache) -> None:
    found = compiled(images)
    images.clear()
    assert images.stored() == (0, 0)
    assert not is_found(images)
    assert len(list(found.tree().paths())) == 56
    found.close()


def test_a_full_disk_is_no_space_and_leaves_nothing(tmp_path: Path) -> None:
    point = tmp_path / "small"
    point.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", point], check=True)
    try:
        images = ImageCache(point / "cache")
        with pytest.raises(NoSpace):
            compiled(images, data=written([regular(b"/%d" % at) for at in range(500)]))
        assert not list(images.folder.glob("tmp-*"))
        assert images.stored() == (0, 0)
    finally:
        subprocess.run(["umount", point], check=True)


def test_the_cache_of_another_user_is_refused(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    os.chown(cache, 12345, 12345)
    with pytest.raises(CacheUnusable, match="belongs to user 12345"):
        ImageCache(cache)


def test_nothing_of_an_image_is_open_to_others(kept: Path) -> None:
    assert kept.stat().st_mode & 0o077 == 0
    assert kept.parent.stat().st_mode & 0o077 == 0


def test_what_was_read_to_be_verified_is_not_kept_in_memory(images: ImageCache) -> None:
    """A daemon holds the images of many mounts."""
    many = (regular(BASE + b"/%06d" % at, b"%d" % at) for at in range(20_000))
    compiled(images, data=written([directory(BASE), *many])).close()
    found = images.find(KEY)
    assert found is not None
    size = found.path.stat().st_size
    assert size > 2 << 20
    assert resident(found.path) < size // 4
    assert len(dict(found.tree().paths())) > 20_000
    assert resident(found.path) > size // 2  # it is what is looked at
    found.close()


def resident(file: Path) -> int:
    """Bytes of a mapped file that count as this process's memory."""
    _, _, rest = Path("/proc/self/smaps").read_text().partition(f"{file}\n")
    return next(int(line.split()[1]) for line in rest.splitlines() if line.startswith("Rss:")) << 10
