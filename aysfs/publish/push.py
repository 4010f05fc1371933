"""Publishing a directory: hash it, upload what the store lacks, then name it all in a list.

Serves ``aysfs push``. The order is the promise: a list appears only after every blob that it
names. Knows nothing of caches of blobs, and opens a file of the tree only to read it.
"""

import functools
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple, Protocol, TypeVar

import trio

from aysfs import digest as digests
from aysfs.digest import Digest
from aysfs.errors import AysfsError, Corrupt
from aysfs.flist.entry import Entry, Header, Kind
from aysfs.flist.text import write_flist
from aysfs.names import ServiceName
from aysfs.publish.hash_cache import HashCache
from aysfs.publish.walk import Found, TreeChanged, key_of, unreadable, walk
from aysfs.store.protocol import BlobSource, Store

T = TypeVar("T")
Batch = list[Found]

CHUNK = 1 << 20
WORKERS = max(2, min(4, os.cpu_count() or 1))

# A batch is one call: large enough that a call costs nothing beside the copying, small
# enough that progress moves and an abandoned one is soon over.
BATCH_FILES = 256
BATCH_BYTES = 16 << 20

# Replaced by a symlink or a fifo since the walk: fail, never follow and never wait.
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class Progress(Protocol):
    """Told how many bytes of a phase are done. Called from the event loop."""

    def __call__(self, phase: Literal["hash", "upload"], done: int, total: int, /) -> None: ...


class PushReport(NamedTuple):
    """What a push did. ``files`` and ``bytes`` count names of regular files, links included."""

    name: ServiceName
    files: int
    bytes: int
    uploaded_blobs: int
    uploaded_bytes: int
    present_blobs: int
    list_bytes: int
    list_md5: Digest


def no_progress(phase: Literal["hash", "upload"], done: int, total: int, /) -> None:
    """A progress that nobody watches."""


async def push(
    directory: Path,
    name: ServiceName,
    store: Store,
    *,
    base: bytes | None = None,
    hash_cache: HashCache | None = None,
    progress: Progress = no_progress,
) -> PushReport:
    """Publish the directory as ``name``. Paths in the list are below ``base``.

    Without a base it is the directory's own absolute path. The same tree gives the same list.
    """
    base = check_base(base) if base is not None else _absolute(directory)
    found = await _in_thread(lambda: walk(os.fsencode(directory), base))
    hashed = await _hash(found, hash_cache, progress)
    blobs: dict[Digest, Found] = {}
    for one in hashed:
        if one.entry.kind == Kind.REGULAR:
            blobs.setdefault(one.entry.digest, one)
    lacking = await store.missing({digest: one.entry.size for digest, one in blobs.items()})
    upload = [one for digest, one in blobs.items() if digest in lacking]
    await _upload(upload, store, hash_cache, progress)
    if hash_cache is not None:
        await _in_thread(hash_cache.save)
    chunks = list(write_flist(Header(2, base), (one.entry for one in hashed)))
    await store.put_list(name, chunks)
    return _report(name, [one.entry for one in hashed], upload, len(blobs), chunks)


def check_base(base: bytes) -> bytes:
    """The base without a trailing slash; AysfsError unless it is an absolute, plain path."""
    parts = base.rstrip(b"/").split(b"/")
    if not base.startswith(b"/") or b"\0" in base or {b"", b".", b".."} & set(parts[1:]):
        raise AysfsError(f"`{os.fsdecode(base)}` is no base", hint="a base is an absolute path")
    return base.rstrip(b"/") or b"/"


def _absolute(directory: Path) -> bytes:
    return os.fsencode(os.path.abspath(directory))


async def _in_thread(work: Callable[[], T]) -> T:
    return await trio.to_thread.run_sync(work, abandon_on_cancel=True)


def _batches(files: Iterable[Found]) -> Iterator[Batch]:
    batch: Batch = []
    size = 0
    for one in files:
        if batch and (len(batch) >= BATCH_FILES or size + one.entry.size > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(one)
        size += one.entry.size
    if batch:
        yield batch


async def _each_batch(
    files: Sequence[Found],
    work: Callable[[Batch], Awaitable[None]],
    phase: Literal["hash", "upload"],
    progress: Progress,
) -> None:
    """Run ``work`` over all batches, a few at a time; the first error ends it."""
    total = sum(one.entry.size for one in files)
    done = 0
    batches = _batches(files)
    errors: list[AysfsError] = []

    async def worker(scope: trio.CancelScope) -> None:
        nonlocal done
        for batch in batches:
            try:
                await work(batch)
            except AysfsError as error:
                errors.append(error)
                scope.cancel()
                return
            done += sum(one.entry.size for one in batch)
            progress(phase, done, total)

    progress(phase, 0, total)
    async with trio.open_nursery() as nursery:
        for _ in range(WORKERS):
            nursery.start_soon(worker, nursery.cancel_scope)
    if errors:
        raise errors[0]


async def _hash(
    found: list[Found], hash_cache: HashCache | None, progress: Progress
) -> list[Found]:
    """The same, with digests. Each inode is read once, whatever the number of its names."""
    known: dict[tuple[int, ...], Digest] = {}
    files = [one for one in found if one.entry.kind == Kind.REGULAR]
    if hash_cache is not None:
        for one in files:
            if (digest := hash_cache.get(one.key)) is not None:
                known[one.key] = digest
    unknown = list({one.key: one for one in files if one.key not in known}.values())

    async def work(batch: Batch) -> None:
        started = time.time_ns()
        for one, digest in zip(batch, await _in_thread(lambda: _hash_files(batch)), strict=True):
            known[one.key] = digest
            if hash_cache is not None:
                hash_cache.add(one.key, digest, started)

    await _each_batch(unknown, work, "hash", progress)
    return [
        one._replace(entry=one.entry._replace(digest=known[one.key]))
        if one.entry.kind == Kind.REGULAR
        else one
        for one in found
    ]


def _hash_files(batch: Batch) -> list[Digest]:
    buffer = memoryview(bytearray(CHUNK))
    return [_hash_file(one, buffer) for one in batch]


def _hash_file(one: Found, buffer: memoryview) -> Digest:
    hasher = digests.hasher()
    try:
        fd = os.open(one.file, _READ)
        try:
            while count := os.readv(fd, [buffer]):
                hasher.update(buffer[:count])
            changed = key_of(os.fstat(fd)) != one.key
        finally:
            os.close(fd)
    except OSError as error:
        raise unreadable(one.file, error) from error
    if changed:
        raise TreeChanged(one.file, "changed while the tree was read")
    return Digest(hasher.digest())


async def _upload(
    files: Sequence[Found], store: Store, hash_cache: HashCache | None, progress: Progress
) -> None:
    async def work(batch: Batch) -> None:
        sources = [
            BlobSource(one.entry.digest, one.entry.size, functools.partial(_open, one.file))
            for one in batch
        ]
        try:
            await store.put_many(sources)
        except Corrupt:
            await _in_thread(lambda: _find_changed(batch, hash_cache))
            raise

    await _each_batch(files, work, "upload", progress)


def _open(file: bytes) -> BinaryIO:
    try:
        return os.fdopen(os.open(file, _READ), "rb", buffering=0)
    except OSError as error:
        raise unreadable(file, error) from error


def _find_changed(batch: Batch, hash_cache: HashCache | None) -> None:
    """TreeChanged when a file of the batch is not what it was hashed as; else it was the store."""
    buffer = memoryview(bytearray(CHUNK))
    for one in batch:
        if hash_cache is not None:
            hash_cache.forget(one.key)
        try:
            same = _hash_file(one, buffer) == one.entry.digest
        except TreeChanged:
            same = False
        if not same:
            raise TreeChanged(one.file, "changed while it was pushed")


def _report(
    name: ServiceName,
    entries: Sequence[Entry],
    upload: Sequence[Found],
    blobs: int,
    chunks: Sequence[bytes],
) -> PushReport:
    hasher = digests.hasher()
    for chunk in chunks:
        hasher.update(chunk)
    files = [entry for entry in entries if entry.kind == Kind.REGULAR]
    return PushReport(
        name=name,
        files=len(files),
        bytes=sum(entry.size for entry in files),
        uploaded_blobs=len(upload),
        uploaded_bytes=sum(one.entry.size for one in upload),
        present_blobs=blobs - len(upload),
        list_bytes=sum(map(len, chunks)),
        list_md5=Digest(hasher.digest()),
    )
