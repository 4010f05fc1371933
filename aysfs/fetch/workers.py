"""Processes that take blobs in, for who carries packs: see ``worker``.

Owns their life: one is started when it is first needed, and ends when it was not for a while, or
with the fetch service. A worker that dies, or answers nothing, costs what it was about to take in
a second try here, and nothing else.
"""

import json
import logging
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress

import trio

from aysfs.cache.blobs import Cache
from aysfs.errors import AysfsError, CacheUnusable, NoSpace, PackDamaged
from aysfs.fetch.segment import Frame
from aysfs.fetch.worker import FRAME, HEAD, TROUBLE, Result, Work

log = logging.getLogger(__name__)

FOR_A_COMMAND, FOR_MOUNTS = 2, 1
"""Processes: a command is waited for, and what a mount fetches ahead is not."""

_COMMAND = (sys.executable, "-P", "-m", "aysfs.fetch.worker")
_PATIENCE = 20.0  # seconds without an answer, after which one is given up
_IDLE = 5.0  # seconds without work, after which one ends
_FEW = 256  # blobs for which none is started: 0.1 s of work here, and as long as a start takes
_RECEIVED = 1 << 16
_SENT_AHEAD = 4 << 20  # bytes of a batch that wait for it in the kernel, if the host lets us

_ERRORS: dict[Result, type[AysfsError]] = {
    Result.NO_SPACE: NoSpace,
    Result.DAMAGED: PackDamaged,
    Result.UNUSABLE: CacheUnusable,
}

Told = Callable[[int, AysfsError | None], None]
"""Told of each frame, by its number in the batch: the blob is here, unless there is an error."""


class WorkerLost(Exception):
    """The process has gone, or answers nothing; what it told of is here."""


class Workers:
    """A few of them, for one cache."""

    def __init__(self, cache: Cache, most: int) -> None:
        """At most so many."""
        self._cache = cache
        self._all = [_Worker(cache) for _ in range(most)]
        self._free = list(self._all)
        self._turns = trio.Semaphore(most)
        self._are_lost = not most
        self._wanted = 0  # blobs, of late

    def are_worth_it(self, count: int) -> bool:
        """Whether so many more blobs are better taken in by one of them."""
        self._wanted += count
        return self._wanted > _FEW and not self._are_lost

    async def get_ready(self, count: int) -> None:
        """Have them there, if so many blobs that will come are worth it: each takes 0.1 s."""
        if count > _FEW and not self._are_lost:
            self._wanted += count
            async with trio.open_nursery() as nursery:
                for _ in self._all:
                    nursery.start_soon(self._start_one)

    async def _start_one(self) -> None:
        async with self._turns:
            worker = self._free.pop(0)
            try:
                # Whoever takes it finds out what is wrong.
                with (
                    trio.move_on_after(_PATIENCE, shield=True),
                    suppress(OSError, trio.BrokenResourceError),
                ):
                    await worker.start()
            finally:
                self._free.append(worker)

    async def take_in(self, frames: Sequence[Frame], part: memoryview, told: Told) -> None:
        """Have the blobs of frames in the cache, where they begin in ``part``. WorkerLost.

        Not given up when cancelled: it is over soon, and nobody would know what is here.
        """
        async with self._turns:
            if self._are_lost:  # meanwhile: the next one would take as long to be given up
                raise WorkerLost("another one was lost")
            worker = self._free.pop()
            try:
                with trio.CancelScope(shield=True):
                    await worker.take_in(frames, part, told)
            except WorkerLost as error:
                if not self._are_lost:
                    log.warning("a process that takes blobs in is lost: %s", error)
                self._are_lost = True
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(self._cache.sweep)
                raise
            finally:
                self._free.append(worker)

    async def end_idle(self) -> None:
        """End those that have nothing to do, now and then, for ever."""
        while True:
            await trio.sleep(_IDLE)
            since = trio.current_time() - _IDLE
            idle = [one for one in self._free if one.used < since]
            if len(idle) == len(self._all):
                self._wanted = 0
            for worker in idle:
                if worker in self._free:  # still: ending the one before it took a moment
                    # Whoever takes it meanwhile starts another process, and is not confused by it.
                    await worker.end()

    async def end(self) -> None:
        """Have no process left."""
        self._are_lost = True
        for worker in self._all:
            await worker.end()


class _Worker:
    """A process, which is there or not."""

    def __init__(self, cache: Cache) -> None:
        self.used = 0.0
        self._work = Work(str(cache.root), *cache.usage.limits)
        self._process: trio.Process | None = None
        self._stream: trio.SocketStream | None = None

    async def start(self) -> None:
        """Have the process, and let it begin. OSError, trio.BrokenResourceError."""
        if self._stream is None:
            self.used = trio.current_time()
            await self._start()

    async def take_in(self, frames: Sequence[Frame], part: memoryview, told: Told) -> None:
        is_answered = False
        try:
            with trio.fail_after(_PATIENCE):
                stream = self._stream or await self._start()
                await stream.send_all(_asked(frames, len(part)))
                await stream.send_all(part)
                await _hear(stream, len(frames), told)
            is_answered = True
        except (OSError, trio.BrokenResourceError, trio.TooSlowError) as error:
            raise WorkerLost(str(error) or f"no answer in {_PATIENCE:g} s") from error
        finally:
            if not is_answered:  # what it would still say, the next batch took for its own answers
                if self._process is not None:
                    self._process.kill()
                await self.end()
            self.used = trio.current_time()

    async def _start(self) -> trio.SocketStream:
        mine, its = socket.socketpair()
        mine.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SENT_AHEAD)
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(mine))
        with its:
            # Of its own session: what interrupts us at a terminal ends it by our end.
            self._process = await trio.lowlevel.open_process(
                _COMMAND, stdin=its, stdout=subprocess.DEVNULL, start_new_session=True
            )
        await self._stream.send_all(json.dumps(self._work._asdict()).encode() + b"\n")
        return self._stream

    async def end(self) -> None:
        """Let the process end, and wait for that; a moment, if it is at work."""
        process, stream = self._process, self._stream
        self._process = self._stream = None
        with trio.CancelScope(shield=True):
            if stream is not None:
                await stream.aclose()
            if process is not None:
                with trio.move_on_after(_PATIENCE):
                    await process.wait()
                process.kill()
                await process.wait()


def _asked(frames: Sequence[Frame], length: int) -> bytes:
    each = (FRAME.pack(one.digest, one.size, one.start, one.stored) for one in frames)
    return HEAD.pack(len(frames), length) + b"".join(each)


async def _hear(stream: trio.SocketStream, count: int, told: Told) -> None:
    """Tell of each of so many frames as its answer comes."""
    data, number = bytearray(), 0
    while number < count:
        received = await stream.receive_some(_RECEIVED)
        if not received:
            raise trio.BrokenResourceError("it has ended")
        data += received
        at = 0
        while at < len(data) and number < count:
            answer = _understood(data, at)
            if answer is None:
                break
            error, at = answer
            told(number, error)
            number += 1
        del data[:at]


def _understood(data: bytearray, at: int) -> tuple[AysfsError | None, int] | None:
    """The answer that begins there, and where the next one does; None while it is not all here."""
    if data[at] == Result.DONE:
        return None, at + 1
    words = at + 1 + TROUBLE.size
    if len(data) < words:
        return None
    end = words + TROUBLE.unpack_from(data, at + 1)[0]
    if len(data) < end:
        return None
    return _ERRORS[Result(data[at])](data[words:end].decode(errors="replace")), end
