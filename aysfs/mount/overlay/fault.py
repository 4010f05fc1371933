"""The fault layer: a file system whose lookups bring blobs into the cache.

Serves the kernel through pyfuse3, under every overlay of a host. Each overlay has a slot with two
data layers, between which lies the folder ``incoming`` of the cache (DESIGN: engines):

    <number>/get/<h0>/<h1>/<md5>   fetches the blob, links it in ``incoming``, and is never there
    <number>/eio/<h0>/<h1>/<md5>   why it could not be had: overlayfs reports its last layer's error

A blob that ``get`` brought and that was evicted before the kernel came to ``incoming`` is a file
in ``eio``, served by us: losing that race must not be an error. So is a large blob with chunks,
which ``get`` does not bring: it is read through us while it arrives. Once all of it is here and
nobody has it open, the kernel is made to forget our file, and finds the blob in ``objects``.

A slot's folder, and the two in it, are not kept by the kernel beyond their last user, so a slot
that nobody refers to is one whose overlay is gone, in every mount namespace.
"""

import errno
import logging
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

import pyfuse3
import trio
from pyfuse3 import FileHandleT, FileInfo, FUSEError, InodeT, RequestContext

from aysfs.cache.blobs import Cache
from aysfs.cache.held import let_go
from aysfs.cache.incoming import Incoming
from aysfs.chunks import Chunks
from aysfs.digest import Digest, from_hex
from aysfs.errors import AysfsError, NoSpace
from aysfs.fetch.fetcher import Fetcher
from aysfs.fetch.flights import SOMEBODY
from aysfs.limits import LARGE
from aysfs.mount.fuse import FOREVER, Readers, answered
from aysfs.mount.recording import Recorder

log = logging.getLogger(__name__)

# An inode number is slot << 32 | layer << 24 | depth << 16 | hex digits, or of a file
# slot << 32 | _FILE << 24 | serial number.
_SLOT, _LAYER, _DEPTH = 32, 24, 16
_GET, _EIO, _FILE = 1, 2, 3
_LAYERS = {b"get": _GET, b"eio": _EIO}
_SERIALS = (1 << _LAYER) - 1
_HEX = {b"%x" % digit: digit for digit in range(16)}
_DIRECTORY = stat.S_IFDIR | 0o500


class Named(Protocol):
    """The lists of an overlay, as far as a blob is concerned."""

    def size_of(self, digest: Digest) -> int | None:
        """The size of a blob that they name, else None."""
        ...

    def chunks_of(self, digest: Digest) -> Chunks | None:
        """What a blob that they name is read by in parts; None for one that is read whole."""
        ...

    def path_of(self, digest: Digest) -> str:
        """A path of theirs that names the blob."""
        ...


@dataclass
class SlotCounters:
    """What one overlay asked for, for ``status``."""

    misses: int = 0
    fetched_bytes: int = 0
    failures: int = 0
    refused: int = 0  # digests that no list of it names


class Why:
    """Which path of which service a fetch is for; the path is only looked up when it is told."""

    def __init__(self, slot: "Slot", digest: Digest) -> None:
        self.slot = slot
        self._digest = digest

    def __str__(self) -> str:
        return f"{self.slot.label}: {self.slot.named.path_of(self._digest)}"


@dataclass(eq=False)
class Slot:
    """The two data layers of one overlay."""

    number: int
    label: str
    named: Named
    fetcher: Fetcher
    counters: SlotCounters = field(default_factory=SlotCounters)
    lookups: int = 0  # references that the kernel holds to anything in it
    retired: bool = False  # its overlay is not mounted any more; it may still be held
    released: trio.Event = field(default_factory=trio.Event)
    recorder: Recorder | None = None
    wrong: dict[Digest, int] = field(default_factory=dict)  # errno of what ``get`` could not have
    files: dict[Digest, int] = field(default_factory=dict)  # inodes of what ``eio`` serves

    @property
    def layers(self) -> tuple[str, str]:
        """The folders of ``get`` and ``eio``, below the mount point of the fault layer."""
        return f"{self.number}/get", f"{self.number}/eio"


@dataclass
class _File:
    slot: Slot
    digest: Digest
    size: int
    chunks: Chunks | None
    lookups: int = 0


class FaultLayer(pyfuse3.Operations):
    """The slots of a host."""

    def __init__(self, incoming: Incoming) -> None:
        super().__init__()
        self.slots: dict[int, Slot] = {}
        self._incoming = incoming
        self._readers = Readers()
        self._files: dict[int, _File] = {}
        self._serial = 0
        self._last = 0

    def add(
        self, label: str, named: Named, fetcher: Fetcher, recorder: Recorder | None = None
    ) -> Slot:
        """A slot for an overlay that is about to be mounted."""
        self._last += 1
        slot = Slot(self._last, label, named, fetcher, recorder=recorder)
        self.slots[self._last] = slot
        fetcher.large.completed = _let_go
        return slot

    def retire(self, slot: Slot) -> None:
        """The overlay of a slot is not mounted any more: the slot goes when nobody holds it."""
        slot.retired = True
        self._settle(slot)

    def forget_kept(self, slot: Slot) -> None:
        """Make the kernel drop what it keeps of a slot and nobody uses. May wait for the kernel.

        A folder that is dropped while a file in it is still in use is not found by its name any
        more: such a file, and what it lies in, is dropped from below.
        """
        for digest in list(slot.files):
            name = digest.hex().encode()
            for depth, digits, entry in ((2, digest[0], name), (1, digest[0] >> 4, name[1:2])):
                with suppress(OSError):  # still in use, or gone
                    pyfuse3.invalidate_entry(_inode(slot.number, _EIO, depth, digits), entry)
        for layer in _LAYERS.values():
            for name in _HEX:
                with suppress(OSError):  # the kernel does not know it
                    pyfuse3.invalidate_entry(_inode(slot.number, layer, 0, 0), name)
        for name in _LAYERS:
            with suppress(OSError):
                pyfuse3.invalidate_entry(_inode(slot.number, 0, 0, 0), name)
        with suppress(OSError):
            pyfuse3.invalidate_entry(pyfuse3.ROOT_INODE, b"%d" % slot.number)

    def _settle(self, slot: Slot) -> None:
        if slot.retired and slot.lookups <= 0 and not slot.released.is_set():
            del self.slots[slot.number]
            slot.released.set()

    def _slot(self, inode: int) -> Slot:
        slot = self.slots.get(inode >> _SLOT)
        if slot is None:
            raise FUSEError(errno.ESTALE)
        return slot

    @answered
    async def lookup(
        self, parent_inode: InodeT, name: pyfuse3.FileNameT, ctx: RequestContext
    ) -> pyfuse3.EntryAttributes:
        if parent_inode == pyfuse3.ROOT_INODE:
            number = int(name) if name.isdigit() else 0
            if number not in self.slots:
                raise FUSEError(errno.ENOENT)
            return self._found(_inode(number, 0, 0, 0), 0)
        slot = self._slot(parent_inode)
        layer, depth = parent_inode >> _LAYER & 0xFF, parent_inode >> _DEPTH & 0xFF
        if not layer:
            if name not in _LAYERS:
                raise FUSEError(errno.ENOENT)
            return self._found(_inode(slot.number, _LAYERS[name], 0, 0), 0)
        if layer == _FILE:
            raise FUSEError(errno.ENOTDIR)
        digits = parent_inode & 0xFF
        if depth < 2:
            if name not in _HEX:
                raise FUSEError(errno.ENOENT)
            inode = _inode(slot.number, layer, depth + 1, digits << 4 | _HEX[name])
            return self._found(inode, FOREVER)
        digest = _digest(digits, name)
        if layer == _GET:
            await self._bring(slot, digest, ctx.pid or SOMEBODY)
            raise FUSEError(errno.ENOENT)
        return self._last_resort(slot, digest)

    async def _bring(self, slot: Slot, digest: Digest, who: int) -> None:
        """Have a blob in the cache and linked; what is the matter is kept for ``eio``.

        ``who`` is the process that waits for it.
        """
        size = slot.named.size_of(digest)
        if size is None:
            slot.counters.refused += 1
            log.warning("%s: no list names the blob %s", slot.label, digest.hex())
            return
        if slot.recorder is not None:
            slot.recorder.note(digest, size)
        slot.counters.misses += 1
        if _chunks(slot, digest, size) is not None and not slot.fetcher.cache.has(digest, size):
            slot.wrong.pop(digest, None)
            return  # ``eio`` serves it, part by part
        try:
            if await slot.fetcher.ensure(digest, size, Why(slot, digest), who):
                slot.counters.fetched_bytes += size
            self._incoming.link(digest)
        except NoSpace:
            slot.wrong[digest] = errno.ENOSPC
        except AysfsError:  # the fetch has logged it
            slot.wrong[digest] = errno.EIO
        except FileNotFoundError:  # evicted already: ``eio`` serves it
            pass
        except OSError as error:
            log.warning("%s: the cache cannot be written: %s", slot.label, error)
            slot.wrong[digest] = errno.EIO
        else:
            slot.wrong.pop(digest, None)  # of a reader that was killed before it came to ``eio``
        slot.counters.failures += digest in slot.wrong

    def _last_resort(self, slot: Slot, digest: Digest) -> pyfuse3.EntryAttributes:
        """Nobody has the blob: the reason, or else the blob as a file of ours."""
        size = slot.named.size_of(digest)
        number = slot.wrong.pop(digest, None)
        if number is None and size is None:
            number = errno.EIO
        if number is not None or size is None:
            raise FUSEError(number or errno.EIO)
        inode = slot.files.get(digest)
        if inode is None:
            self._serial = self._serial % _SERIALS + 1
            inode = slot.number << _SLOT | _FILE << _LAYER | self._serial
            slot.files[digest] = inode
            chunks = _chunks(slot, digest, size)
            self._files[inode] = _File(slot, digest, size, chunks)
            if chunks is None:
                log.info("%s: the blob %s is served past the cache", slot.label, digest.hex())
        # Kept: overlayfs asks again for what is not, and another inode would be ESTALE.
        return self._found(inode, FOREVER)

    def _found(self, inode: int, kept: int) -> pyfuse3.EntryAttributes:
        """An answer to a lookup, which the kernel counts as a reference."""
        attributes = self._attributes(inode, kept)
        self.slots[inode >> _SLOT].lookups += 1
        if inode in self._files:
            self._files[inode].lookups += 1
        return attributes

    def _attributes(self, inode: int, kept: int) -> pyfuse3.EntryAttributes:
        attributes = pyfuse3.EntryAttributes()
        file = self._files.get(inode)
        attributes.st_ino = InodeT(inode)
        attributes.entry_timeout = kept
        attributes.attr_timeout = FOREVER
        attributes.st_mode = _DIRECTORY if file is None else stat.S_IFREG | 0o400
        attributes.st_size = 0 if file is None else file.size
        attributes.st_nlink = 1
        attributes.st_blksize = 4096
        return attributes

    @answered
    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        for inode, lookups in inode_list:
            slot = self.slots.get(inode >> _SLOT)
            if slot is None:
                continue
            file = self._files.get(inode)
            if file is not None:
                file.lookups -= lookups
                if file.lookups <= 0:
                    del self._files[inode], slot.files[file.digest]
            slot.lookups -= lookups
            self._settle(slot)

    @answered
    async def getattr(self, inode: InodeT, ctx: RequestContext) -> pyfuse3.EntryAttributes:
        if inode != pyfuse3.ROOT_INODE:
            self._slot(inode)
        return self._attributes(inode, 0)

    @answered
    async def open(self, inode: InodeT, flags: pyfuse3.FlagT, ctx: RequestContext) -> FileInfo:
        file = self._files.get(inode)
        if file is None:
            raise FUSEError(errno.EISDIR)
        why, fetcher = Why(file.slot, file.digest), file.slot.fetcher
        if file.chunks is not None:
            reader = await fetcher.large.open(file.digest, file.size, file.chunks, why)
            return FileInfo(fh=self._readers.add(reader), keep_cache=True)
        descriptor = await fetcher.open(file.digest, file.size, why)
        return FileInfo(fh=FileHandleT(descriptor), keep_cache=True)

    @answered
    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        reader = self._readers.get(fh)
        return os.pread(fh, size, off) if reader is None else await reader.read(off, size)

    @answered
    async def release(self, fh: FileHandleT) -> None:
        reader = self._readers.close(fh)
        if reader is None:
            os.close(fh)
        elif reader.is_whole:
            await _let_go(reader.cache)

    @answered
    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        return FileHandleT(inode)

    @answered
    async def readdir(self, fh: FileHandleT, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """Nothing is ever listed: what is here depends on who asks."""

    @answered
    async def releasedir(self, fh: FileHandleT) -> None:
        return None

    @answered
    async def statfs(self, ctx: RequestContext) -> pyfuse3.StatvfsData:
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = 4096
        data.f_namemax = 255
        return data


def _chunks(slot: Slot, digest: Digest, size: int) -> Chunks | None:
    return slot.named.chunks_of(digest) if size > LARGE else None


async def _let_go(cache: Cache) -> None:
    """Make overlays look again for blobs that were read through us and are objects now."""
    await trio.to_thread.run_sync(let_go, cache.root, abandon_on_cancel=True)


def _inode(slot: int, layer: int, depth: int, digits: int) -> InodeT:
    return InodeT(slot << _SLOT | layer << _LAYER | depth << _DEPTH | digits)


def _digest(digits: int, name: bytes) -> Digest:
    """The digest of a file's name, which begins with the digits of its folders."""
    try:
        digest = from_hex(name.decode("ascii"))
    except ValueError:
        raise FUSEError(errno.ENOENT) from None
    if digest[0] != digits:
        raise FUSEError(errno.ENOENT)
    return digest
