"""A store as the first version wrote it: every later version must still mount it."""

import hashlib
import os
import shutil
import stat
from pathlib import Path

from tests.t4_mount.conftest import Site, every_engine, run

pytestmark = every_engine

GOLDEN = Path(__file__).parent.parent / "golden" / "store-v2"
MOMENT = 1_700_000_000_123_456_789


def shown(top: Path) -> dict[bytes, tuple[int, int, int, int, int, str]]:
    found = {}
    for path in top.rglob("*"):
        status = path.lstat()
        content = ""
        if stat.S_ISREG(status.st_mode):
            content = hashlib.md5(path.read_bytes()).hexdigest()
        elif stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)
        found[os.fsencode(path.relative_to(top))] = (
            *(status.st_mode, status.st_uid, status.st_gid, status.st_nlink, status.st_mtime_ns),
            content,
        )
    return found


def test_the_golden_store_is_mounted_to_the_last_attribute(site: Site) -> None:
    shutil.copytree(GOLDEN, site.root / "store")
    site.mount("golden__every")
    conf = hashlib.md5(b"key = value\n").hexdigest()
    hello = hashlib.md5(b"#!/bin/sh\necho golden\n").hexdigest()
    odd = hashlib.md5(b"odd\n").hexdigest()
    nothing = hashlib.md5().hexdigest()
    assert shown(site.point) == {
        b"bin": (stat.S_IFDIR | 0o755, 0, 0, 2, MOMENT, ""),
        b"bin/hello": (stat.S_IFREG | 0o755, 0, 0, 1, MOMENT, hello),
        b"dangling": (stat.S_IFLNK | 0o777, 0, 0, 1, MOMENT, "/nowhere"),
        b"etc": (stat.S_IFDIR | 0o755, 0, 0, 2, MOMENT, ""),
        b"etc/conf": (stat.S_IFREG | 0o640, 0, 0, 2, MOMENT, conf),
        b"etc/empty": (stat.S_IFREG | 0o6711, 1000, 2_000_000_000, 1, MOMENT, nothing),
        b"etc/same": (stat.S_IFREG | 0o640, 0, 0, 2, MOMENT, conf),
        b"fifo": (stat.S_IFIFO | 0o644, 0, 0, 1, MOMENT, ""),
        b"null": (stat.S_IFCHR | 0o644, 0, 0, 1, MOMENT, ""),
        b"odd | % \n \xff": (stat.S_IFREG | 0o644, 0, 0, 1, MOMENT, odd),
        b"run": (stat.S_IFLNK | 0o777, 0, 0, 1, MOMENT, "bin/hello"),
    }
    assert os.getxattr(site.point / "bin" / "hello", "user.note") == b"a|b%c"
    assert os.stat(site.point / "null").st_rdev == os.makedev(1, 3)
    assert run(site.point / "run").stdout == "golden\n"
    site.umount()


def test_the_classic_list_and_the_older_layout_are_read(site: Site) -> None:
    shutil.copytree(GOLDEN, site.root / "store")
    site.mount("golden__classic", base="/opt/golden")
    assert (site.point / "etc" / "conf").read_text() == "key = value\n"
    assert (site.point / "etc" / "empty").read_bytes() == b""
    assert run(site.point / "bin" / "hello").stdout == "golden\n"
    site.umount()
