"""What an index of packs tells beside where blobs are: what each refers to, and what starts read.

Serves ``packs``. They are found in the bytes of those blobs of a list that say something, which
come from the same source as their frames, a batch at a time; or in the index that was published of
the same list, and then no blob is read.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import trio

from aysfs.digest import Digest
from aysfs.flist.entry import Entry
from aysfs.pack import PackIndex
from aysfs.pack.cut import Blob
from aysfs.publish.frames import Frames
from aysfs.publish.packing import Step, in_batches
from aysfs.references import References

Entries = Callable[[], Iterable[Entry]]
"""The entries of a whole list, as often as they are asked for; it is called in worker threads."""


class Hints(NamedTuple):
    """The references of blobs, and what a start of which no profile tells reads, in its order."""

    references: Mapping[Digest, Sequence[Digest]]
    start: Sequence[Digest]


async def find_hints(
    entries: Entries, blobs: Mapping[Digest, int], source: Frames, step: Step
) -> Hints:
    """Read what says something of these blobs, digests and sizes. Raises what the source raises."""
    references = await trio.to_thread.run_sync(lambda: References(entries()))
    asked = [(digest, size) for digest, size in references.to_read() if blobs.get(digest) == size]
    done, of = 0, sum(size for _, size in asked)
    for batch in in_batches(asked):
        contents = await source.contents(batch)
        await trio.to_thread.run_sync(_read, references, batch, contents)
        done += sum(size for _, size in batch)
        step("references", done, of)
    return await trio.to_thread.run_sync(_found, references)


def hints_of(index: PackIndex) -> Hints:
    """Those that an index has; its start pack is what a start read, or is likely to read."""
    known: dict[int, Digest] = {}

    def named(at: int) -> Digest:
        if at not in known:
            known[at] = index.digest(at)
        return known[at]

    references = {
        named(at): tuple(map(named, index.references(at)))
        for at in range(len(index))
        if index.references(at)
    }
    start = range(index.packs[0].count if index.has_start else 0)
    return Hints(references, [named(at) for at in start])


def _read(references: References, batch: Sequence[Blob], contents: Sequence[bytes]) -> None:
    for (digest, _), data in zip(batch, contents, strict=True):
        references.read(digest, data)


def _found(references: References) -> Hints:
    return Hints(references.finished(), references.likely_start())
