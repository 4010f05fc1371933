"""A large body on its way from libcurl to a sink, which a thread writes to.

Serves the HTTP store. The transfer stays in the event loop; hashing and writing, which would hold
it, are done in a thread meanwhile. Owns the pieces between the two, a bounded number of
bytes: a transfer that is faster than the sink is paused.
"""

from typing import Any

import pycurl
import trio

from aysfs.store.gate import Gate
from aysfs.store.http_client import HttpClient
from aysfs.store.http_request import Bounds, Streamed
from aysfs.store.protocol import Sink

FULL = 2 << 20  # 1 GiB: 1 and 4 MiB were as fast; each large blob under way holds twice this


async def pour(
    client: HttpClient,
    limiter: trio.CapacityLimiter,
    url: str,
    where: str,
    bounds: Bounds,
    size: int,
    sink: Sink,
) -> None:
    """Have the sink take a body of this size; raises as the request does, or as the sink."""
    pipe = _Pipe(client, sink)
    request = _Poured(url, where, bounds, size, pipe)
    failed: Exception | None = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pipe.drain, limiter)
            try:
                await client.perform(request)
            except Exception as error:  # noqa: BLE001 - raised below, out of the nursery's group
                failed = error
            pipe.end()
    finally:
        pipe.close()
    if failed or pipe.error:
        raise pipe.error or failed or AssertionError


class _Pipe:
    """Takes from libcurl's callbacks, gives to a thread. ``error`` is the sink's."""

    def __init__(self, client: HttpClient, sink: Sink) -> None:
        self.paused: Any = None  # a handle that waits for room
        self.error: Exception | None = None
        self._client = client
        self._gate = Gate(sink)
        self._pieces: list[bytes] = []
        self._bytes = 0
        self._restarts = False
        self._ended = False
        self._news = trio.Event()

    @property
    def is_full(self) -> bool:
        return self._bytes >= FULL and self.error is None

    def write(self, data: bytes | memoryview, /) -> None:
        if self.error is not None:
            raise self.error
        self._pieces.append(bytes(data))
        self._bytes += len(data)
        self._news.set()

    def restart(self) -> None:
        """Forget what came; what the thread has written, the sink forgets before the next."""
        self._pieces, self._bytes, self._restarts = [], 0, True

    def end(self) -> None:
        """No more will come."""
        self._ended = True
        self._news.set()

    def close(self) -> None:
        """Let not a byte more reach the sink."""
        self._gate.close()

    async def drain(self, limiter: trio.CapacityLimiter) -> None:
        """Write what comes until the end, or until the sink fails."""
        while self.error is None:
            await self._news.wait()
            if self._ended and not self._pieces:
                return
            pieces, self._pieces, self._bytes = self._pieces, [], 0
            restarts, self._restarts = self._restarts, False
            self._news = trio.Event()
            if self._ended:
                self._news.set()
            self._go_on()
            try:
                await trio.to_thread.run_sync(
                    self._write, pieces, restarts, abandon_on_cancel=True, limiter=limiter
                )
            except Exception as error:  # noqa: BLE001 - `pour` raises it
                self.error = error
                self._go_on()

    def _write(self, pieces: list[bytes], restarts: bool) -> None:
        if restarts:
            self._gate.restart()
        # libcurl gives 16 KiB at a time: as one they cost one lock, one hash and one write.
        self._gate.write(b"".join(pieces))

    def pause(self, handle: Any) -> int:
        """Hold the transfer until there is room; what its callback must answer."""
        self.paused = handle
        self._client.paused(handle)
        return int(pycurl.WRITEFUNC_PAUSE)

    def _go_on(self) -> None:
        handle, self.paused = self.paused, None
        if handle is not None:
            self._client.resume(handle)


class _Poured(Streamed):
    """Is paused while the pipe is full."""

    def __init__(self, url: str, where: str, bounds: Bounds, size: int, pipe: _Pipe) -> None:
        super().__init__(url, where, bounds, size, pipe, pipe.restart)
        self._pipe = pipe
        self._handle: Any = None

    def prepare(self, easy: Any) -> None:
        super().prepare(easy)
        self._handle, self._pipe.paused = easy, None

    def _take(self, data: bytes) -> int | None:
        if self._pipe.is_full:
            return self._pipe.pause(self._handle)
        return super()._take(data)
