"""The fuse engine: kernel requests in, tree and blobs out. Translation only.

Serves the kernel through pyfuse3. Owns the open handles and the mapping of inode numbers to
nodes. The names, attributes and bytes of a list never change, so the kernel may keep them
for a year, negative answers included; a reload shows a new generation of inodes.

pyfuse3 answers only ``FUSEError`` and takes the mount down on anything else, so every
handler is wrapped: a known error becomes its errno, an unknown one is logged and is EIO.
pyfuse3 delivers no interrupts: a killed reader waits until its fetch is answered.
"""

import errno
import functools
import logging
import os
import stat
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, ParamSpec, TypeVar

import pyfuse3
from pyfuse3 import FileHandleT, FileInfo, FUSEError, InodeT, RequestContext

from aysfs.errors import AysfsError, NoSpace
from aysfs.fetch.chunks import Reader
from aysfs.fetch.fetcher import Fetcher
from aysfs.fetch.flights import SOMEBODY
from aysfs.limits import LARGE
from aysfs.mount.recording import Recorder
from aysfs.tree import ROOT, Node, TreeView

log = logging.getLogger(__name__)

FOREVER = 365 * 86400
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_TRUNC | os.O_CREAT | os.O_APPEND
_NO_DESCRIPTOR = FileHandleT(1 << 40)  # the handle of an empty file: there is nothing to open
_FIRST_READER = 1 << 41
_MOST_BLOCKS = (1 << 63) - 1
_READ_AHEAD_WHOLE = 1 << 20

P = ParamSpec("P")
R = TypeVar("R")


def answered(handler: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, Coroutine[Any, Any, R]]:
    """Make sure that whatever a handler raises reaches the kernel as an errno."""

    @functools.wraps(handler)
    async def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await handler(*args, **kwargs)
        except FUSEError:
            raise
        except NoSpace as error:
            raise FUSEError(errno.ENOSPC) from error
        except AysfsError as error:  # trouble is EIO and never ENOENT; the fetch has logged it
            raise FUSEError(_no_descriptor(error.__cause__) or errno.EIO) from error
        except Exception as error:  # the edge to the kernel: a bug must not end the mount
            if number := _no_descriptor(error):
                raise FUSEError(number) from error
            log.exception("bug in %s", handler.__name__)
            raise FUSEError(errno.EIO) from error

    return wrapper


def _no_descriptor(error: BaseException | None) -> int | None:
    """EMFILE or ENFILE when that is what the error says."""
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return error.errno
    return None


class _Path(NamedTuple):
    """The path of a node, put into words only when somebody reads them."""

    tree: TreeView
    node: Node

    def __str__(self) -> str:
        return os.fsdecode(self.tree.list_path(self.node))


@dataclass(eq=False)
class _Generation:
    """One tree, its inode numbers, and how many references the kernel holds to them."""

    tree: TreeView
    offset: int  # inode = offset + node
    lookups: int = 0


@dataclass
class EngineCounters:
    """What the engine did, for ``status``."""

    opens: int = 0
    open_files: int = 0
    read_bytes: int = 0


class Readers:
    """Handles of files that are read by chunks: numbers that no descriptor has."""

    def __init__(self) -> None:
        self._readers: dict[int, Reader] = {}
        self._last = _FIRST_READER

    def add(self, reader: Reader) -> FileHandleT:
        """A handle for a reader, which is closed with it."""
        self._last += 1
        self._readers[self._last] = reader
        return FileHandleT(self._last)

    def get(self, handle: int) -> Reader | None:
        """The reader of a handle; None for a descriptor."""
        return self._readers.get(handle) if handle > _FIRST_READER else None

    def close(self, handle: int) -> Reader | None:
        """Close the reader of a handle; None when it is a descriptor."""
        reader = self._readers.pop(handle, None)
        if reader is not None:
            reader.close()
        return reader


class FuseEngine(pyfuse3.Operations):
    """One mounted tree."""

    def __init__(self, tree: TreeView, fetcher: Fetcher, recorder: Recorder | None = None) -> None:
        super().__init__()
        self._recorder = recorder
        self.counters = EngineCounters()
        self.xattrs_refused = False  # once so, the kernel never asks this mount again
        self._fetcher = fetcher
        self._readers = Readers()
        self._current = _Generation(tree, offset=1)
        self._older: list[_Generation] = []

    @property
    def tree(self) -> TreeView:
        """The tree that new lookups see."""
        return self._current.tree

    @property
    def generations(self) -> int:
        """Trees still referenced by the kernel, the current one included."""
        return 1 + len(self._older)

    def replace(self, tree: TreeView) -> list[bytes]:
        """Show another tree; the names below the root that the kernel must forget.

        What holds the old tree, open files and working directories, keeps seeing it.
        """
        old = self._current
        names = {one.name for shown in (old.tree, tree) for one in shown.listing(ROOT)}
        self._older.append(old)
        self._current = _Generation(tree, offset=old.offset + old.tree.end)
        return sorted(names)

    def _locate(self, inode: int) -> tuple[_Generation, Node]:
        generation = self._current
        if inode == pyfuse3.ROOT_INODE:
            return generation, ROOT
        if inode >= generation.offset:
            return generation, Node(inode - generation.offset)
        for older in self._older:
            if older.offset <= inode < older.offset + older.tree.end:
                return older, Node(inode - older.offset)
        raise FUSEError(errno.ESTALE)

    def _attributes(self, generation: _Generation, node: Node) -> pyfuse3.EntryAttributes:
        tree = generation.tree
        node = tree.inode(node)
        mode, uid, gid, size, mtime, nlink = tree.attributes(node)
        attributes = pyfuse3.EntryAttributes()
        attributes.st_ino = InodeT(generation.offset + node) if node else pyfuse3.ROOT_INODE
        attributes.entry_timeout = FOREVER
        attributes.attr_timeout = FOREVER
        attributes.st_mode = mode
        attributes.st_nlink = nlink
        attributes.st_uid = uid
        attributes.st_gid = gid
        attributes.st_size = size
        attributes.st_blocks = (size + 511) // 512 if stat.S_ISREG(mode) else 0
        attributes.st_blksize = 4096
        attributes.st_atime_ns = attributes.st_mtime_ns = attributes.st_ctime_ns = mtime
        if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            attributes.st_rdev = os.makedev(*tree.rdev(node))
        return attributes

    @answered
    async def lookup(
        self, parent_inode: InodeT, name: pyfuse3.FileNameT, ctx: RequestContext
    ) -> pyfuse3.EntryAttributes:
        generation, directory = self._locate(parent_inode)
        node = generation.tree.lookup(directory, name)
        if node is None:
            absent = pyfuse3.EntryAttributes()
            absent.st_ino = InodeT(0)
            absent.entry_timeout = FOREVER
            return absent
        generation.lookups += 1
        return self._attributes(generation, node)

    @answered
    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        for inode, lookups in inode_list:
            if inode != pyfuse3.ROOT_INODE:
                generation, _ = self._locate(inode)
                generation.lookups -= lookups
        self._drop_unused()

    def _drop_unused(self) -> None:
        for unused in [one for one in self._older if one.lookups <= 0]:
            self._older.remove(unused)
            unused.tree.close()

    @answered
    async def getattr(self, inode: InodeT, ctx: RequestContext) -> pyfuse3.EntryAttributes:
        return self._attributes(*self._locate(inode))

    @answered
    async def readlink(self, inode: InodeT, ctx: RequestContext) -> pyfuse3.FileNameT:
        generation, node = self._locate(inode)
        return generation.tree.target(node)

    @answered
    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        generation, node = self._locate(inode)
        generation.lookups += 1  # a tree is kept while a directory of it is being read
        # The root's inode is the same in every generation; its handle says which was opened.
        return FileHandleT(generation.offset + node)

    @answered
    async def readdir(self, fh: FileHandleT, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        generation, directory = self._locate_handle(fh)
        # The kernel links what a listing names into the root that all generations share: a
        # listing of the old root that goes on after a reload would bring the old names back.
        outdated = directory == ROOT and generation is not self._current
        for name, node, after in generation.tree.listing(directory, start_id):
            attributes = self._attributes(generation, node)
            if outdated:
                attributes.entry_timeout = 0
            if not pyfuse3.readdir_reply(token, name, attributes, after):
                return
            generation.lookups += 1

    @answered
    async def releasedir(self, fh: FileHandleT) -> None:
        generation, _ = self._locate_handle(fh)
        generation.lookups -= 1
        self._drop_unused()

    def _locate_handle(self, handle: int) -> tuple[_Generation, Node]:
        if handle == pyfuse3.ROOT_INODE and self._older and self._older[0].offset == 1:
            return self._older[0], ROOT
        return self._locate(handle)

    @answered
    async def open(self, inode: InodeT, flags: pyfuse3.FlagT, ctx: RequestContext) -> FileInfo:
        if flags & _WRITING:
            raise FUSEError(errno.EROFS)
        generation, node = self._locate(inode)
        tree = generation.tree
        node = tree.inode(node)
        size = tree.attributes(node).size
        self.counters.opens += 1
        if size == 0:
            return FileInfo(fh=_NO_DESCRIPTOR, keep_cache=True)
        digest = tree.digest(node)
        if self._recorder is not None:
            self._recorder.note(digest, size)
        descriptor = self._fetcher.open_at_once(digest, size)
        if descriptor is None:
            chunks = tree.chunks(node) if size > LARGE else None
            if chunks is not None:
                reader = await self._fetcher.large.open(digest, size, chunks, _Path(tree, node))
                self.counters.open_files += 1
                return FileInfo(fh=self._readers.add(reader), keep_cache=True)
            why = _Path(tree, node)
            descriptor = await self._fetcher.open_fetched(digest, size, why, ctx.pid or SOMEBODY)
        elif size <= _READ_AHEAD_WHOLE:
            # Starts the disk while the kernel's read request is still on its way to us. What
            # was just fetched is in memory.
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
        self.counters.open_files += 1
        return FileInfo(fh=FileHandleT(descriptor), keep_cache=True)

    @answered
    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        if fh == _NO_DESCRIPTOR:
            return b""
        reader = self._readers.get(fh)
        data = os.pread(fh, size, off) if reader is None else await reader.read(off, size)
        self.counters.read_bytes += len(data)
        return data

    @answered
    async def release(self, fh: FileHandleT) -> None:
        if fh == _NO_DESCRIPTOR:
            return
        if self._readers.close(fh) is None:
            os.close(fh)
        self.counters.open_files -= 1

    @answered
    async def statfs(self, ctx: RequestContext) -> pyfuse3.StatvfsData:
        tree = self.tree
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = 4096
        data.f_blocks = min(-(-tree.total_size // 4096), _MOST_BLOCKS)
        data.f_bfree = data.f_bavail = 0
        data.f_files = len(tree)
        data.f_ffree = data.f_favail = 0
        data.f_namemax = 255
        return data

    @answered
    async def access(self, inode: InodeT, mode: pyfuse3.ModeT, ctx: RequestContext) -> bool:
        """The kernel checks permissions itself (``default_permissions``); only writes get here."""
        if mode & os.W_OK:
            raise FUSEError(errno.EROFS)
        return True

    @answered
    async def getxattr(self, inode: InodeT, name: pyfuse3.XAttrNameT, ctx: RequestContext) -> bytes:
        generation, node = self._locate(inode)
        if not generation.tree.has_xattrs:
            self.xattrs_refused = True
            raise FUSEError(errno.ENOSYS)  # the kernel stops asking: exec asks for every file
        value = generation.tree.xattrs(node).get(name)
        if value is None:
            raise FUSEError(pyfuse3.ENOATTR)
        return value

    @answered
    async def listxattr(self, inode: InodeT, ctx: RequestContext) -> Sequence[pyfuse3.XAttrNameT]:
        generation, node = self._locate(inode)
        if not generation.tree.has_xattrs:
            self.xattrs_refused = True
            raise FUSEError(errno.ENOSYS)
        return sorted(generation.tree.xattrs(node))

    async def _read_only(self, *_arguments: object, **_keywords: object) -> None:
        raise FUSEError(errno.EROFS)

    # One handler for all: its signature takes anything, which an override may not.
    create = link = mkdir = mknod = removexattr = rename = rmdir = _read_only  # type: ignore[assignment]
    setattr = setxattr = symlink = unlink = write = _read_only  # type: ignore[assignment]
