"""What a store is asked, and nothing more. Decorators have the same shape.

A store moves bytes; it does not judge them. Whoever receives a blob verifies it: the cache
on the way in (``aysfs.cache``), a writing store before a blob appears under its name.
"""

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import BinaryIO, NamedTuple, Protocol

from aysfs.digest import Digest
from aysfs.names import ServiceName

PART_IN_LOOP = 1 << 20
"""Bytes of a part that the sink gets in the event loop; a larger one may come from a thread."""


class Writes(Protocol):
    """Where bytes go. Called from the event loop or from one worker thread."""

    def write(self, data: bytes | memoryview, /) -> object:
        """Take the next bytes; the memory is the caller's again when this returns.

        Raises when the receiver gave up, the disk is full, or the bytes are not the blob: the
        store lets that through. Never called once ``get`` has returned, raised or been cancelled.
        """


class Sink(Writes, Protocol):
    """Where the bytes of a blob go."""

    def restart(self) -> None:
        """Forget the bytes so far: the next are the blob's first, from another source."""


class Held(io.BytesIO):
    """A sink in memory."""

    def restart(self) -> None:
        self.seek(0)
        self.truncate()


class BlobSource(NamedTuple):
    """A blob to be kept. ``open`` may be called in a worker thread; the store closes the file.

    ``held`` are its bytes where the sender has them in memory and took the digest from these
    very bytes: a store may write them without hashing them once more. ``open`` gives the same.
    """

    digest: Digest
    size: int
    open: Callable[[], BinaryIO]
    held: bytes | None = None

    @classmethod
    def of(cls, digest: Digest, data: bytes) -> "BlobSource":
        """A blob in memory, whose digest was just taken from these bytes."""
        return cls(digest, len(data), partial(io.BytesIO, data), data)


class OpenList(NamedTuple):
    """A list as found in a store: bytes at offset 0, owned by the receiver, who closes it."""

    file: BinaryIO
    mtime_ns: int
    source: str  # names the list in messages
    store: str = ""
    """The label of the store that it came from; said where there are several to choose from."""


class Stored(NamedTuple):
    """A blob as a store holds it, its content not looked at. ``mtime_ns`` is the store's clock."""

    digest: Digest
    size: int
    mtime_ns: int


class Stray(NamedTuple):
    """A file that is neither blob nor list nor note; ``path`` is relative to the namespace."""

    path: str
    size: int
    mtime_ns: int


class Store(Protocol):
    """Blobs by digest and lists by name.

    Every method raises StoreTrouble when the store fails to answer; that is never Missing.
    """

    @property
    def label(self) -> str:
        """How messages name this store; never holds a password."""

    async def get(self, digest: Digest, size: int, sink: Sink) -> None:
        """Write the blob's bytes to the sink, in order, once. BlobMissing when not there."""

    async def get_range(
        self, digest: Digest, size: int, start: int, length: int, sink: Sink
    ) -> None:
        """Write ``length`` bytes from ``start`` of a blob of this size to the sink, in order, once.

        At least one byte, and none behind the blob's end. In the event loop for up to
        ``PART_IN_LOOP`` bytes. BlobMissing when not there; NoRanges, before a byte reached the
        sink, where the store gives nothing but whole blobs.
        """

    def at_hand(self, digest: Digest, size: int) -> bytes | None:
        """The bytes of a small blob that needs no waiting, None where ``get`` must be asked.

        None in every doubt and trouble too: ``get`` says what is the matter.
        """

    async def size_of(self, digest: Digest) -> int:
        """How many bytes the blob of this digest has here. BlobMissing when not there.

        For whoever is asked for a blob by its digest alone.
        """

    async def missing(self, blobs: Mapping[Digest, int]) -> set[Digest]:
        """Those that the store does not hold, of digests and their sizes.

        One held with another size, as an interrupted copy leaves it, is missing: ``put``
        replaces it.
        """

    async def put(self, digest: Digest, size: int, source: BinaryIO) -> None:
        """Keep a blob; Corrupt, and nothing kept, when the bytes do not match the digest."""

    async def put_many(self, sources: Sequence[BlobSource]) -> None:
        """Keep each of these blobs as ``put`` does, at the price of one call.

        For many small blobs, where a call each would cost more than the copying: a store with
        a network before it sends them side by side, a disk one after the other. Whoever
        calls has asked ``missing``: one that is there may be written again. After an error any
        number of them may have been kept, each of them whole.
        """

    async def open_list(self, name: ServiceName) -> OpenList:
        """The current list of a service, or the one under its tag. ListMissing when not there."""

    async def put_list(self, name: ServiceName, chunks: Iterable[bytes]) -> None:
        """Publish a list atomically; every blob put before is durable first."""

    async def delete_list(self, name: ServiceName) -> None:
        """Have this list no more, durably. ListMissing when it was not there."""

    async def lists(self) -> list[ServiceName]:
        """All lists, tags included, sorted."""

    async def read_note(self, name: str) -> bytes:
        """A note: a small mutable file beside the lists. NoteMissing when not there."""

    async def write_note(self, name: str, data: bytes) -> None:
        """Keep a note, replacing the one of this name in one step. At most 1 MiB."""

    async def delete_note(self, name: str) -> None:
        """Have no note of this name, whether or not there was one."""

    async def notes(self) -> dict[str, int]:
        """The names of all notes, sorted, and when each was written: ns of the store's clock."""

    # --- upkeep ------------------------------------------------------------------------------

    async def shelf(self, first: int) -> list[Stored]:
        """Every blob whose digest begins with this byte: all of them are 256 questions.

        One that lies in both layouts comes twice.
        """

    async def delete(self, digests: Sequence[Digest]) -> None:
        """Hold these blobs no more, in any layout, whether or not they were there.

        Cancelled or not, nothing is deleted any more once it has returned or raised, as far as
        the store can know: after StoreTrouble the last of it may still be on its way.
        """

    async def strays(self) -> list[Stray]:
        """The files at the top of the namespace and beside the lists that belong to neither."""

    async def delete_strays(self, paths: Sequence[str]) -> None:
        """Have these temporary files no more; BadName, and nothing is done, for anything else."""

    async def aclose(self) -> None:
        """Let go of connections and descriptors."""
