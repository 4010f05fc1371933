"""One question to a web server, asked as often as it takes, and what its answers mean.

Serves the HTTP store, which performs the transfers: in the event loop or in a thread. A request
prepares an easy handle, and judges how its transfer ended: answered, to be tried again after
a pause, or an error. Owns how often was tried. Nothing here waits. Bodies that go to a sink as they
come are ``http_streamed``'s.
"""

import os
from typing import Any, NamedTuple

import pycurl

from aysfs.errors import Corrupt, StoreTrouble
from aysfs.store.curl import CLOSED, Ended

ERROR_PAGE = 16 << 10  # bytes of a refusal that are read to keep its connection

CUT = frozenset(
    (
        pycurl.E_COULDNT_CONNECT,
        pycurl.E_GOT_NOTHING,
        pycurl.E_PARTIAL_FILE,
        pycurl.E_RECV_ERROR,
        pycurl.E_SEND_ERROR,
    )
)
"""What may well succeed the next time."""


class NotThereError(Exception):
    """The server said so, and nothing less: 404 or 410."""


class Refused(StoreTrouble):
    """The server answered, and it is no answer to what was asked."""

    def __init__(self, where: str, status: int) -> None:
        words = _REFUSALS.get(status)
        what = f"{words} (HTTP {status})" if words else f"HTTP {status}"
        super().__init__(f"{where}: {what}", hint=_REFUSED_HINTS.get(status))
        self.status = status


_REFUSALS = {401: "the server wants a login, or another one", 403: "the server forbids it"}
_REFUSED_HINTS = {
    401: "write the login into the address: https://login:password@host/path",
    403: "may this login read it, and may the server's user read the file?",
    407: "the proxy wants a login: http_proxy=http://login:password@proxy:port",
}


class OtherSize(Corrupt):
    """What is there is no blob of this size; not a byte of it has reached the sink."""


class Bounds(NamedTuple):
    """How long anything is waited for, in seconds, and how often it is tried."""

    connect: float = 15.0  # name, connection and TLS
    idle: float = 30.0  # slower than ``slowest`` for so long, or without an answer
    whole: float = 3600.0  # beside what a blob may take at the slowest speed
    slowest: int = 1024  # bytes a second
    tries: int = 4
    backoff: float = 0.2  # before the second try, and twice as long before each after it
    patience: float = 20.0  # that a server may ask for, in all


class Request:
    """What every request has: where it goes, what is left of its tries, its judgement.

    ``where`` names it in messages.
    """

    is_plain = False  # it sets nothing but URL and WRITEFUNCTION

    def __init__(self, url: str, where: str, bounds: Bounds) -> None:
        self.url = url
        self.where = where
        self.bounds = bounds
        self._left = bounds.tries
        self._patience = bounds.patience

    def prepare(self, easy: Any) -> None:
        """Set what this try differs by from a handle that is fresh."""
        easy.setopt(pycurl.URL, self.url)

    def judge(self, easy: Any, ended: Ended) -> float | None:
        """None when it is answered, else seconds until the next try; raises what it came to."""
        raise NotImplementedError

    def _status(self, easy: Any, status: int) -> float:
        """What an answer means that is not the wanted one."""
        if status in (404, 410):
            raise NotThereError
        if status == 429 or (status >= 500 and status not in (501, 505)):
            return self._again(f"HTTP {status}", float(easy.getinfo(pycurl.RETRY_AFTER)))
        raise Refused(self.where, status)

    def _failed(self, easy: Any, ended: Ended) -> float:
        """What it means that there is no answer, or no whole one."""
        error = broken(self.where, easy, ended, self.bounds)
        if ended.code in CUT:
            return self._again(str(error).removeprefix(f"{self.where}: "), 0.0, error.hint)
        raise error

    def _again(self, what: str, asked: float = 0.0, hint: str | None = None) -> float:
        self._left -= 1
        done = self.bounds.tries - self._left
        pause = max(self.bounds.backoff * 2.0 ** (done - 1), asked)
        self._patience -= pause
        if self._patience < 0:
            words = f"; it asks to be left alone for {asked:g} s" if asked else ""
            raise StoreTrouble(f"{self.where}: {what}{words}", hint=hint or "try again later")
        if self._left <= 0:
            times = f", {done} times" if done > 1 else ""
            raise StoreTrouble(f"{self.where}: {what}{times}", hint=hint)
        return pause


class Held(Request):
    """A body of known size that is held in memory: cut short, it is simply asked for again."""

    is_plain = True

    def __init__(self, url: str, where: str, bounds: Bounds, size: int) -> None:
        super().__init__(url, where, bounds)
        self._size = size
        self._pieces: list[bytes] = []
        self._limit = self._room = max(size, ERROR_PAGE)

    @property
    def data(self) -> bytes:
        """The body, once it is judged."""
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)

    def prepare(self, easy: Any) -> None:
        self._pieces.clear()
        self._room = self._limit
        easy.setopt(pycurl.URL, self.url)
        easy.setopt(pycurl.WRITEFUNCTION, self._take)

    def _take(self, data: bytes) -> int | None:
        self._room -= len(data)
        if self._room < 0:
            return 0  # which ends the transfer
        self._pieces.append(data)
        return None

    def judge(self, easy: Any, ended: Ended) -> float | None:
        status = easy.getinfo(pycurl.RESPONSE_CODE)
        overflow = ended.code == pycurl.E_WRITE_ERROR
        if ended.code and not overflow:
            return self._failed(easy, ended)
        if status != 200:
            return self._status(easy, status)
        got = self._limit - self._room
        if overflow or got != self._size:
            length = easy.getinfo(pycurl.CONTENT_LENGTH_DOWNLOAD_T)
            if got < self._size and length < 0:
                return self._again(f"{got} of {self._size} bytes")
            raise wrong_size(self.where, length if length >= 0 else got, self._size)
        return None


class Head(Request):
    """Whether something is there, its size and time; None or the epoch where none is given."""

    size: int | None = None
    mtime_ns = 0

    def prepare(self, easy: Any) -> None:
        easy.setopt(pycurl.URL, self.url)
        easy.setopt(pycurl.NOBODY, True)
        easy.setopt(pycurl.OPT_FILETIME, True)

    def judge(self, easy: Any, ended: Ended) -> float | None:
        if ended.code:
            return self._failed(easy, ended)
        status = easy.getinfo(pycurl.RESPONSE_CODE)
        if status != 200:
            return self._status(easy, status)
        length = easy.getinfo(pycurl.CONTENT_LENGTH_DOWNLOAD_T)
        self.size = length if length >= 0 else None
        self.mtime_ns = max(0, easy.getinfo(pycurl.INFO_FILETIME)) * 1_000_000_000
        return None


# --- errors ------------------------------------------------------------------------------


def wrong_size(where: str, found: int, size: int) -> OtherSize:
    """What the server has there is of another size than the blob."""
    return OtherSize(f"{where}: has {found} bytes, not {size}")


def broken(where: str, easy: Any, ended: Ended, bounds: Bounds) -> StoreTrouble:
    """There is no answer, or half of one."""
    if ended.code == CLOSED:
        return StoreTrouble(f"{where}: the store was closed")
    what, hint = ended.words or f"libcurl error {ended.code}", None
    if ended.code == pycurl.E_OPERATION_TIMEDOUT:
        what = _late(easy, bounds)
    elif ended.code == pycurl.E_COULDNT_CONNECT:
        number = int(easy.getinfo(pycurl.OS_ERRNO))
        what = f"no connection: {os.strerror(number) if number else what}"
        hint = "is the server running, and host and port right?"
    elif ended.code in (pycurl.E_COULDNT_RESOLVE_HOST, pycurl.E_COULDNT_RESOLVE_PROXY):
        hint = "is the name right, and does this host's DNS work?"
    elif ended.code in _TLS:
        hint = "an authority of your own is trusted by SSL_CERT_FILE=FILE"
    elif ended.code == pycurl.E_TOO_MANY_REDIRECTS:
        what, hint = "redirected again and again", "use the address that it should lead to"
    elif ended.code == pycurl.E_UNSUPPORTED_PROTOCOL:
        what = "redirected to an address that is not followed"
        hint = "from https:// only to https://"
    elif ended.code in CUT:
        what = "the connection broke off"
    return StoreTrouble(f"{where}: {what}", hint=hint)


_TLS = (
    pycurl.E_PEER_FAILED_VERIFICATION,
    pycurl.E_SSL_CACERT_BADFILE,
    pycurl.E_SSL_CONNECT_ERROR,
)


def _late(easy: Any, bounds: Bounds) -> str:
    secure = easy.getinfo(pycurl.EFFECTIVE_URL).startswith("https:")
    if not easy.getinfo(pycurl.APPCONNECT_TIME if secure else pycurl.CONNECT_TIME):
        return f"no connection within {min(bounds.connect, bounds.idle):g} s"
    if not easy.getinfo(pycurl.RESPONSE_CODE):
        return f"no answer within {bounds.idle:g} s"
    return f"fewer than {bounds.slowest} bytes a second for {bounds.idle:g} s"
