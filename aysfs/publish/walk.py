"""A directory on this disk as entries of a list.

Serves ``push``. Owns the reading of names, attributes and kinds; opens no file, so every
regular file leaves here with a zero digest. Says nothing about stores.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from aysfs.digest import ZERO
from aysfs.errors import AysfsError
from aysfs.flist.entry import Entry, Ext, Kind
from aysfs.flist.percent import encode_path
from aysfs.publish.links import FirstNames, is_kept, rdev

KINDS = {
    stat.S_IFSOCK: Kind.SOCKET,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFREG: Kind.REGULAR,
    stat.S_IFBLK: Kind.BLOCK,
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFCHR: Kind.CHARACTER,
    stat.S_IFIFO: Kind.FIFO,
}


class TreeChanged(AysfsError):
    """A file of the tree was not what it had been a moment before."""

    def __init__(self, path: bytes, what: str) -> None:
        super().__init__(
            f"{os.fsdecode(path)}: {what}", hint="stop what writes to the tree, and push again"
        )


class FileKey(NamedTuple):
    """What a file is recognised by while its content stays what it was."""

    dev: int
    ino: int
    size: int
    mtime_ns: int
    ctime_ns: int


class Found(NamedTuple):
    """An entry, and the file on this disk that it came from."""

    entry: Entry
    file: bytes
    key: FileKey
    links: int


def walk(directory: bytes, base: bytes) -> list[Found]:
    """The directory and everything below it, sorted by encoded path; ``base`` is its path there.

    Mount points are entered. Names of one regular file after the first carry ``hardlink``.
    """
    top = os.path.abspath(directory)
    if not os.path.isdir(top):
        raise AysfsError(f"{os.fsdecode(directory)}: not a directory")
    found = [_found(top, base, lambda follow_symlinks: os.stat(top))]
    found.extend(_below(top, base.rstrip(b"/")))
    found.sort(key=lambda one: encode_path(one.entry.path))
    return list(_with_hard_links(found))


def key_of(status: os.stat_result) -> FileKey:
    """The key of a file that was just looked at."""
    return FileKey(
        status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    )


def unreadable(path: bytes, error: OSError) -> AysfsError:
    """What to raise when a file of the tree cannot be read."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return TreeChanged(path, "vanished while the tree was read")
    return AysfsError(f"{os.fsdecode(path)}: {error.strerror}")


def _below(top: bytes, base: bytes) -> Iterator[Found]:
    pending = [(top, base)]
    while pending:
        directory, path = pending.pop()
        try:
            with os.scandir(directory) as names:
                for name in names:
                    here = path + b"/" + name.name
                    one = _found(name.path, here, name.stat)
                    if one.entry.kind == Kind.DIRECTORY:
                        pending.append((name.path, here))
                    yield one
        except OSError as error:
            raise unreadable(directory, error) from error


def _found(file: bytes, path: bytes, look: Callable[..., os.stat_result]) -> Found:
    try:
        status = look(follow_symlinks=False)
        kind = KINDS[stat.S_IFMT(status.st_mode)]
        ext = _ext(file, kind, status)
    except OSError as error:
        raise unreadable(file, error) from error
    entry = Entry(
        path,
        kind,
        stat.S_IMODE(status.st_mode),
        status.st_uid,
        status.st_gid,
        status.st_size if kind is Kind.REGULAR else 0,
        ZERO,
        status.st_mtime_ns,
        ext,
    )
    return Found(entry, file, key_of(status), status.st_nlink)


def _ext(file: bytes, kind: Kind, status: os.stat_result) -> Ext:
    if kind is Kind.SYMLINK:
        return ((b"target", os.readlink(file)),)
    if kind in (Kind.BLOCK, Kind.CHARACTER):
        return rdev(file, os.major(status.st_rdev), os.minor(status.st_rdev))
    if kind in (Kind.REGULAR, Kind.DIRECTORY):
        return _xattrs(file)
    return ()


def _xattrs(file: bytes) -> Ext:
    try:
        present = os.listxattr(file, follow_symlinks=False)
    except OSError as error:
        if error.errno == errno.ENOTSUP:  # a file system without any
            return ()
        raise
    names = sorted(filter(is_kept, map(os.fsencode, present)))
    return tuple(
        (b"xattr." + name, os.getxattr(file, name, follow_symlinks=False)) for name in names
    )


def _with_hard_links(found: Iterable[Found]) -> Iterator[Found]:
    names = FirstNames()
    for one in found:
        if one.links > 1:
            one = one._replace(entry=names.linked(one.entry, (one.key.dev, one.key.ino)))
        yield one
