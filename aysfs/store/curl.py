"""libcurl's multi interface inside the trio loop: many transfers, and no thread.

Serves the HTTP store. Owns libcurl's sockets (in an epoll set of their own, whose
descriptor trio waits on) and its timer (the deadline of a cancel scope). One system task waits
for the sockets and lets libcurl work, for all who wait for a transfer; a cancel scope of its own
for each of them would cost a tenth of a small request. It must not know what a transfer is for.

State changes only in functions without ``await``, in the thread of the event loop.
"""

import contextlib
import logging
import select
import time
from typing import Any, NamedTuple

import pycurl
import trio

log = logging.getLogger(__name__)

_CLOSING = 1.0  # seconds that a close waits for names that are being looked up
_TURNS = 8  # in a row before other tasks get one
CLOSED = -1  # a transfer's end when the loop was closed under it


class Ended(NamedTuple):
    """How libcurl ended a transfer: 0 when an answer is there, and its own words otherwise."""

    code: int
    words: str = ""


class _Transfer:
    """A handle in the multi, and the task that is parked until it has ended."""

    __slots__ = ("bytes", "ended", "handle", "parked", "paused", "since")

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        self.paused = False
        self.since = time.monotonic()  # it has been fast enough up to here,
        self.bytes = 0  # and had so many bytes then
        self.ended: Ended | None = None
        self.parked: trio.lowlevel.Task | None = None

    async def park(self) -> None:
        """Wait for ``wake``; cancelling takes the transfer's wake-up with it."""
        self.parked = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._abort)

    def wake(self) -> None:
        if self.parked is not None:
            trio.lowlevel.reschedule(self.parked)
            self.parked = None

    def _abort(self, _raise: object) -> trio.lowlevel.Abort:
        self.parked = None
        return trio.lowlevel.Abort.SUCCEEDED


class CurlLoop:
    """Performs transfers of libcurl side by side. Close it when done.

    A transfer that brings fewer than ``slowest`` bytes a second for ``idle`` seconds is ended. (The
    timer of libcurl 8.23 for that, LOW_SPEED_TIME, sometimes waits for the next connection.)
    """

    def __init__(self, connections: int, idle: float, slowest: int) -> None:
        self._idle = idle
        self._least = int(idle * slowest)
        self._epoll = select.epoll()
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._set_timer)
        self._multi.setopt(pycurl.M_MAXCONNECTS, connections)
        self._transfers: dict[Any, _Transfer] = {}  # those in the multi
        self._scope = trio.CancelScope()  # the task's: its deadline is the next of both times
        self._due = float("inf")  # libcurl's timer, of time.monotonic()
        self._look = 0.0  # when to look for transfers that are too slow
        self._rings = float("inf")  # what the deadline stands for
        self._is_served = False  # by the task of this run of trio
        self._closed = False

    async def perform(self, handle: Any) -> Ended:
        """Transfer with a prepared easy handle. Cancelled, the transfer has ended at once."""
        if self._closed:
            return Ended(CLOSED)
        if not self._is_served:
            self._is_served = True
            trio.lowlevel.spawn_system_task(self._serve)
        transfer = _Transfer(handle)
        self._transfers[handle] = transfer
        self._multi.add_handle(handle)
        try:
            self._act(pycurl.SOCKET_TIMEOUT, 0)  # sends the request, on a connection that lives
            if transfer.ended is None:
                await transfer.park()
            else:
                await trio.lowlevel.checkpoint()  # let others run, and be cancelled
        finally:
            if self._transfers.pop(handle, None) is not None:
                self._multi.remove_handle(handle)
        assert transfer.ended is not None
        return transfer.ended

    def paused(self, handle: Any) -> None:
        """A transfer whose callback has it paused is not too slow."""
        self._transfers[handle].paused = True

    def resume(self, handle: Any) -> None:
        """Let a transfer go on whose callback had it paused."""
        if handle not in self._transfers:
            return
        self._transfers[handle].paused = False
        try:
            handle.pause(pycurl.PAUSE_CONT)
        except pycurl.error as error:  # its callback refused what had been held back
            self._end(handle, Ended(*error.args))
        else:
            self._act(pycurl.SOCKET_TIMEOUT, 0)

    async def aclose(self) -> None:
        """End every transfer and let all connections go."""
        if self._epoll.closed:
            return
        self._stop(Ended(CLOSED))
        trio.lowlevel.notify_closing(self._epoll)
        # libcurl waits for its threads, each of which may wait for a name server.
        with trio.move_on_after(_CLOSING, shield=True):
            await trio.to_thread.run_sync(self._let_go, abandon_on_cancel=True)

    def _stop(self, ended: Ended) -> None:
        self._closed = True
        for handle in list(self._transfers):
            self._end(handle, ended)

    def _let_go(self) -> None:
        self._multi.close()
        self._epoll.close()

    async def _serve(self) -> None:
        """Let libcurl work until the loop is closed."""
        try:
            while not self._closed:
                with trio.CancelScope() as self._scope:
                    self._rings = float("inf")
                    self._set_alarm()
                    await self._serve_sockets()
                if not self._closed:
                    self._serve_timers()
        except trio.ClosedResourceError:
            pass  # by ``aclose``
        except Exception as error:  # the edge of a system task: trio would end the process
            log.exception("libcurl's loop")
            self._stop(Ended(CLOSED, repr(error)))
        finally:
            self._is_served = False

    async def _serve_sockets(self) -> None:
        turns = 0
        while not self._closed:
            ready = self._epoll.poll(0)  # often there already, and then trio is spared
            if not ready:
                await trio.lowlevel.wait_readable(self._epoll)
                continue
            for descriptor, events in ready:
                self._act(descriptor, _meaning(events))
            turns += 1
            if turns % _TURNS == 0:
                await trio.lowlevel.checkpoint()

    def _serve_timers(self) -> None:
        now = time.monotonic()
        if self._due <= now:
            self._act(pycurl.SOCKET_TIMEOUT, 0)
        if self._look <= now:
            self._end_slow_ones(now)

    def _act(self, descriptor: int, events: int) -> None:
        """Let libcurl work on a socket, or on its timer; wake whose transfer has ended by it."""
        _, running = self._multi.socket_action(descriptor, events)
        while running != len(self._transfers):
            more, fine, failed = self._multi.info_read()
            for handle in fine:
                self._end(handle, Ended(0))
            for handle, code, words in failed:
                self._end(handle, Ended(code, words))
            if not more and not fine and not failed:
                break
        self._set_alarm()

    def _set_alarm(self) -> None:
        """Wake the task in time. Its sleep is only ever cut shorter: one call in vain is
        cheaper than moving trio's deadline with every transfer.
        """
        first = min(self._due, self._look)
        if first < self._rings and self._transfers:
            self._rings = first
            self._scope.deadline = trio.current_time() + first - time.monotonic()

    def _end_slow_ones(self, now: float) -> None:
        self._look = now + self._idle / 8
        for transfer in list(self._transfers.values()):
            size = transfer.handle.getinfo(pycurl.SIZE_DOWNLOAD_T)
            new = size - transfer.bytes  # negative after a redirect
            if new >= self._least or new < 0 or transfer.paused:
                transfer.bytes, transfer.since = size, now
            elif now - transfer.since >= self._idle:
                self._end(transfer.handle, Ended(pycurl.E_OPERATION_TIMEDOUT))

    def _end(self, handle: Any, ended: Ended) -> None:
        transfer = self._transfers.pop(handle)
        self._multi.remove_handle(handle)
        transfer.ended = ended
        transfer.wake()

    # --- what libcurl asks for; an exception here would be printed and lost -------------------

    def _watch(self, what: int, descriptor: int, _multi: object, _data: object) -> None:
        """Have a socket in the epoll set as libcurl wants it."""
        if what == pycurl.POLL_REMOVE:
            with contextlib.suppress(OSError):  # closed already, which has taken it out
                self._epoll.unregister(descriptor)
            return
        events = _WANTED[what]
        try:
            self._epoll.register(descriptor, events)
        except FileExistsError:
            self._epoll.modify(descriptor, events)

    def _set_timer(self, milliseconds: int) -> None:
        """Have libcurl called then, without any socket being ready."""
        self._due = time.monotonic() + milliseconds / 1000 if milliseconds >= 0 else float("inf")


_WANTED = {
    pycurl.POLL_IN: select.EPOLLIN,
    pycurl.POLL_OUT: select.EPOLLOUT,
    pycurl.POLL_INOUT: select.EPOLLIN | select.EPOLLOUT,
}


def _meaning(events: int) -> int:
    """Of epoll's answer, what libcurl is told."""
    if events == select.EPOLLIN:
        return _IN
    told = _IN if events & select.EPOLLIN else 0
    told |= _OUT if events & select.EPOLLOUT else 0
    return told | (_ERR if events & (select.EPOLLERR | select.EPOLLHUP) else 0)


_IN: int = pycurl.CSELECT_IN
_OUT: int = pycurl.CSELECT_OUT
_ERR: int = pycurl.CSELECT_ERR
