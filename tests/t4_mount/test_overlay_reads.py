"""First reads of the overlay engine: many at once, one fetch a blob, in a cache that is small."""

import hashlib
import mmap
import os
import resource
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from aysfs.cache.blobs import Cache
from aysfs.cache.eviction import shrink
from aysfs.cache.usage import on_disk
from aysfs.kernel.table import kernel_mounts
from aysfs.limits import CHUNK
from tests.t4_mount.conftest import PYTHON, Site, run
from tests.t4_mount.overlay_site import cached, error_of, started, told

MANY = 1000


@pytest.fixture
def engine() -> str:
    return "overlay"


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def make_files(tree: Path, count: int, size: int) -> dict[str, str]:
    """Files of as many bytes and a few more; their names and md5s."""
    tree.mkdir(exist_ok=True)
    sums = {}
    for number in range(count):
        data = os.urandom(size + number)
        (tree / f"{number:04}").write_bytes(data)
        sums[f"{number:04}"] = hashlib.md5(data).hexdigest()
    return sums


def links(site: Site) -> list[Path]:
    return sorted((site.root / "cache" / "incoming").glob("?/?/*"))


def test_a_thousand_parallel_first_reads_of_a_thousand_blobs(site: Site) -> None:
    sums = make_files(site.root / "tree", MANY, 100)
    site.push(site.root / "tree")
    site.mount()
    with ThreadPoolExecutor(MANY) as pool:
        found = dict(zip(sums, pool.map(lambda name: md5(site.point / name), sums), strict=True))
    assert found == sums
    status = site.ask()
    assert (status["misses"], status["failures"]) == (MANY, 0)
    assert status["fetched_bytes"] == sum(100 + number for number in range(MANY))
    site.umount()


def test_a_thousand_parallel_first_reads_of_one_blob(site: Site) -> None:
    """By one name, and by a thousand: the kernel knows nothing of equal content."""
    tree = site.root / "tree"
    tree.mkdir()
    data = os.urandom(20_000)
    for number in range(MANY):
        (tree / f"{number:04}").write_bytes(data)
    alone = os.urandom(3_000_000)
    (tree / "alone").write_bytes(alone)
    site.push(tree)
    site.mount()
    with ThreadPoolExecutor(MANY) as pool:
        found = set(pool.map(lambda _number: md5(site.point / "alone"), range(MANY)))
        assert found == {hashlib.md5(alone).hexdigest()}
        status = site.ask()
        assert (status["misses"], status["fetched_bytes"]) == (1, len(alone))
        found = set(pool.map(lambda number: md5(site.point / f"{number:04}"), range(MANY)))
        assert found == {hashlib.md5(data).hexdigest()}
    status = site.ask()
    assert status["fetched_bytes"] == len(alone) + len(data)
    assert status["failures"] == 0
    site.umount()


@pytest.mark.parametrize("readers", [1, 8])
def test_a_cache_that_is_smaller_than_the_tree(site: Site, readers: int) -> None:
    sums = make_files(site.root / "tree", 120, 100_000)
    bound = 3_000_000
    site.push(site.root / "tree")
    site.mount(cache_size=bound)
    for _ in range(2):
        with ThreadPoolExecutor(readers) as pool:
            found = dict(
                zip(sums, pool.map(lambda name: md5(site.point / name), sums), strict=True)
            )
        assert found == sums
    used = sum(on_disk(path.stat().st_size) for path in site.root.glob("cache/objects/?/?/*"))
    assert used <= bound
    objects = {path.name for path in site.root.glob("cache/objects/?/?/*")}
    assert {path.name for path in links(site)} <= objects
    assert site.ask()["failures"] == 0
    site.umount()


def test_what_is_open_or_mapped_outlives_its_eviction(site: Site) -> None:
    sums = make_files(site.root / "tree", 3, 200_000)
    site.push(site.root / "tree")
    site.mount()
    with open(site.point / "0000", "rb") as file, open(site.point / "0001", "rb") as other:
        mapped = mmap.mmap(other.fileno(), 0, access=mmap.ACCESS_READ)
        other.close()
        assert md5(site.point / "0002") == sums["0002"]
        for name in sums:  # as an administrator would, or another process's eviction after a lease
            cached(site, sums[name]).unlink()
        for link in links(site):
            link.unlink()
        assert hashlib.md5(file.read()).hexdigest() == sums["0000"]
        assert hashlib.md5(mapped).hexdigest() == sums["0001"]
        mapped.close()
    for _ in range(2):
        assert {name: md5(site.point / name) for name in sums} == sums
    site.umount()


def test_a_library_in_use_is_not_evicted_and_its_neighbour_is(site: Site) -> None:
    sums = make_files(site.root / "tree", 2, 200_000)
    site.push(site.root / "tree")
    site.mount()
    keep = (
        "import mmap, sys\n"
        "with open(sys.argv[1], 'rb') as file:\n"
        "    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)\n"
        "print('here', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with started(PYTHON, "-c", keep, site.point / "0000") as user:
        assert told(user) == "here"
        assert md5(site.point / "0001") == sums["0001"]
        cache = Cache(site.root / "cache")
        done = shrink(cache, 0)
        cache.close()
        assert (done.blobs, done.in_use) == (1, 1)
        assert cached(site, sums["0000"]).exists()
        assert not cached(site, sums["0001"]).exists()
        assert site.ask()["misses"] == 2
        assert md5(site.point / "0001") == sums["0001"]
        assert site.ask()["misses"] == 3
    site.umount()


@pytest.mark.parametrize(
    ("kind", "name"), [("tmpfs", "cache"), ("ext4", "cache"), ("tmpfs", "a, b=\\ \n")]
)
def test_what_was_evicted_is_free_on_the_disk_when_it_is_counted(
    site: Site, kind: str, name: str
) -> None:
    cache = site.root / name
    cache.mkdir()
    if kind == "tmpfs":
        assert run("mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", cache).returncode == 0
    else:
        assert run("truncate", "-s", "40M", site.root / "disk").returncode == 0
        assert run("mkfs.ext4", "-q", "-m", "0", site.root / "disk").returncode == 0
        assert run("mount", "-o", "loop", site.root / "disk", cache).returncode == 0
        (cache / "lost+found").rmdir()
    try:
        sums = make_files(site.root / "tree", 10, 2_000_000)
        site.push(site.root / "tree")
        site.mount(cache=str(cache))
        empty = free(cache)
        assert {name: md5(site.point / name) for name in sums} == sums
        assert empty - free(cache) >= 20_000_000
        mine = Cache(cache)
        assert shrink(mine, 0).blobs == 10
        assert mine.usage.used == 0
        mine.close()
        assert empty - free(cache) < 500_000  # directories
        # More than the disk: each makes room for the next.
        sums = make_files(site.root / "tree", 30, 2_000_000)
        site.push(site.root / "tree")
        assert site.ask("reload")["changed"] is True
        assert {name: md5(site.point / name) for name in sums} == sums
        assert site.ask()["failures"] == 0
        site.umount()
    finally:
        run("umount", "-l", cache)


def free(folder: Path) -> int:
    status = os.statvfs(folder)
    return status.f_bfree * status.f_frsize


def test_a_daemon_with_few_descriptors_serves_many_readers(site: Site) -> None:
    sums = make_files(site.root / "tree", 300, 70_000)
    site.push(site.root / "tree")
    site.mount()
    soft, hard = resource.prlimit(site.pid(), resource.RLIMIT_NOFILE)
    assert soft == hard
    with ThreadPoolExecutor(300) as pool:
        assert list(pool.map(lambda name: md5(site.point / name), sums)) == list(sums.values())
    site.umount()


def test_the_kernel_asks_for_a_chunk_at_once(site: Site, tree: Path) -> None:
    site.push(tree)
    site.mount()
    (fault,) = [one for one in kernel_mounts() if one.point.startswith(f"{site.root}/run/")]
    setting = Path("/sys/class/bdi", fault.device, "read_ahead_kb")
    assert int(setting.read_text()) == CHUNK // 1024
    site.umount()


def test_nothing_but_what_a_list_names_is_fetched(site: Site, tree: Path) -> None:
    """Root may look below the fault layer; a digest of another service is not for this mount."""
    site.push(tree)
    (site.root / "other").mkdir()
    (site.root / "other" / "secret").write_text("of another service")
    site.push(site.root / "other", "other")
    site.mount()
    secret = md5(site.root / "other" / "secret")
    fault = next((site.root / "run").glob("host-*/fault"))
    assert os.listdir(fault) == []
    site.expected.append("WARNING aysfs.mount.overlay.fault: jumpscale__test: no list names")
    for layer in ("get", "eio"):
        assert error_of(fault / "1" / layer / secret[0] / secret[1] / secret) != 0
    assert not cached(site, secret).exists()
    assert site.ask()["refused"] == 1
    for name in ("..", "0", "2", "x", "_", "9" * 20, "\N{ARABIC-INDIC DIGIT ONE}"):
        assert not (fault / name / "get").exists() or name == ".."
    for name in ("g", "00", "A", "F", "\N{ARABIC-INDIC DIGIT ONE}"):
        assert not (fault / "1" / "get" / name).exists()
    data = md5(tree / "data")
    top = fault / "1" / "get"
    wrong = [data.upper(), data[:-1], data + "0", "0" * 32 if data[0] != "0" else "1" * 32]
    for name in wrong:
        assert not (top / data[0] / data[1] / name).exists()
    assert site.ask()["misses"] == 0
    site.umount()
