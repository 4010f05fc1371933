"""Large files through a mount: read by chunks while the rest is absent, by either engine."""

import errno
import hashlib
import mmap
import os
import random
import shutil
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from aysfs import digest as digests
from aysfs.chunks import ChunkHasher
from aysfs.limits import CHUNK, LARGE
from aysfs.mount import life
from tests.servers import Nginx
from tests.t4_mount.conftest import Site, every_engine, run
from tests.t4_mount.overlay_site import (
    cached,
    kill_worker,
    nobody_repairs,
    until,
    wait_for_another,
    worker_of,
)

SIZE = LARGE + 5 * CHUNK + 4321
_MEBIBYTE = random.Random(11).randbytes(1 << 20)
DATA = b"".join(b"%8d" % at + _MEBIBYTE[8:] for at in range(-(-SIZE // (1 << 20))))[:SIZE]
MD5 = hashlib.md5(DATA).hexdigest()

pytestmark = every_engine


@pytest.fixture
def pushed(site: Site, tmp_path: Path) -> Site:
    """A store with a service that has a large file under two names, and a small one."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "large").write_bytes(DATA)
    os.link(tree / "large", tree / "again")
    os.setxattr(tree / "large", "user.note", b"1")
    (tree / "small").write_bytes(b"small")
    site.push(tree)
    shutil.rmtree(tree)
    return site


@pytest.fixture
def served(pushed: Site) -> Site:
    pushed.mount()
    return pushed


def read(path: Path, at: int, length: int) -> bytes:
    with path.open("rb") as file:
        return os.pread(file.fileno(), length, at)


def partial(site: Site) -> Path:
    return site.root / "cache/partial" / MD5[0] / MD5[1] / MD5


def taken(site: Site) -> int:
    """Bytes of the file that are here while it is not whole."""
    return partial(site).stat().st_blocks * 512


def is_whole(site: Site) -> bool:
    return cached(site, MD5).exists() and not partial(site).exists()


def killed_and_mounted_again(site: Site) -> None:
    """End the daemon as a crash does; a fresh one serves the same mount point."""
    if site.engine == "overlay":
        site.expected += ["killed by SIGKILL", "its daemon had died"]
        wait_for_another(site, kill_worker(site))
        return
    daemon = site.children.pop()
    os.kill(daemon, signal.SIGKILL)
    os.waitpid(daemon, 0)
    assert run("umount", "--lazy", site.point).returncode == 0
    site.mount()


def is_native(site: Site) -> bool:
    """Whether the file is the cache's own when it is open, and not served by the daemon."""
    with (site.point / "large").open("rb"):
        daemon = Path(f"/proc/{site.pid()}/fd")
        return str(cached(site, MD5)) not in [os.readlink(one) for one in daemon.iterdir()]


def set_store(site: Site, at: int, data: bytes) -> None:
    """Change bytes of the blob in the store."""
    blob = site.blob(MD5)
    blob.chmod(0o600)
    with blob.open("r+b") as file:
        file.seek(at)
        file.write(data)


def test_the_head_comes_without_the_tail(served: Site) -> None:
    assert read(served.point / "large", 0, 1 << 20) == DATA[: 1 << 20]
    assert taken(served) < 8 << 20
    assert not cached(served, MD5).exists()
    assert (served.point / "large").stat().st_size == SIZE
    served.umount()


def test_random_reads_bring_their_chunks(served: Site) -> None:
    numbers = random.Random(1).sample(range(10, 250), 20)
    with (served.point / "large").open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        for number in numbers:
            at = number * CHUNK + 5000
            assert os.pread(file.fileno(), 4096, at) == DATA[at : at + 4096]
    assert taken(served) <= 25 * CHUNK  # and the beginning, which comes with the index
    assert read(served.point / "large", SIZE - 100, 4096) == DATA[-100:]
    served.umount()


def test_all_of_it_is_right_and_then_an_object(served: Site) -> None:
    assert hashlib.md5((served.point / "large").read_bytes()).hexdigest() == MD5
    until(lambda: is_whole(served))
    assert (served.point / "again").read_bytes() == DATA
    if served.engine == "overlay":  # native from the next first access on: nobody needs a daemon
        until(lambda: is_native(served))
        served.expected += ["killed by SIGKILL", "its daemon had died"]
        with nobody_repairs(served):
            worker = kill_worker(served)
            until(lambda: worker_of(served) is None)
            assert (served.point / "large").read_bytes() == DATA
            assert read(served.point / "again", 5, 5) == DATA[5:10]
        wait_for_another(served, worker)
    served.umount()


def test_fetched_ahead_it_comes_by_chunks_and_no_byte_twice(pushed: Site, tmp_path: Path) -> None:
    with Nginx(tmp_path / "nginx", pushed.root / "store") as web:
        pushed.mount(store=(web.url,), prefetch="all")
        assert read(pushed.point / "large", SIZE - 100, 100) == DATA[-100:]
        until(lambda: is_whole(pushed))
        asked = [line for line in web.requests() if MD5 in line]
        assert {line.split('" ')[1].split()[0] for line in asked} == {"206"}
        assert sum(int(line.split('" ')[1].split()[1]) for line in asked) == SIZE
        assert (pushed.point / "large").read_bytes() == DATA
        pushed.umount()


def test_many_readers_at_once(served: Site) -> None:
    def reader(seed: int) -> bool:
        choose = random.Random(seed)
        path = served.point / choose.choice(("large", "again"))
        with path.open("rb") as file:
            for _ in range(40):
                at, length = choose.randrange(SIZE), choose.choice((1, 4096, 300_000))
                if os.pread(file.fileno(), length, at) != DATA[at : at + length]:
                    return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(reader, range(16)))
    served.umount()


def test_a_mapping_reads_what_it_touches(served: Site) -> None:
    with (
        (served.point / "large").open("rb") as file,
        mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped,
    ):
        for at in (0, 40 * CHUNK - 3, SIZE - 7):
            assert mapped[at : at + 7] == DATA[at : at + 7]
    served.umount()


def test_a_large_program_runs(site: Site, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    shutil.copy("/bin/echo", tree / "echo")
    with (tree / "echo").open("r+b") as file:
        file.truncate(LARGE + 77)
    site.push(tree)
    site.mount()
    for _ in range(2):
        assert run(site.point / "echo", "hello").stdout == "hello\n"
        assert (site.point / "echo").read_bytes() == (tree / "echo").read_bytes()
    site.umount()


def test_nobody_sees_the_chunks_of_a_file(served: Site) -> None:
    assert os.listxattr(served.point / "large") == ["user.note"]
    with pytest.raises(OSError, match="large"):
        os.getxattr(served.point / "large", "trusted.overlay.aysfs.chunks")
    served.umount()


# --- faults ------------------------------------------------------------------------------------


def test_a_wrong_chunk_is_eio_where_it_is_and_heals(served: Site) -> None:
    served.expected += ["aysfs.fetch", "wrong bytes"]
    at = 100 * CHUNK
    set_store(served, at + 17, bytes([DATA[at + 17] ^ 1]))
    with pytest.raises(OSError, match=r"Input/output error") as failed:
        read(served.point / "large", at, 4096)
    assert failed.value.errno == errno.EIO
    for other in (0, at - CHUNK, at + CHUNK, SIZE - 10):
        assert read(served.point / "large", other, 10) == DATA[other : other + 10]
    set_store(served, at + 17, bytes([DATA[at + 17]]))
    assert read(served.point / "large", at, 4096) == DATA[at : at + 4096]
    served.umount()


@pytest.mark.parametrize("how", ["missing", "short", "wrong"])
def test_without_a_right_index_the_file_is_whole(pushed: Site, how: str) -> None:
    hasher = ChunkHasher()
    hasher.update(DATA)
    index = pushed.blob(digests.of(hasher.index()).hex())
    if how == "missing":
        index.unlink()
    else:
        index.chmod(0o600)
        index.write_bytes(hasher.index()[:-16] if how == "short" else bytes(len(hasher.index())))
    pushed.expected += ["aysfs.fetch"]
    pushed.mount()
    assert read(pushed.point / "large", 50 * CHUNK, 10) == DATA[50 * CHUNK :][:10]
    assert cached(pushed, MD5).exists()
    pushed.umount()


def test_a_store_that_vanishes_in_the_middle_is_eio_and_heals(served: Site) -> None:
    served.expected += ["aysfs.fetch"]
    with (served.point / "large").open("rb") as file:
        assert os.pread(file.fileno(), 10, 0) == DATA[:10]
        (served.root / "store").rename(served.root / "away")
        with pytest.raises(OSError, match="Input/output error"):
            os.pread(file.fileno(), 10, 150 * CHUNK)
        assert os.pread(file.fileno(), 10, 100) == DATA[100:110]
        (served.root / "away").rename(served.root / "store")
        assert os.pread(file.fileno(), 10, 150 * CHUNK) == DATA[150 * CHUNK :][:10]
    served.umount()


def test_killed_with_a_file_half_here_a_fresh_mount_goes_on(served: Site) -> None:
    with (served.point / "large").open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        for number in range(20, 220, 2):
            os.pread(file.fileno(), 10, number * CHUNK)
    before = taken(served)
    killed_and_mounted_again(served)
    for number in range(20, 220, 2):  # what was here is not asked for again
        set_store(served, number * CHUNK, b"not this")
    for number in range(20, 220, 2):
        assert read(served.point / "large", number * CHUNK, 4096) == DATA[number * CHUNK :][:4096]
    assert taken(served) >= before
    for number in range(20, 220, 2):
        set_store(served, number * CHUNK, DATA[number * CHUNK :][:8])
    assert hashlib.md5((served.point / "large").read_bytes()).hexdigest() == MD5
    served.umount()


def test_a_reader_that_is_killed_holds_nothing_up(served: Site) -> None:
    for _ in range(5):
        with subprocess.Popen(
            ["cat", str(served.point / "large")], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            process.stdout.read(4096)
            process.kill()
    assert (served.point / "large").read_bytes() == DATA
    served.umount()


def test_a_file_that_is_held_holds_its_tree_and_no_longer(served: Site) -> None:
    with (served.point / "large").open("rb", buffering=0) as file:
        assert file.read(10) == DATA[:10]
        life.stop(served.root / "run", served.point, lazy=True)
        assert os.pread(file.fileno(), 10, 150 * CHUNK) == DATA[150 * CHUNK :][:10]
    if served.engine == "overlay":
        served.daemon_has_left()
    else:
        assert os.waitpid(served.children.pop(), 0)[1] == 0
