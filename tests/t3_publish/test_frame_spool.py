"""A spool of frames: it gives those of what went by, and passes large blobs over."""

import random

from aysfs import digest as digests
from aysfs.digest import Digest
from aysfs.limits import LARGE
from aysfs.pack import compress
from aysfs.publish.frames import FrameSpool
from aysfs.store.protocol import BlobSource


def source(data: bytes, *, held: bool) -> BlobSource:
    of = BlobSource.of(digests.of(data), data)
    return of if held else of._replace(held=None)


async def test_a_spool_gives_the_frames_of_what_went_by(no_leaks: None) -> None:
    blobs = [b"", b"a", b"b" * 100_000, random.Random(5).randbytes(5000)]
    with FrameSpool() as spool:
        spool.take([source(one, held=False) for one in blobs[:2]])
        spool.take([])
        spool.take([source(b"", held=True)])
        spool.take([source(one, held=True) for one in blobs])
        asked = [(digests.of(one), len(one)) for one in reversed(blobs)]
        assert await spool.frames(asked) == [compress(one) for one in reversed(blobs)]


async def test_a_spool_passes_large_blobs_over() -> None:
    def refuse() -> object:
        raise AssertionError("read")

    large = BlobSource(Digest(bytes(16)), LARGE + 1, refuse)  # type: ignore[arg-type]  # never called
    with FrameSpool() as spool:
        spool.take([large, source(b"a", held=True)])
        assert await spool.frames([(digests.of(b"a"), 1)]) == [compress(b"a")]
