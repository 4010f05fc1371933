"""The bytes of a file whose size is known, by the way that is cheapest for so many.

Serves the stores that read through libcurl: a small file is held in memory until it is whole, a
larger one streamed, and one whose hashing would hold the event loop is written in a thread.
"""

import trio

from aysfs.store.http_client import HttpClient
from aysfs.store.http_pour import Pipe, pour
from aysfs.store.http_request import Bounds, Held
from aysfs.store.http_streamed import Part, Streamed
from aysfs.store.protocol import PART_IN_LOOP, Sink, Writes

HELD = 64 << 10  # a blob of at most this size is held in memory until it is whole
POURED = 1 << 20  # a larger one's bytes go to a thread: their md5 would hold the event loop


async def fetch(
    client: HttpClient,
    limiter: trio.CapacityLimiter,
    url: str,
    where: str,
    bounds: Bounds,
    size: int,
    sink: Sink,
) -> None:
    """Have the sink take it; OtherSize before the first byte when it has another size."""
    if size <= HELD:
        held = Held(url, where, bounds, size)
        await client.perform(held)
        sink.write(held.data)
    elif size <= POURED:
        await client.perform(Streamed(url, where, bounds, size, sink, sink.restart))
    else:

        def poured(pipe: Pipe) -> Streamed:
            return Streamed(url, where, bounds, size, pipe, pipe.restart)

        await pour(client, limiter, sink, poured)


async def fetch_part(
    client: HttpClient,
    limiter: trio.CapacityLimiter,
    url: str,
    where: str,
    bounds: Bounds,
    size: int,
    start: int,
    length: int,
    sink: Sink,
) -> None:
    """Have the sink take a part of a file of this size; NoRanges or OtherSize before a byte."""

    def part(taker: Writes) -> Part:
        return Part(url, where, bounds, size, start, length, taker)

    if length <= PART_IN_LOOP:
        await client.perform(part(sink))
    else:
        await pour(client, limiter, sink, part)
