"""A large body on its way from libcurl to a sink, which a thread writes to.

Serves the HTTP store. The transfer stays in the event loop; hashing and writing, which would hold
it, are done in a thread meanwhile. Owns the pieces between the two, a bounded number of
bytes: a transfer that is faster than the sink is paused.
"""

from collections.abc import Callable
from typing import Any

import pycurl
import trio

from aysfs.store.curl import Ended
from aysfs.store.gate import Gate
from aysfs.store.http_client import HttpClient
from aysfs.store.http_request import Request
from aysfs.store.http_streamed import Streamed
from aysfs.store.protocol import Sink

FULL = 2 << 20  # 1 GiB: 1 and 4 MiB were as fast; each large blob under way holds twice this


async def pour(
    client: HttpClient,
    limiter: trio.CapacityLimiter,
    sink: Sink,
    make: Callable[["Pipe"], Streamed],
) -> None:
    """Have the sink take the body of the request that writes to a pipe; raises as the request
    does, or as the sink.
    """
    pipe = Pipe(client, sink)
    request = _Paused(make(pipe), pipe)
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


class Pipe:
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


class _Paused(Request):
    """A request that waits while its pipe is full."""

    def __init__(self, inner: Streamed, pipe: Pipe) -> None:
        super().__init__(inner.url, inner.where, inner.bounds)
        self._inner = inner
        self._pipe = pipe
        self._handle: Any = None

    def prepare(self, easy: Any) -> None:
        self._inner.prepare(easy)
        easy.setopt(pycurl.WRITEFUNCTION, self._take)
        self._handle, self._pipe.paused = easy, None

    def judge(self, easy: Any, ended: Ended) -> float | None:
        return self._inner.judge(easy, ended)

    def _take(self, data: bytes) -> int | None:
        if self._pipe.is_full:
            return self._pipe.pause(self._handle)
        return self._inner.take(data)
