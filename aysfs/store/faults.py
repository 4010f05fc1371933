"""Stores that misbehave in one named way each, around any other store.

Serve the tests and drills of the floors above, which must survive all of them. Own no data;
what is not spoilt is passed on.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import BinaryIO

import trio

from aysfs.digest import Digest
from aysfs.errors import NoRanges, StoreTrouble
from aysfs.names import ServiceName
from aysfs.store.protocol import BlobSource, Held, OpenList, Sink, Store, Stored, Stray


class Passes:
    """The decorator that changes nothing: all others start from it."""

    def __init__(self, inner: Store) -> None:
        self._inner = inner

    @property
    def label(self) -> str:
        return self._inner.label

    async def get(self, digest: Digest, size: int, sink: Sink) -> None:
        await self._inner.get(digest, size, sink)

    async def get_range(
        self, digest: Digest, size: int, start: int, length: int, sink: Sink
    ) -> None:
        await self._inner.get_range(digest, size, start, length, sink)

    def at_hand(self, digest: Digest, size: int) -> bytes | None:
        return None  # every read goes through ``get``, where the fault is

    async def size_of(self, digest: Digest) -> int:
        return await self._inner.size_of(digest)

    async def missing(self, blobs: Mapping[Digest, int]) -> set[Digest]:
        return await self._inner.missing(blobs)

    async def put(self, digest: Digest, size: int, source: BinaryIO) -> None:
        await self._inner.put(digest, size, source)

    async def put_many(self, sources: Sequence[BlobSource]) -> None:
        await self._inner.put_many(sources)

    async def open_list(self, name: ServiceName) -> OpenList:
        return await self._inner.open_list(name)

    async def put_list(self, name: ServiceName, chunks: Iterable[bytes]) -> None:
        await self._inner.put_list(name, chunks)

    async def delete_list(self, name: ServiceName) -> None:
        await self._inner.delete_list(name)

    async def lists(self) -> list[ServiceName]:
        return await self._inner.lists()

    async def read_note(self, name: str) -> bytes:
        return await self._inner.read_note(name)

    async def write_note(self, name: str, data: bytes) -> None:
        await self._inner.write_note(name, data)

    async def delete_note(self, name: str) -> None:
        await self._inner.delete_note(name)

    async def notes(self) -> dict[str, int]:
        return await self._inner.notes()

    async def shelf(self, first: int) -> list[Stored]:
        return await self._inner.shelf(first)

    async def delete(self, digests: Sequence[Digest]) -> None:
        await self._inner.delete(digests)

    async def strays(self) -> list[Stray]:
        return await self._inner.strays()

    async def delete_strays(self, paths: Sequence[str]) -> None:
        await self._inner.delete_strays(paths)

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def _bytes(self, digest: Digest, size: int) -> bytes:
        held = Held()
        await self._inner.get(digest, size, held)
        return held.getvalue()


class _Spoils(Passes):
    """Gives what ``_spoil`` makes of the bytes of a blob, or of a part of one."""

    async def get(self, digest: Digest, size: int, sink: Sink) -> None:
        await self._spoil(await self._bytes(digest, size), sink)

    async def get_range(
        self, digest: Digest, size: int, start: int, length: int, sink: Sink
    ) -> None:
        held = Held()
        await self._inner.get_range(digest, size, start, length, held)
        await self._spoil(held.getvalue(), sink)

    async def _spoil(self, data: bytes, sink: Sink) -> None:
        raise NotImplementedError


class FlipsLastByte(_Spoils):
    """Every blob, and every part of one, arrives with its last byte inverted."""

    async def _spoil(self, data: bytes, sink: Sink) -> None:
        sink.write(data[:-1] + bytes(byte ^ 0xFF for byte in data[-1:]))


class Truncates(_Spoils):
    """Every blob ends after ``keep`` bytes, without a word."""

    def __init__(self, inner: Store, keep: int) -> None:
        super().__init__(inner)
        self._keep = keep

    async def _spoil(self, data: bytes, sink: Sink) -> None:
        sink.write(data[: self._keep])


class AnswersAnother(Passes):
    """Every blob is answered with these bytes, as a captive portal does."""

    def __init__(self, inner: Store, blob: bytes) -> None:
        super().__init__(inner)
        self._blob = blob

    async def get(self, digest: Digest, size: int, sink: Sink) -> None:
        await trio.lowlevel.checkpoint()
        sink.write(self._blob)

    async def get_range(
        self, digest: Digest, size: int, start: int, length: int, sink: Sink
    ) -> None:
        await self.get(digest, size, sink)


class WithoutRanges(Passes):
    """Gives blobs as they are, and never a part of one."""

    async def get_range(
        self, digest: Digest, size: int, start: int, length: int, sink: Sink
    ) -> None:
        await trio.lowlevel.checkpoint()
        raise NoRanges(f"{self.label}: gives no parts")


class Stalls(_Spoils):
    """Every blob stops after ``after`` bytes and never goes on; ``stalled`` tells when."""

    def __init__(self, inner: Store, after: int = 0) -> None:
        super().__init__(inner)
        self._after = after
        self.stalled = trio.Event()

    async def _spoil(self, data: bytes, sink: Sink) -> None:
        sink.write(data[: self._after])
        self.stalled.set()
        await trio.sleep_forever()


class _Gated(Passes):
    """Asks ``_enter`` before every call; ``key`` is what the call is about."""

    async def _enter(self, call: str, key: object) -> None:
        await trio.lowlevel.checkpoint()

    async def get(self, digest: Digest, size: int, sink: Sink) -> None:
        await self._enter("get", digest)
        await super().get(digest, size, sink)

    async def get_range(
        self, digest: Digest, size: int, start: int, length: int, sink: Sink
    ) -> None:
        await self._enter("get_range", digest)
        await super().get_range(digest, size, start, length, sink)

    async def missing(self, blobs: Mapping[Digest, int]) -> set[Digest]:
        await self._enter("missing", None)
        return await super().missing(blobs)

    async def put(self, digest: Digest, size: int, source: BinaryIO) -> None:
        await self._enter("put", digest)
        await super().put(digest, size, source)

    async def put_many(self, sources: Sequence[BlobSource]) -> None:
        for source in sources:
            await self._enter("put", source.digest)
        await super().put_many(sources)

    async def open_list(self, name: ServiceName) -> OpenList:
        await self._enter("open_list", name)
        return await super().open_list(name)

    async def put_list(self, name: ServiceName, chunks: Iterable[bytes]) -> None:
        await self._enter("put_list", name)
        await super().put_list(name, chunks)

    async def delete_list(self, name: ServiceName) -> None:
        await self._enter("delete_list", name)
        await super().delete_list(name)

    async def lists(self) -> list[ServiceName]:
        await self._enter("lists", None)
        return await super().lists()

    async def read_note(self, name: str) -> bytes:
        await self._enter("read_note", name)
        return await super().read_note(name)

    async def write_note(self, name: str, data: bytes) -> None:
        await self._enter("write_note", name)
        await super().write_note(name, data)

    async def delete_note(self, name: str) -> None:
        await self._enter("delete_note", name)
        await super().delete_note(name)

    async def notes(self) -> dict[str, int]:
        await self._enter("notes", None)
        return await super().notes()

    async def shelf(self, first: int) -> list[Stored]:
        await self._enter("shelf", first)
        return await super().shelf(first)

    async def delete(self, digests: Sequence[Digest]) -> None:
        await self._enter("delete", None)
        await super().delete(digests)

    async def strays(self) -> list[Stray]:
        await self._enter("strays", None)
        return await super().strays()

    async def delete_strays(self, paths: Sequence[str]) -> None:
        await self._enter("delete_strays", None)
        await super().delete_strays(paths)


class FailsOnce(_Gated):
    """The first call of each kind about each blob or list fails, the second does not."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self._seen: set[tuple[str, object]] = set()

    async def _enter(self, call: str, key: object) -> None:
        await trio.lowlevel.checkpoint()
        if (call, key) not in self._seen:
            self._seen.add((call, key))
            raise StoreTrouble(f"{self.label}: failed for the first time")


class FailsAlways(_Gated):
    """Every call fails."""

    async def _enter(self, call: str, key: object) -> None:
        await trio.lowlevel.checkpoint()
        raise StoreTrouble(f"{self.label}: always fails")


class Vanishes(_Gated):
    """Fails while ``gone`` is set, as a network does; then the store is back."""

    gone = False

    async def _enter(self, call: str, key: object) -> None:
        await trio.lowlevel.checkpoint()
        if self.gone:
            raise StoreTrouble(f"{self.label}: gone")


class Counts(_Gated):
    """Counts calls: by digest for blobs, by name for lists."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.gets: Counter[Digest] = Counter()
        self.puts: Counter[Digest] = Counter()
        self.opened: Counter[ServiceName] = Counter()
        self.ranges: list[tuple[Digest, int, int]] = []  # digest, start, length; in their order
        self.calls: Counter[str] = Counter()

    async def get_range(
        self, digest: Digest, size: int, start: int, length: int, sink: Sink
    ) -> None:
        self.ranges.append((digest, start, length))
        await super().get_range(digest, size, start, length, sink)

    async def _enter(self, call: str, key: object) -> None:
        await trio.lowlevel.checkpoint()
        self.calls[call] += 1
        if isinstance(key, ServiceName):
            self.opened[key] += call == "open_list"
        elif isinstance(key, bytes) and call in ("get", "put"):
            (self.gets if call == "get" else self.puts)[Digest(key)] += 1
