"""A mount by somebody who is not root, through fusermount3.

/dev/fuse may be root's alone on this machine, and the interpreter may lie where only root
looks. So the user gets a device node of its own in a private mount namespace, and the one
capability to read files; what is tested, mounting, needs neither.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.t4_mount.conftest import PYTHON, run

USER = 65534

SCRIPT = r"""
import json, os, sys, subprocess
from pathlib import Path

top = Path(sys.argv[1])
assert os.geteuid() == 65534
os.environ.update(
    AYSFS_STORE=str(top / "store"), AYSFS_CACHE=str(top / "cache"),
    AYSFS_RUNTIME=str(top / "run"), AYSFS_LOGS=str(top / "log"), AYSFS_KEEP_FREE="0",
)

def aysfs(*words, code=0):
    done = subprocess.run(
        [sys.executable, "-P", "-c", "from aysfs.cli.main import main; main()", *words],
        capture_output=True, text=True,
    )
    assert done.returncode == code, (words, done)
    return done.stdout

aysfs("push", str(top / "tree"), "--name", "test")
point = top / "mnt"
aysfs("push", str(top / "tree"), "--name", "other")
aysfs("mount", "test", "other", str(point))
assert f"test,other {point} fuse.aysfs" in Path("/proc/mounts").read_text()
print((point / "data").read_text())
print((point / "link").read_text())
assert (point / "data").stat().st_uid == 65534
try:
    (point / "new").write_text("x")
except OSError as error:
    print(error.errno)
shown = aysfs("status")
print("serving" in shown, "engine fuse (the overlay engine needs root)" in shown)
aysfs("mount", "test", str(top / "second"), "--engine", "overlay", code=9)
aysfs("umount", str(point))
print(os.path.ismount(point), os.listdir(top / "run"), os.listdir(top / "cache" / "tmp"))
look = "cat link; echo; test $PWD = $AYSFS_ROOT && stat -f -c %T ."
recorded = aysfs("profile", "record", "test", "--", "sh", "-c", look).splitlines()
print(recorded[:2], recorded[2].partition(",")[0])
recorded = aysfs("profile", "record", "test", "--at", str(point), "--", "cat", str(point / "data"))
print(recorded.partition(",")[0], os.listdir(point))
print(json.loads(aysfs("profile", "show", "test", "--json"))["reads"][0]["runs"])
"""


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder that fusermount3 can reach as the user; pytest's own are root's."""
    top = Path(tempfile.mkdtemp(prefix="aysfs-user-"))
    (top / "tree").mkdir()
    (top / "tree" / "data").write_text("hello")
    (top / "tree" / "link").symlink_to("data")
    (top / "mnt").mkdir()
    (top / "second").mkdir()
    os.mknod(top / "fuse", 0o020666, os.makedev(10, 229))
    os.chmod(top / "fuse", 0o666)
    for path in [top, *top.rglob("*")]:
        os.chown(path, USER, USER, follow_symlinks=False)
    yield top
    shutil.rmtree(top)


def test_an_ordinary_user_pushes_mounts_reads_and_unmounts(home: Path) -> None:
    capability = "+dac_read_search"
    become = [
        *("setpriv", "--reuid", str(USER), "--regid", str(USER), "--clear-groups"),
        *("--inh-caps", capability, "--ambient-caps", capability),
    ]
    inside = 'mount --bind "$1/fuse" /dev/fuse && shift && exec "$@"'
    command = ["unshare", "-m", "sh", "-c", inside, "sh", home, *become, PYTHON, "-c", SCRIPT, home]
    done = run(*command)
    said = ["hello", "hello", "30", "True True", "False [] []"]
    said += [
        "['hello', 'fuseblk'] jumpscale__test: 1 files",
        "hellojumpscale__test: 1 files []",
        "2",
    ]
    assert done.stdout.splitlines() == said, done.stderr
    assert done.returncode == 0
