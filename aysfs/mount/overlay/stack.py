"""The file systems of one overlay mount, put together and taken apart.

    overlay    at the mount point
      lower    one EROFS directory a list, the first named on top
      data     <cache>/objects, get, <cache>/incoming, eio; without the first while it is recorded

The EROFS mounts are attached in a private folder only while the overlay is made, which keeps
copies of its own; so nothing but the overlay is ever there to be unmounted.
"""

import errno
import logging
import os
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

from aysfs.errors import MountFailed
from aysfs.kernel import mounts
from aysfs.kernel.loop import open_loop
from aysfs.kernel.mounts import Refused
from aysfs.kernel.table import kernel_mounts

log = logging.getLogger(__name__)

_LAYERS = (
    ("metacopy", "on"),
    ("redirect_dir", "on"),
    ("xino", "on"),  # else files of several lists differ in st_dev
)


class Lower(NamedTuple):
    """A tree image, by descriptor and by name, and the path in it that the mount's root shows.

    The descriptor is what is mounted: another image may have taken the place of its name.
    """

    image: int
    name: str
    base: bytes


def make(
    lowers: Sequence[Lower], data: Sequence[str], source: str, attributes: int, private: Path
) -> int:
    """A new overlay, mounted nowhere yet: the descriptor of its mount.

    ``private`` is an empty directory of ours for the time of the call. Waits for the kernel, and
    for the daemon that answers in ``data``. MountFailed says what is wrong.
    """
    with ExitStack() as undo:
        private.mkdir(mode=0o700, exist_ok=True)
        options: list[mounts.Option] = [("source", source)]
        for number, lower in enumerate(lowers):
            folder = private / str(number)
            folder.mkdir(mode=0o700, exist_ok=True)
            undo.callback(folder.rmdir)
            image = mount_image(lower.image)
            undo.callback(os.close, image)
            mounts.attach(image, str(folder))
            undo.callback(mounts.detach, str(folder))
            # By descriptor: the path must not lead out of the image.
            try:
                top = mounts.open_below(image, lower.base.strip(b"/"))
            except Refused as error:
                raise MountFailed(f"{lower.name}: {error}") from error
            undo.callback(os.close, top)
            options.append(("lowerdir+", f"/proc/self/fd/{top}"))
        options.extend(("datadir+", one) for one in data)
        try:
            return mounts.create("overlay", [*options, *_LAYERS], attributes)
        except Refused as error:
            if error.words:
                raise
            # Of a file system that cannot be a layer only the kernel's log speaks.
            raise MountFailed(
                f"overlayfs does not take {data[0]} as a layer: {os.strerror(error.errno)}",
                hint="dmesg says why; a cache on ext4, xfs, btrfs or tmpfs can be one",
            ) from error


def mount_image(image: int) -> int:
    """A tree image, open, as a mount, not attached: its descriptor."""
    attributes = mounts.NOSUID | mounts.NODEV | mounts.NOEXEC
    try:
        return mounts.create("erofs", [("source", f"/proc/self/fd/{image}")], attributes)
    except Refused as error:
        if error.errno != errno.ENOTBLK:
            raise
    return mount_image_by_loop(image)


def mount_image_by_loop(image: int) -> int:
    """As ``mount_image``, where EROFS takes block devices only (before Linux 6.12)."""
    device, path = open_loop(image)
    try:
        attributes = mounts.NOSUID | mounts.NODEV | mounts.NOEXEC
        return mounts.create("erofs", [("source", path)], attributes)
    finally:
        os.close(device)


def replace(mount: int, point: str) -> None:
    """Put a mount at a point in place of what is there, which goes when its last user does.

    At no moment the bare directory is seen.
    """
    mounts.attach(mount, point, beneath=True)
    mounts.detach(point)


def clear(folder: Path) -> None:
    """Take away what a dead daemon left in a folder of ours: mounts, and where they were."""
    below = [one.point for one in kernel_mounts() if one.point.startswith(f"{folder}/")]
    for point in reversed(below):
        with suppress(Refused):  # gone by itself
            mounts.detach(point)
    for path, names, _ in os.walk(folder, topdown=False):
        for name in names:
            with suppress(OSError):  # made just now, by a daemon that came meanwhile
                os.rmdir(os.path.join(path, name))
