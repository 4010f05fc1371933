"""A tree as ordinary files: every kind, every attribute that the caller may set.

Files are written from verified blobs of the cache. Directories stay private to us until
what they hold is written; modes and times are set last, deepest first.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import trio

from aysfs.errors import AysfsError, NoSpace
from aysfs.fetch.fetcher import Fetcher
from aysfs.tree import ROOT, Node, Tree

Progress = Callable[[int, int], None]

_WORKERS = 8


NEEDS_ROOT = "this needs root"


class Skipped(NamedTuple):
    """Something that could not be set, or made, and why."""

    what: str
    why: str


class UnpackReport(NamedTuple):
    """What was written; ``skipped`` counts the entries that lack an attribute, or were not made."""

    entries: int
    size: int
    skipped: dict[Skipped, int]


class Unpacker:
    """Writes one tree below one directory. Use ``unpack``."""

    def __init__(self, tree: Tree, target: Path, fetcher: Fetcher, progress: Progress) -> None:
        self._tree = tree
        self._target = os.fsencode(target)
        self._fetcher = fetcher
        self._progress = progress
        self._done = self._size = 0
        self._skipped: dict[Skipped, int] = {}
        self._error: AysfsError | None = None
        self._is_root = os.geteuid() == 0

    async def run(self) -> UnpackReport:
        """All of it. The first failure ends it."""
        for node in self._tree.walk():
            if self._tree.is_directory(node) and node != ROOT:
                os.mkdir(self._path(node), 0o700)
        todo = self._leaves()
        async with trio.open_nursery() as nursery:
            for _ in range(_WORKERS):
                nursery.start_soon(self._work, todo, nursery.cancel_scope)
        if self._error is not None:
            raise self._error
        tree = self._tree
        for name, first in tree.columns.hardlinks.items():
            os.link(self._path(first), self._path(name), follow_symlinks=False)
            self._count(0)
        directories = [node for node in tree.walk() if tree.is_directory(node)]
        for node in reversed(directories):
            self._attributes(self._path(node), node)
            self._count(0)
        return UnpackReport(self._done, self._size, self._skipped)

    def _leaves(self) -> Iterator[Node]:
        for node in self._tree.walk():
            if not self._tree.is_directory(node) and self._tree.inode(node) == node:
                yield node

    async def _work(self, todo: Iterator[Node], all_work: trio.CancelScope) -> None:
        for node in todo:
            try:
                if self._tree.is_regular(node):
                    await self._file(node)
                else:
                    self._special(node)
            except (AysfsError, OSError) as error:
                if isinstance(error, OSError):
                    error = _failed(os.fsdecode(self._path(node)), error)
                self._error = self._error or error
                all_work.cancel()
                return
            self._count(self._tree.sizes[node])
            await trio.lowlevel.checkpoint()

    async def _file(self, node: Node) -> None:
        tree, path = self._tree, self._path(node)
        size = tree.sizes[node]
        if size == 0:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        else:
            why = os.fsdecode(tree.list_path(node))
            try:
                descriptor = await self._fetcher.open(tree.digest(node), size, why)
            except AysfsError as error:
                raise type(error)(f"{why}: {error}", hint=error.hint) from error
            try:
                await trio.to_thread.run_sync(_copy, descriptor, path, size)
            finally:
                os.close(descriptor)
        self._attributes(path, node)

    def _special(self, node: Node) -> None:
        tree, path = self._tree, self._path(node)
        mode = tree.modes[node]
        if stat.S_ISLNK(mode):
            os.symlink(tree.target(node), path)
        elif (stat.S_ISCHR(mode) or stat.S_ISBLK(mode)) and not self._is_root:
            self._skip("devices", NEEDS_ROOT)
            return
        else:
            os.mknod(path, stat.S_IFMT(mode) | 0o600, os.makedev(*tree.rdev(node)))
        self._attributes(path, node)

    def _attributes(self, path: bytes, node: Node) -> None:
        """Owner first: a change of owner clears setuid, setgid and capabilities.

        The mode after the xattrs: a user may not set them on his own read-only file.
        """
        tree, columns = self._tree, self._tree.columns
        mode = columns.modes[node]
        if self._is_root:
            os.chown(path, columns.uids[node], columns.gids[node], follow_symlinks=False)
        elif columns.uids[node] != os.geteuid() or columns.gids[node] != os.getegid():
            self._skip("owners", NEEDS_ROOT)
        for name, value in tree.xattrs(node).items():
            try:
                os.setxattr(path, name, value, follow_symlinks=False)
            except OSError as error:
                self._skip(f"xattr {os.fsdecode(name)}", _why_not(error, name, mode))
        if not stat.S_ISLNK(mode):
            os.chmod(path, stat.S_IMODE(mode))
        mtime = columns.mtimes[node]
        os.utime(path, ns=(mtime, mtime), follow_symlinks=False)

    def _path(self, node: Node) -> bytes:
        return self._target if node == ROOT else self._target + self._tree.path(node)

    def _count(self, size: int) -> None:
        self._done, self._size = self._done + 1, self._size + size
        self._progress(self._done, self._size)

    def _skip(self, what: str, why: str) -> None:
        skipped = Skipped(what, why)
        self._skipped[skipped] = self._skipped.get(skipped, 0) + 1


async def unpack(tree: Tree, target: Path, fetcher: Fetcher, progress: Progress) -> UnpackReport:
    """Write a tree into a new or empty directory.

    Raises what ``Fetcher.open`` raises; NoSpace when the target's disk is full, AysfsError when
    it cannot be written for another reason.
    """
    try:
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(target.iterdir()):
            raise AysfsError(f"{target} is not empty", hint="unpack into a new directory")
        return await Unpacker(tree, target, fetcher, progress).run()
    except OSError as error:
        where = os.fsdecode(error.filename) if error.filename else str(target)
        raise _failed(where, error) from error


def _failed(where: str, error: OSError) -> AysfsError:
    kind = NoSpace if error.errno in (errno.ENOSPC, errno.EDQUOT) else AysfsError
    return kind(f"{where}: {error.strerror or error}")


def _why_not(error: OSError, name: bytes, mode: int) -> str:
    """What an errno of setxattr says about this name on this kind of entry."""
    of_a_user = name.startswith(b"user.")
    if error.errno == errno.EOPNOTSUPP:
        return "the file system here keeps no such attributes"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.E2BIG, errno.ERANGE):
        return "the file system here has no room for it"
    if error.errno == errno.EINVAL:
        return "the kernel does not take its value"
    if error.errno == errno.EPERM and not of_a_user and os.geteuid() != 0:
        return NEEDS_ROOT
    if error.errno == errno.EPERM and of_a_user and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        return "only files and directories may have user.* attributes"
    return (error.strerror or str(error)).lower()


def _copy(source: int, path: bytes, size: int) -> None:
    """Copy inside the kernel: shares the blocks where the file system can."""
    target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        done = 0
        while done < size:
            try:
                copied = os.copy_file_range(source, target, size - done, done, done)
            except OSError:  # EXDEV and friends: between file systems sendfile always works
                copied = os.sendfile(target, source, done, size - done)
            if not copied:
                raise OSError(5, "blob shorter than its size", path)
            done += copied
    finally:
        os.close(target)
