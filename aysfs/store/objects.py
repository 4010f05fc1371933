"""A bucket of an object store: ``s3://``, ``gs://`` and ``az://``, through obstore.

Serves whoever reads or publishes through the Store protocol, and owns the threads that the
network is waited for in: obstore's own asynchronous calls belong to asyncio. Blobs come through
the event loop where their URLs can be signed at once (``objects_signed``). The layout is the
directory store's, so the same bucket behind a web server is an HTTP store.

An object appears whole or not at all, and is durable once the store has said that it has it: a
list is published after its blobs without anything to be synced. A blob is written over one that
is there (whoever calls has asked ``missing``), and not on the condition that none is: the bytes
are the same, and what a gc sees as its age begins again.
"""

import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from queue import Empty, SimpleQueue
from typing import BinaryIO, TypeVar

import trio

from aysfs import digest as digests
from aysfs.digest import Digest
from aysfs.errors import (
    BlobMissing,
    Corrupt,
    ListMissing,
    NoRanges,
    NoteMissing,
    StoreTrouble,
)
from aysfs.names import ServiceName
from aysfs.store import layout
from aysfs.store.gate import Gate
from aysfs.store.http_request import NotThereError, OtherSize, Refused
from aysfs.store.objects_address import ObjectAddress
from aysfs.store.objects_bucket import PART, Bounds, Bucket
from aysfs.store.objects_held import Job, Place, Search
from aysfs.store.objects_signed import SignedReads
from aysfs.store.protocol import (
    PART_IN_LOOP,
    BlobSource,
    Held,
    OpenList,
    Sink,
    Stored,
    Stray,
    Writes,
)

T = TypeVar("T")

THREADS = 16
CHUNK = 1 << 20


class _AbandonedError(Exception):
    """The caller has gone: ends an upload, and nobody sees it."""


class ObjectsStore:
    """Blobs, lists and notes below ``prefix/namespace`` of a bucket."""

    def __init__(
        self,
        address: ObjectAddress,
        namespace: str = layout.DEFAULT_NAMESPACE,
        *,
        bounds: Bounds | None = None,
    ) -> None:
        layout.check_namespace(namespace)
        self._namespace = namespace
        bounds = bounds or Bounds()
        self._bucket = Bucket(address, bounds)
        self._signed = SignedReads(self._bucket, bounds) if self._bucket.may_sign else None
        self._limiter = trio.CapacityLimiter(THREADS)
        # The place where the last blob was found is asked first: a store in the old layout
        # costs one request a blob, as any other.
        self._places: tuple[Place, Place] = (layout.blob, layout.old_blob)
        # How many there are, for listings, once that was asked: where the second comes later, a
        # gc leaves what it does not see.
        self._layouts = 0

    @property
    def label(self) -> str:
        return self._bucket.label

    async def get(self, digest: Digest, size: int, sink: Sink) -> None:
        if (signed := self._signed) is not None:
            await self._find(digest, size, lambda path: signed.fetch(path, size, sink))
            return
        await self._in_thread_into(sink, None, lambda to: self._read(digest, size, None, to))

    async def get_range(
        self, digest: Digest, size: int, start: int, length: int, sink: Sink
    ) -> None:
        if (signed := self._signed) is not None:
            await self._find(
                digest, size, lambda path: signed.fetch_part(path, size, start, length, sink)
            )
            return
        part = start, start + length
        await self._in_thread_into(sink, length, lambda to: self._read(digest, size, part, to))

    def at_hand(self, digest: Digest, size: int) -> bytes | None:
        return None  # a network is never at hand

    async def size_of(self, digest: Digest) -> int:
        def look() -> int:
            for place in self._places:
                found = self._bucket.head(place(self._namespace, digest))
                if found is not None:
                    return found.size
            self._bucket.below(self._namespace)  # is there a bucket at all?
            raise BlobMissing(f"{self.label} has no blob {digest.hex()}")

        return await self._in_thread(look)

    async def missing(self, blobs: Mapping[Digest, int]) -> set[Digest]:
        if not blobs:
            return set()
        places = await self._in_thread(self._in_use)
        search = Search(self._bucket, self._namespace, blobs, places)
        await self._each(search.jobs())
        return blobs.keys() - search.held

    async def put(self, digest: Digest, size: int, source: BinaryIO) -> None:
        stop = threading.Event()
        try:
            await self._in_thread(lambda: self._write(digest, size, source, stop))
        finally:
            stop.set()

    async def put_many(self, sources: Sequence[BlobSource]) -> None:
        stop = threading.Event()
        jobs: list[Job] = [partial(self._write_source, one, stop) for one in sources]
        try:
            await self._each(jobs)
        finally:
            stop.set()

    async def open_list(self, name: ServiceName) -> OpenList:
        return await self._in_thread(lambda: self._open_list(name))

    async def put_list(self, name: ServiceName, chunks: Iterable[bytes]) -> None:
        await self._in_thread(lambda: self._put_list(name, chunks))

    async def delete_list(self, name: ServiceName) -> None:
        def delete() -> None:
            path = layout.list_path(self._namespace, name)
            if self._bucket.head(path) is None:
                self._bucket.below(layout.list_directory(self._namespace))
                raise ListMissing(f"{self.label} has no list {name}")
            self._bucket.delete([path])

        await self._in_thread(delete)

    async def lists(self) -> list[ServiceName]:
        found = map(layout.parse_list_file, await self._beside_lists())
        return sorted(filter(None, found), key=str)

    async def read_note(self, name: str) -> bytes:
        path = layout.note_path(self._namespace, name)

        def read() -> bytes:
            found, pieces = self._bucket.read(path, layout.NOTE_LIMIT)
            if found.size > layout.NOTE_LIMIT:
                raise StoreTrouble(
                    f"{self.label}/{path}: larger than the {layout.NOTE_LIMIT} bytes of a note"
                )
            return b"".join(pieces)

        try:
            return await self._in_thread(read)
        except NotThereError:
            raise NoteMissing(f"{self.label} has no note {name}") from None

    async def write_note(self, name: str, data: bytes) -> None:
        layout.check_note(name, data)
        path = layout.note_path(self._namespace, name)
        await self._in_thread(lambda: self._bucket.put(path, data))

    async def delete_note(self, name: str) -> None:
        path = layout.note_path(self._namespace, name)
        await self._in_thread(lambda: self._bucket.delete([path]))

    async def notes(self) -> dict[str, int]:
        found = await self._beside_lists()
        return {name: found[name] for name in sorted(filter(layout.is_note, found))}

    async def shelf(self, first: int) -> list[Stored]:
        def read() -> list[Stored]:
            layouts = self._layouts = self._layouts or len(self._in_use())
            found = []
            for place in layout.shelves(self._namespace, first)[:layouts]:
                for page in self._bucket.list(place):
                    for path, size, mtime_ns in page:
                        folder, _, name = path.rpartition("/")
                        digest = layout.parse_blob_file(name, first)
                        if digest is not None and folder == place:
                            found.append(Stored(digest, size, mtime_ns))
            return found

        return await self._in_thread(read)

    async def delete(self, digests: Sequence[Digest]) -> None:
        if not digests:
            return

        def delete() -> None:
            places = self._in_use()
            self._bucket.delete(
                [place(self._namespace, one) for one in digests for place in places]
            )

        # Never abandoned: what is deleted after its caller has gone might be counted on by then.
        await trio.to_thread.run_sync(delete, limiter=self._limiter)

    async def strays(self) -> list[Stray]:
        """What others left. Uploads that were cut off are no objects, and nothing lists them
        here: a rule of the bucket takes them away (docs/object-store.md).
        """

        def look() -> list[Stray]:
            directory = layout.list_directory(self._namespace)
            top, beside = self._bucket.below(self._namespace), self._bucket.below(directory)
            found = [
                *top.objects,
                *(one for one in beside.objects if layout.is_stray(one.path.rpartition("/")[2])),
            ]
            skip = len(self._namespace) + 1
            return [Stray(one.path[skip:], one.size, one.mtime_ns) for one in found]

        return await self._in_thread(look)

    async def delete_strays(self, paths: Sequence[str]) -> None:
        layout.check_temporaries(paths)
        full = [f"{self._namespace}/{path}" for path in paths]
        await self._in_thread(lambda: self._bucket.delete(full))

    async def aclose(self) -> None:
        if self._signed is not None:
            await self._signed.aclose()
        self._bucket.close()
        await trio.lowlevel.checkpoint()

    # --- in the event loop -------------------------------------------------------------------

    async def _find(
        self, digest: Digest, size: int, read: Callable[[str], Awaitable[None]]
    ) -> None:
        """Read a blob, by the path of its object."""
        other: Corrupt | None = None
        for place in self._places:
            path = place(self._namespace, digest)
            try:
                await read(path)
            except NotThereError:
                continue
            except OtherSize as error:
                other = other or error
            except NoRanges:  # also what is said of a part behind the end, here without the size
                await self._in_thread(partial(self._bucket.check_size, path, size))
                raise
            except Refused as error:
                why = await self._in_thread(partial(self._bucket.explain, path))
                raise why or error from None
            else:
                self._found(place)
                return
        await self._in_thread(lambda: self._bucket.below(self._namespace))  # is there a bucket?
        raise other or BlobMissing(f"{self.label} has no blob {digest.hex()}")

    def _found(self, place: Place) -> None:
        if place is not self._places[0]:
            self._places = (self._places[1], self._places[0])

    # --- in a thread -------------------------------------------------------------------------

    def _in_use(self) -> Sequence[Place]:
        """The layouts that blobs lie in. StoreTrouble where there is no bucket."""
        top = self._bucket.below(self._namespace)
        return self._places if "files" in top.folders else (layout.blob,)

    def _read(self, digest: Digest, size: int, part: tuple[int, int] | None, sink: Writes) -> None:
        """A blob, or its bytes from the first number up to the second."""
        other: Corrupt | None = None
        for place in self._places:
            path = place(self._namespace, digest)
            try:
                found, pieces = self._bucket.read(path, size, part)
            except NotThereError:
                continue
            if found.size != size:
                other = Corrupt(f"{self.label}/{path} has {found.size} bytes, not {size}")
                continue
            self._found(place)
            for piece in pieces:
                sink.write(piece)
            return
        raise other or BlobMissing(f"{self.label} has no blob {digest.hex()}")

    def _write_source(self, source: BlobSource, stop: threading.Event) -> None:
        digest, size = source.digest, source.size
        if source.held is not None and size <= PART:
            self._bucket.put(layout.blob(self._namespace, digest), source.held)
            return
        with source.open() as file:
            self._write(digest, size, file, stop)

    def _write(self, digest: Digest, size: int, file: BinaryIO, stop: threading.Event) -> None:
        """Keep a blob whose bytes are read once, and hashed before the last of them is sent."""
        path = layout.blob(self._namespace, digest)
        pieces = _verified(file, digest, size, f"{self.label}/{path}", stop)
        if size <= PART:
            self._bucket.put(path, b"".join(pieces))
        else:
            self._bucket.put_parts(path, size, pieces)

    def _open_list(self, name: ServiceName) -> OpenList:
        path = layout.list_path(self._namespace, name)
        try:
            found, pieces = self._bucket.read(path, CHUNK + 1)
        except NotThereError:
            raise ListMissing(f"{self.label} has no list {name}") from None
        file = tempfile.TemporaryFile()  # noqa: SIM115 - the receiver closes it
        try:
            for piece in pieces:
                file.write(piece)
            file.seek(0)
        except BaseException:
            file.close()
            raise
        return OpenList(file, found.mtime_ns, f"{self.label}/{path}")

    def _put_list(self, name: ServiceName, chunks: Iterable[bytes]) -> None:
        path = layout.list_path(self._namespace, name)
        with tempfile.TemporaryFile() as file:
            for chunk in chunks:
                file.write(chunk)
            size = file.tell()
            file.seek(0)
            if size <= PART:
                self._bucket.put(path, file.read())
            else:
                self._bucket.put_parts(path, size, iter(lambda: file.read(CHUNK), b""))

    # --- threads -----------------------------------------------------------------------------

    async def _beside_lists(self) -> dict[str, int]:
        """The names beside the lists, themselves included, and when each was written."""
        directory = layout.list_directory(self._namespace)
        found = await self._in_thread(lambda: self._bucket.below(directory))
        return {one.path.rpartition("/")[2]: one.mtime_ns for one in found.objects}

    async def _each(self, jobs: Sequence[Job]) -> None:
        """Do all of them side by side; after the first error no other is begun."""
        todo: SimpleQueue[Job] = SimpleQueue()
        for job in jobs:
            todo.put(job)
        stop = threading.Event()
        failed: list[Exception] = []

        def work() -> None:
            while not stop.is_set():
                try:
                    job = todo.get_nowait()
                except Empty:
                    return
                try:
                    job()
                except Exception as error:  # noqa: BLE001 - raised below, out of the nursery's group
                    failed.append(error)
                    stop.set()

        try:
            async with trio.open_nursery() as nursery:
                for _ in range(min(THREADS, len(jobs))):
                    nursery.start_soon(self._in_thread, work)
        finally:
            stop.set()
        if failed:
            raise failed[0]

    async def _in_thread_into(
        self, sink: Sink, length: int | None, read: Callable[[Writes], None]
    ) -> None:
        """Read in a thread; few bytes reach the sink from here."""
        if length is not None and length <= PART_IN_LOOP:
            held = Held()
            await self._in_thread(partial(read, held))
            sink.write(held.getbuffer())
            return
        gate = Gate(sink)
        try:
            await self._in_thread(partial(read, gate))
        finally:
            gate.close()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._limiter)


def _verified(
    file: BinaryIO, digest: Digest, size: int, where: str, stop: threading.Event
) -> Iterator[bytes]:
    """The bytes of a blob, the last of them only when all are those of its digest and size."""
    hasher = digests.hasher()
    done = 0
    last = b""
    while data := file.read(min(CHUNK, size - done + 1)):
        done += len(data)
        if done > size:
            raise Corrupt(f"{where}: refused, more than the {size} bytes that were announced")
        hasher.update(data)
        if last:
            yield last
        if stop.is_set():
            raise _AbandonedError
        last = data
    if done != size:
        raise Corrupt(f"{where}: refused, {done} bytes where {size} were announced")
    if hasher.digest() != digest:
        raise Corrupt(f"{where}: refused, the bytes have md5 {hasher.digest().hex()}")
    if last:
        yield last
