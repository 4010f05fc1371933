"""Bodies that go from a web server to a sink as they come, and what their answers mean.

Serves the stores that read through libcurl. Owns what is remembered between the tries of a
request: where its body stopped, and what it was part of. Nothing here waits.
"""

import email.utils
import re
from collections.abc import Callable
from typing import Any

import pycurl

from aysfs.errors import AysfsError, Corrupt, NoRanges, StoreTrouble
from aysfs.store.curl import Ended
from aysfs.store.http_request import ERROR_PAGE, Bounds, Request, wrong_size
from aysfs.store.protocol import Writes

PROGRESS = 1 << 20  # a try that brings so many bytes does not count

_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})", re.ASCII)
_NO_RANGE = re.compile(r"bytes \*/(\d{1,19})", re.ASCII)
_OF_ALL = frozenset((401, 404, 407, 408, 410, 425, 429))  # what is said of the file, not of a part
_LATEST = 1 << 33  # seconds; a list's times are 64-bit nanoseconds


class Streamed(Request):
    """A body that goes to a sink as it comes: cut short, it goes on where it stopped.

    Where the server cannot go on, ``rewind`` makes the sink take it from the beginning again.
    ``size`` is None where only the server knows it.
    """

    def __init__(
        self,
        url: str,
        where: str,
        bounds: Bounds,
        size: int | None,
        sink: Writes,
        rewind: Callable[[], object],
    ) -> None:
        super().__init__(url, where, bounds)
        self._size = size
        self._first, self._end = 0, size  # of what is wanted; None where only the server knows
        self._sink = sink
        self._rewind = rewind
        self._position = 0  # in the file
        self._validators: tuple[str, str] | None = None  # ETag, Last-Modified of what was begun
        self._begun_at = 0  # where this try began
        self._status_code = 0
        self._headers: dict[str, str] = {}
        self._accepted = False
        self._page = 0
        self._error: BaseException | None = None

    @property
    def mtime_ns(self) -> int:
        """The time that the server gives the file, the epoch when it gives none."""
        date = email.utils.parsedate_tz(self._validators[1]) if self._validators else None
        try:
            seconds = email.utils.mktime_tz(date) if date else 0
        except (ValueError, OverflowError):  # the year 99999
            return 0
        return seconds * 1_000_000_000 if 0 <= seconds < _LATEST else 0

    def prepare(self, easy: Any) -> None:
        self._accepted, self._page = False, 0
        self._begun_at = self._position
        easy.setopt(pycurl.URL, self.url)
        easy.setopt(pycurl.HEADERFUNCTION, self._header)
        easy.setopt(pycurl.WRITEFUNCTION, self.take)
        if self._end is not None:
            longest = self.bounds.whole + (self._end - self._first) / self.bounds.slowest
            easy.setopt(pycurl.TIMEOUT_MS, int(longest * 1000))
        if span := self._span():
            easy.setopt(pycurl.RANGE, span)
            etag, date = self._validators or ("", "")
            unchanged = etag if _is_strong(etag) else date
            if unchanged:
                easy.setopt(pycurl.HTTPHEADER, [f"If-Range: {unchanged}"])

    def _span(self) -> str:
        """The bytes that this try asks for; empty for all of them."""
        return f"{self._position}-" if self._position else ""

    def judge(self, easy: Any, ended: Ended) -> float | None:
        if not ended.code and self._status_code == 200 and not self._accepted:
            self._accept_safely()  # an empty body
        if self._error is not None:
            raise self._error
        if self._accepted and self._position == self._end:
            return None  # all of it, however the connection ended
        if ended.code and ended.code != pycurl.E_WRITE_ERROR:
            if self._position - self._begun_at >= PROGRESS:
                self._left = self.bounds.tries
            return self._failed(easy, ended)
        if not self._accepted:
            if self._position > self._first and self._status_code in (404, 410):
                raise StoreTrouble(f"{self.where}: went away while it was read")
            return self._status(easy, self._status_code)
        if self._end is not None and self._position != self._end:
            wanted = self._end - self._first
            return self._again(f"{self._position - self._first} of {wanted} bytes")
        return None

    # --- what libcurl calls; an exception here would be printed and lost ----------------------

    def _header(self, line: bytes) -> None:
        text = line.decode("iso-8859-1")
        if text.startswith("HTTP/"):  # of each redirect as well
            self._headers.clear()
            status = text.split(" ", 2)[1:2]
            self._status_code = int(status[0]) if status and status[0].strip().isdecimal() else 0
            return
        name, colon, value = text.partition(":")
        if colon:
            self._headers[name.strip().lower()] = value.strip()

    def take(self, data: bytes) -> int | None:
        """The next bytes of an answer; 0 ends the transfer."""
        if not self._accepted and not self._accept_safely():
            self._page += len(data)
            return None if self._error is None and self._page <= ERROR_PAGE else 0
        if self._end is not None and self._position + len(data) > self._end:
            self._error = Corrupt(f"{self.where}: more than its {self._end - self._first} bytes")
            return 0
        try:
            self._sink.write(data)
        except BaseException as error:  # noqa: BLE001 - `judge` raises it
            self._error = error
            return 0
        self._position += len(data)
        return None

    def _accept_safely(self) -> bool:
        try:
            self._accepted = self._accept()
        except AysfsError as error:
            self._error = error
        return self._accepted

    def _accept(self) -> bool:
        """Whether the body is what the sink waits for; False for a page that explains a refusal."""
        if self._status_code == 200:
            if self._position:
                self._rewind()
                self._position = self._begun_at = 0
            length = self._headers.get("content-length", "")
            if self._size is not None and length.isdecimal() and int(length) != self._size:
                raise wrong_size(self.where, int(length), self._size)
            self._end, self._validators = self._size, self._said()
            return True
        if self._status_code != 206 or not self._position:
            return False
        self._check_span()
        return True

    def _said(self) -> tuple[str, str]:
        """By what the server tells versions of a file apart."""
        return self._headers.get("etag", ""), self._headers.get("last-modified", "")

    def _check_span(self) -> None:
        """StoreTrouble unless it is the part that was asked for, of the file that was begun."""
        found = _RANGE.fullmatch(self._headers.get("content-range", ""))
        first, last, total = map(int, found.groups()) if found else (-1, -1, -1)
        length = self._headers.get("content-length", "")
        if self._size is None:
            self._end = total
        elif self._validators is None and first == self._position and total != self._size:
            raise wrong_size(self.where, total, self._size)
        if first != self._position or last + 1 != self._end or last >= total:
            raise StoreTrouble(f"{self.where}: another range came than the one asked for")
        if length.isdecimal() and int(length) != last + 1 - first:
            raise StoreTrouble(f"{self.where}: another range came than the one asked for")
        if self._validators is not None and not _is_same(self._validators, self._said()):
            raise StoreTrouble(f"{self.where}: changed on the server while it was read")


class Part(Streamed):
    """Some bytes of a file of known size, by a range request; cut short, it goes on likewise.

    NoRanges, before the sink has a byte, from a server that gives nothing but whole files.
    """

    def __init__(
        self, url: str, where: str, bounds: Bounds, size: int, start: int, length: int, sink: Writes
    ) -> None:
        super().__init__(url, where, bounds, size, sink, _never)
        self._first = self._position = start
        self._end = start + length

    def _span(self) -> str:
        assert self._end is not None
        return f"{self._position}-{self._end - 1}"

    def _accept(self) -> bool:
        if self._status_code == 200:
            if self._validators is not None:  # of a part that was begun
                raise StoreTrouble(f"{self.where}: changed on the server while it was read")
            raise NoRanges(f"{self.where}: the server gives only all of it")
        if self._status_code != 206:
            return False
        self._check_span()
        self._validators = self._said()
        return True

    def _status(self, easy: Any, status: int) -> float:
        refused = status == 501 or (400 <= status < 500 and status not in _OF_ALL)
        if not refused or self._position > self._first:
            return super()._status(easy, status)
        found = _NO_RANGE.fullmatch(self._headers.get("content-range", ""))
        if found and int(found[1]) != self._size:
            raise wrong_size(self.where, int(found[1]), self._size or 0)
        raise NoRanges(f"{self.where}: the server refuses to give a part (HTTP {status})")


def _never() -> None:
    raise AssertionError("a part is never begun again")


def _is_strong(etag: str) -> bool:
    return bool(etag) and not etag.startswith("W/")


def _is_same(old: tuple[str, str], new: tuple[str, str]) -> bool:
    """Whether these are the ETag and Last-Modified of the same bytes (RFC 9110, 8.8)."""
    return old == new or (_is_strong(old[0]) and old[0] == new[0])


class Compressible(Streamed):
    """A text of unknown size, which may come compressed: libcurl expands it.

    Where it stopped says nothing about the compressed bytes: such a body is begun again.
    """

    def __init__(
        self, url: str, where: str, bounds: Bounds, sink: Writes, rewind: Callable[[], object]
    ) -> None:
        super().__init__(url, where, bounds, None, sink, rewind)
        self._is_compressed = False

    def prepare(self, easy: Any) -> None:
        if self._position and self._is_compressed:
            self._rewind()
            self._position, self._validators = 0, None
        super().prepare(easy)
        if not self._position:
            easy.setopt(pycurl.ACCEPT_ENCODING, "gzip")

    def _accept(self) -> bool:
        accepted = super()._accept()
        self._is_compressed = self._headers.get("content-encoding", "identity") != "identity"
        return accepted
