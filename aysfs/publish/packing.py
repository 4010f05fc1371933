"""The making of packs: blobs and their frames in, packs out, sent while the next are made.

Serves ``packs``, and ``hints`` with the size of batches. Owns what is in memory meanwhile: a few
packs, and of a large one, as the start pack may be, only its file. It asks for no frame of a blob
whose pack is there from before, as the lengths of frames, which say where packs end, are known of
the index.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import BinaryIO

import trio

from aysfs import digest as digests
from aysfs.digest import Digest
from aysfs.errors import first_of
from aysfs.pack import Columns, Entry, PackIndex, head_size, write_pack
from aysfs.pack.cut import MOST, Blob, goes_in, is_last
from aysfs.pack.index import MAX_PACKS, Pack
from aysfs.publish.frames import Frames
from aysfs.publish.put import put_missing
from aysfs.store.claims import Claim
from aysfs.store.protocol import BlobSource

# What is asked of a source at once.
BATCH_BLOBS = 512
BATCH_BYTES = 8 << 20

_AHEAD = 2  # packs that wait to be sent
_HELD = 2 * MOST  # bytes of a pack in memory
_PIECE = 1 << 20

Step = Callable[[str, int, int], object]
"""Told that packs are made, and of how many bytes, of how many."""


def no_step(_phase: str, _done: int, _of: int) -> None:
    """For packing that nobody watches."""


class Before:
    """The packs that were published before, as far as every store has them."""

    def __init__(self, list_sha256: str, index: PackIndex, lacking: set[Digest]) -> None:
        """``index`` of the packs of this list, of which a store is ``lacking`` some."""
        self._list_sha256 = list_sha256
        self._index = index
        self._lacking = lacking

    def referring(self, list_sha256: str) -> PackIndex | None:
        """The index, when it is of just this list and tells of the references of blobs."""
        same = self._list_sha256 == list_sha256 and self._index.has_references
        return self._index if same else None

    def stored(self, digest: Digest, size: int) -> int | None:
        """How long the frame of a blob was."""
        at = self._index.find(digest)
        return self._index.stored(at) if at is not None and self._index.size(at) == size else None

    def same(self, blobs: Sequence[Blob]) -> Pack | None:
        """The pack of just these blobs, in this order."""
        at = self._index.find(blobs[0][0])
        if at is None:
            return None
        info = self._index.packs[self._index.pack(at)]
        if info.first != at or info.count != len(blobs) or info.digest in self._lacking:
            return None
        held = self._index.blobs_of(info)
        same = all((one.digest, one.size) == blob for one, blob in zip(held, blobs, strict=True))
        return Pack(info.digest, info.size, held) if same else None


class _Open:
    """A tail pack that is being filled. A frame that was not needed yet is None."""

    def __init__(self) -> None:
        self.blobs: list[Blob] = []
        self.frames: list[bytes | None] = []
        self.held = 0
        self.content = 0

    def add(self, blob: Blob, stored: int, frame: bytes | None) -> None:
        """One blob more."""
        self.blobs.append(blob)
        self.frames.append(frame)
        self.held += stored
        self.content += blob[1]


class Maker:
    """Makes the packs of one list, one after the other, and sends them meanwhile."""

    def __init__(
        self,
        claims: Sequence[Claim],
        frames: Frames,
        before: Before | None,
        step: Step,
        size: int,
        *,
        again: bool = False,
    ) -> None:
        """``again``: send also what the stores have."""
        self.done = 0
        self.sent = 0
        self.sent_bytes = 0
        self._again = again
        self._claims = claims
        self._frames = frames
        self._before = before
        self._step = step
        self._size = size
        self._packs: list[Pack] = []
        self._files: dict[Digest, BinaryIO] = {}  # of packs that are not sent yet
        self._outbox, self._inbox = trio.open_memory_channel[BlobSource](_AHEAD)

    async def run(self, start: Sequence[Blob], rest: Sequence[Blob]) -> list[Pack]:
        """All packs, which every store has by then. The first is the start pack, if any is."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send_all)
                async with self._outbox:
                    if start:
                        await self._start(start)
                    await self._tail(rest)
        # Not `except*`: Python 3.11.2, Debian's, would wrap what is raised.
        except BaseExceptionGroup as group:
            raise first_of(group) from None
        finally:
            for file in self._files.values():
                file.close()
        return self._packs

    async def _send_all(self) -> None:
        async with self._inbox:
            async for first in self._inbox:
                ready = [first]
                with suppress(trio.WouldBlock, trio.EndOfChannel):
                    while True:
                        ready.append(self._inbox.receive_nowait())
                lacking = await put_missing(self._claims, ready, again=self._again)
                sent = [one.size for one in ready if one.digest in lacking]
                self.sent += len(sent)
                self.sent_bytes += sum(sent)
                for one in ready:
                    if one.digest in self._files:
                        self._files.pop(one.digest).close()

    async def _start(self, blobs: Sequence[Blob]) -> None:
        """The start pack, by way of a file: first the frames, and then the head before them."""
        same = self._same(blobs)
        if same is not None:
            self._packs.append(same)
            self._tell(blobs)
            return
        with ExitStack() as unfinished:
            file = unfinished.enter_context(_unnamed_file())
            held = Columns()
            file.seek(head_size(len(blobs)))
            for batch in in_batches(blobs):
                frames = await self._frames.frames(batch)
                for (digest, size), frame in zip(batch, frames, strict=True):
                    held.append(Entry(digest, size, len(frame)))
                await trio.to_thread.run_sync(_write_all, file, frames)
                self._tell(batch)
            source = await trio.to_thread.run_sync(_finished, file, held)
            await self._take(source, held, file)
            unfinished.pop_all()

    async def _take(self, source: BlobSource, held: Columns, file: BinaryIO | None) -> None:
        """A new pack, which is the file's, where there is one, until it is sent."""
        if file is not None:
            self._files[source.digest] = file
        self._packs.append(Pack(source.digest, source.size, held))
        await self._outbox.send(source)

    async def _tail(self, blobs: Sequence[Blob]) -> None:
        """Tail packs; what is left of the blobs when there are as many as an index takes."""
        pack = _Open()
        for batch in in_batches(blobs):
            for blob, stored, frame in await self._look(batch):
                if not goes_in(pack.held, stored):
                    await self._close(pack)
                    pack = _Open()
                pack.add(blob, stored, frame)
                if is_last(pack.held, pack.content, blob[0], stored):
                    await self._close(pack)
                    pack = _Open()
            self._tell(batch)
        if pack.blobs:
            await self._close(pack)

    async def _look(self, batch: Sequence[Blob]) -> list[tuple[Blob, int, bytes | None]]:
        """The frames of a batch; only their lengths where these are known of the packs before."""
        before = self._before
        known = [before.stored(*blob) if before is not None else None for blob in batch]
        unknown = [blob for blob, stored in zip(batch, known, strict=True) if stored is None]
        made = iter(await self._frames.frames(unknown) if unknown else [])
        found: list[tuple[Blob, int, bytes | None]] = []
        for blob, stored in zip(batch, known, strict=True):
            frame = None if stored is not None else next(made)
            found.append((blob, len(frame) if frame is not None else stored or 0, frame))
        return found

    async def _close(self, pack: _Open) -> None:
        """Have the pack, the one from before or a new one."""
        if len(self._packs) == MAX_PACKS:
            return
        same = self._same(pack.blobs)
        if same is not None:
            self._packs.append(same)
            return
        lacking = [at for at, frame in enumerate(pack.frames) if frame is None]
        for some in in_batches([pack.blobs[at] for at in lacking]):
            for frame in await self._frames.frames(some):
                pack.frames[lacking.pop(0)] = frame
        await self._take(*await trio.to_thread.run_sync(_whole, pack))

    def _same(self, blobs: Sequence[Blob]) -> Pack | None:
        return self._before.same(blobs) if self._before is not None else None

    def _tell(self, done: Sequence[Blob]) -> None:
        self.done += sum(size for _, size in done)
        self._step("packs", self.done, self._size)


def in_batches(blobs: Iterable[Blob]) -> Iterator[list[Blob]]:
    """As many of them as are asked of a source at once; of large ones it is one alone."""
    batch: list[Blob] = []
    held = 0
    for blob in blobs:
        if batch and (len(batch) >= BATCH_BLOBS or held + blob[1] > BATCH_BYTES):
            yield batch
            batch, held = [], 0
        batch.append(blob)
        held += blob[1]
    if batch:
        yield batch


# --- in worker threads -------------------------------------------------------------------


def _whole(pack: _Open) -> tuple[BlobSource, Columns, BinaryIO | None]:
    """A tail pack, and the file that it is in when it is large."""
    frames = [frame for frame in pack.frames if frame is not None]
    held = Columns(
        Entry(digest, size, len(frame))
        for (digest, size), frame in zip(pack.blobs, frames, strict=True)
    )
    if sum(held.stored) <= _HELD:
        data = b"".join(write_pack(held, frames))
        return BlobSource.of(digests.of(data), data), held, None
    with ExitStack() as unfinished:
        file = unfinished.enter_context(_unnamed_file())
        file.seek(head_size(len(held)))
        _write_all(file, frames)
        source = _finished(file, held)
        unfinished.pop_all()
    return source, held, file


def _unnamed_file() -> BinaryIO:
    return tempfile.TemporaryFile(prefix="aysfs-pack-", buffering=0)


def _finished(file: BinaryIO, held: Columns) -> BlobSource:
    """A pack whose frames are in the file already, and the head not yet."""
    file.seek(0)
    _write_all(file, list(write_pack(held, ())))
    file.seek(0)
    hasher, size = digests.hasher(), 0
    while piece := file.read(_PIECE):
        hasher.update(piece)
        size += len(piece)
    return BlobSource(Digest(hasher.digest()), size, partial(_reopen, file.fileno()))


def _write_all(file: BinaryIO, pieces: Iterable[bytes | memoryview]) -> None:
    for piece in pieces:
        view = memoryview(piece)
        while view:
            view = view[file.write(view) :]


def _reopen(fd: int) -> BinaryIO:
    """The file below a descriptor, which has no name, from its beginning."""
    return open(f"/proc/self/fd/{fd}", "rb", buffering=0)
