"""libcurl's multi interface inside the trio loop: many transfers, and no thread.

Serves the HTTP store. Owns libcurl's sockets (in an epoll set of their own, whose
descriptor trio waits on) and its timer (the deadline of a cancel scope). There is no nursery
and no background task: of the tasks that wait for a transfer one, the *leader*, waits for
the sockets and lets libcurl work, for all of them; the others are parked. A leader whose own
transfer has ended, or that was cancelled, wakes another one. It must not know what a transfer
is for.

State changes only in functions without ``await``, in the thread of the event loop.
"""

import contextlib
import select
import time
from typing import Any, NamedTuple

import pycurl
import trio

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
        self._leader: _Transfer | None = None
        self._scope: trio.CancelScope | None = None  # the leader's: its deadline is the timer
        self._due = float("inf")  # libcurl's timer, of time.monotonic()
        self._look = 0.0  # when to look for transfers that are too slow
        self._rings = float("inf")  # what the leader's deadline stands for
        self._asleep = False  # the leader waits for the sockets
        self._closed = False

    async def perform(self, handle: Any) -> Ended:
        """Transfer with a prepared easy handle. Cancelled, the transfer has ended at once."""
        if self._closed:
            return Ended(CLOSED)
        transfer = _Transfer(handle)
        self._transfers[handle] = transfer
        self._multi.add_handle(handle)
        try:
            self._act(pycurl.SOCKET_TIMEOUT, 0)  # sends the request, on a connection that lives
            waited = False
            while transfer.ended is None:
                if self._leader is None:
                    waited |= await self._lead(transfer)
                else:
                    await transfer.park()
                    waited = True
            if not waited:
                self._hand_over()
                await trio.lowlevel.checkpoint()  # let others run, and be cancelled
        finally:
            if self._transfers.pop(handle, None) is not None:
                self._multi.remove_handle(handle)
            self._hand_over()
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
        if self._closed:
            return
        self._closed = True
        for handle in list(self._transfers):
            self._end(handle, Ended(CLOSED))
        if self._leader is not None:
            trio.lowlevel.notify_closing(self._epoll)
        # libcurl waits for its threads, each of which may wait for a name server.
        with trio.move_on_after(_CLOSING, shield=True):
            await trio.to_thread.run_sync(self._let_go, abandon_on_cancel=True)

    def _let_go(self) -> None:
        self._multi.close()
        self._epoll.close()

    async def _lead(self, transfer: _Transfer) -> bool:
        """Let libcurl work until this transfer has ended, or its timer may have rung.

        Whether others could run meanwhile.
        """
        waited = False
        self._leader = transfer
        try:
            with trio.CancelScope() as self._scope:
                self._rings = float("inf")
                self._set_alarm()
                turns = 0
                while transfer.ended is None:
                    ready = self._epoll.poll(0)  # often there already, and then trio is spared
                    if not ready:
                        self._asleep = waited = True
                        await trio.lowlevel.wait_readable(self._epoll)
                        self._asleep = False
                        continue
                    for descriptor, events in ready:
                        self._act(descriptor, _meaning(events))
                    turns += 1
                    if turns % _TURNS == 0:
                        await trio.lowlevel.checkpoint()
        except trio.ClosedResourceError:
            pass  # by ``close``, which has ended the transfer
        finally:
            self._leader = self._scope = None
            self._asleep = False
        now = time.monotonic()
        if self._due <= now and not self._closed:
            self._act(pycurl.SOCKET_TIMEOUT, 0)
        if self._look <= now:
            self._end_slow_ones(now)
        return waited

    def _hand_over(self) -> None:
        if self._leader is None:
            for transfer in self._transfers.values():
                if transfer.parked is not None:
                    transfer.wake()
                    return

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
        """Wake the leader in time. Its sleep is only ever cut shorter: one call in vain is
        cheaper than moving trio's deadline with every transfer.
        """
        first = min(self._due, self._look)
        if self._scope is not None and first < self._rings:
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
        if transfer is not self._leader:
            transfer.wake()
        elif self._asleep and self._scope is not None:
            self._scope.deadline = -float("inf")  # another task's call has ended it

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
