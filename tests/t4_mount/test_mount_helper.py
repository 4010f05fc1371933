"""``mount -t aysfs``: mount(8) finds mount.aysfs where an administrator would link it."""

import contextlib
import fcntl
import sys
from pathlib import Path

from tests.t4_mount.conftest import Site, every_engine, run

SCRIPT = """
set -e
mount -t tmpfs tmpfs "$1/overlay"
mkdir "$1/overlay/upper" "$1/overlay/work"
mount -t overlay overlay \
    -o "lowerdir=/usr/sbin,upperdir=$1/overlay/upper,workdir=$1/overlay/work" /usr/sbin
ln -s "$2" /usr/sbin/mount.aysfs
mount -t aysfs test "$1/mnt" -o "ro,nofail,engine=$3,store=$1/store,cache=$1/cache"
cat "$1/mnt/data" | md5sum
findmnt -n -o SOURCE,FSTYPE "$1/mnt"
umount "$1/mnt"
echo "test $1/mnt aysfs ro,_netdev,engine=$3,store=$1/store,cache=$1/cache 0 0" > "$1/fstab"
mount --fstab "$1/fstab" "$1/mnt"
"$1/mnt/bin/hello"
umount "$1/mnt"
others="relatime,lazytime,comment=mine"
mount -t aysfs test "$1/mnt" -o "engine=$3,store=$1/store,cache=$1/cache,$others"
"$1/mnt/bin/hello"
umount "$1/mnt"
echo "test $1/mnt aysfs defaults 0 0" > "$1/fstab"
mount --fstab "$1/fstab" "$1/mnt"
"$1/mnt/bin/hello"
umount "$1/mnt"
others="users,exec,group,noatime,nodiratime"
echo "test $1/mnt aysfs $others,engine=$3,store=$1/store 0 0" > "$1/fstab"
mount --fstab "$1/fstab" "$1/mnt"
"$1/mnt/bin/hello"
umount "$1/mnt"
echo "test,other $1/mnt aysfs engine=$3,store=$1/store,cache=$1/cache 0 0" > "$1/fstab"
mount --fstab "$1/fstab" --all
mount --fstab "$1/fstab" --all --verbose
umount "$1/mnt"
"""


@every_engine
def test_mount_8_and_fstab(site: Site, tree: Path) -> None:
    site.push(tree)
    site.push(tree / "bin", "other")
    site.point.mkdir()
    (site.root / "overlay").mkdir()
    helper = Path(sys.executable).with_name("mount.aysfs")
    environment = [f"AYSFS_RUNTIME={site.root}/run", f"AYSFS_LOGS={site.root}", "AYSFS_KEEP_FREE=0"]
    environment += [f"AYSFS_STORE={site.root}/store", f"AYSFS_CACHE={site.root}/cache"]
    command = ["env", *environment, "unshare", "-m", "sh", "-c", SCRIPT, "sh"]
    command += [str(site.root), str(helper), site.engine]
    done = run(*command)
    for lock in (site.root / "run").glob("*/lock"):  # umount(8) does not wait for the daemon
        with contextlib.suppress(FileNotFoundError), open(lock) as file:
            fcntl.flock(file, fcntl.LOCK_SH)
    md5 = run("md5sum", tree / "data").stdout.split()[0]
    assert done.stderr == ""
    assert done.returncode == 0
    kind = {"fuse": "fuse.aysfs", "overlay": "overlay"}[site.engine]
    assert done.stdout.split()[:8] == [md5, "-", "test", kind, *["hello"] * 4]
    assert done.stdout.splitlines()[6:] == [f"{site.point}: already mounted"]
