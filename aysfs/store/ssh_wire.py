"""Requests and answers of SFTP, many under way at once: the unit of speed of a far store.

Serves the SSH store, one thread at a time. Owns what is asked and not answered yet. paramiko
frames the messages; its own pipelining reads ahead in a thread that cannot be stopped, so the
order of requests is kept here. An answer of the server is data, a lost connection an exception.
"""

import collections
import contextlib
import errno
import os
import stat as stat_module
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import paramiko
from paramiko import sftp as numbers
from paramiko.sftp_client import int64

from aysfs.errors import StoreTrouble

WINDOW = 64  # requests under way
PIECE = 32 << 10  # bytes that every server takes and gives in one message

Request = tuple[Any, ...]


class NotThereError(Exception):
    """The server says that there is no such file. Ends in this floor."""


class RefusedError(Exception):
    """The server did not do as asked, and says why, or not."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True)
class Attributes:
    """What a server says about a file."""

    size: int
    mode: int
    mtime: int

    @property
    def is_regular(self) -> bool:
        """Whether it is a regular file."""
        return stat_module.S_ISREG(self.mode)

    @property
    def mtime_ns(self) -> int:
        """The time in nanoseconds: whole seconds, SFTP has no more."""
        return self.mtime * 1_000_000_000


Answer = bytes | Attributes | list[tuple[str, Attributes]] | Exception | None
"""A handle or data, attributes, names, or a status: None when all is well."""


class speaking:  # noqa: N801 - reads as a statement
    """What paramiko raises in the body becomes StoreTrouble. The one place where it does."""

    def __init__(self, label: str, idle: float, doing: str = "the connection was lost") -> None:
        self._label = label
        self._idle = idle
        self._doing = doing

    def __enter__(self) -> None:
        pass

    def __exit__(self, _type: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, StoreTrouble) or not isinstance(
            error, paramiko.SSHException | paramiko.SFTPError | EOFError | OSError | ValueError
        ):
            return
        if isinstance(error, TimeoutError):
            raise StoreTrouble(f"{self._label}: no answer within {self._idle:g} s") from error
        reason = f": {why}" if (why := _reason(error)) else ""
        raise StoreTrouble(f"{self._label}: {self._doing}{reason}") from error


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError):
        return error.strerror or os.strerror(error.errno or errno.EIO)
    return str(error).partition("\n")[0].rstrip(".: ")


class Wire:
    """One SFTP channel. ``failed`` is set when it cannot be used any more."""

    def __init__(self, sftp: Any, label: str, idle: float) -> None:
        self.failed = False
        self._sftp = sftp
        self._label = label
        self._idle = idle

    def ask(self, *request: Any) -> Answer:
        """One request and its answer."""
        return next(self.pipelined([request]))

    def done(self, *request: Any) -> Any:
        """One request that must succeed: its answer, or the refusal raised."""
        answer = self.ask(*request)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def tell(self, *request: Any) -> None:
        """A request whose answer nobody waits for."""
        with self._speaking():
            self._sftp._async_request(_Nobody(), *request)

    def pipelined(self, requests: Iterable[Request]) -> Generator[Answer, None, None]:
        """The answers, in the order of the requests; up to WINDOW are under way.

        When the consumer or the requests themselves give up, what is under way is answered
        before that goes on: the channel stays usable. So whoever may give up closes this.
        """
        inbox = _Inbox()
        waiting: collections.deque[int] = collections.deque()
        try:
            for request in requests:
                with self._speaking():
                    waiting.append(self._sftp._async_request(inbox, *request))
                if len(waiting) >= WINDOW:
                    yield self._next(inbox, waiting)
            while waiting:
                yield self._next(inbox, waiting)
        finally:
            while waiting and not self.failed:
                self._next(inbox, waiting)

    def _next(self, inbox: "_Inbox", waiting: "collections.deque[int]") -> Answer:
        number = waiting.popleft()
        with self._speaking():
            while number not in inbox.answers:
                self._sftp._read_response()
            return _read(*inbox.answers.pop(number))

    @contextlib.contextmanager
    def _speaking(self) -> Iterator[None]:
        try:
            with speaking(self._label, self._idle):
                yield
        except BaseException:
            self.failed = True
            raise


class _Inbox:
    """Where paramiko puts answers as they come."""

    def __init__(self) -> None:
        self.answers: dict[int, tuple[int, Any]] = {}

    def _async_response(self, kind: int, message: Any, number: int) -> None:
        self.answers[number] = (kind, message)


class _Nobody:
    def _async_response(self, _kind: int, _message: Any, _number: int) -> None:
        pass


def _read(kind: int, message: Any) -> Answer:
    if kind == numbers.CMD_STATUS:
        code = message.get_int()
        if code == numbers.SFTP_OK:
            return None
        if code == numbers.SFTP_NO_SUCH_FILE:
            return NotThereError()
        return RefusedError(code, message.get_text())
    if kind in (numbers.CMD_HANDLE, numbers.CMD_DATA):
        return bytes(message.get_string())
    if kind == numbers.CMD_ATTRS:
        return _attributes(message)
    if kind == numbers.CMD_NAME:
        return [_named(message) for _ in range(message.get_int())]
    if kind == numbers.CMD_EXTENDED_REPLY:
        return bytes(message.get_remainder())
    return _nonsense(kind)


def _nonsense(kind: int) -> NoReturn:
    raise paramiko.SFTPError(f"an answer of kind {kind}")


def _named(message: Any) -> tuple[str, Attributes]:
    name = message.get_string().decode("utf-8", "surrogateescape")
    message.get_string()  # the line of an `ls -l`
    return name, _attributes(message)


def _attributes(message: Any) -> Attributes:
    found = paramiko.SFTPAttributes._from_msg(message)
    return Attributes(found.st_size or 0, found.st_mode or 0, found.st_mtime or 0)


# --- the requests -------------------------------------------------------------------------

EOF = numbers.SFTP_EOF
FAILURE = numbers.SFTP_FAILURE
UNSUPPORTED = numbers.SFTP_OP_UNSUPPORTED


def open_to_read(path: str) -> Request:
    return (numbers.CMD_OPEN, path, numbers.SFTP_FLAG_READ, paramiko.SFTPAttributes())


def create(path: str, mode: int) -> Request:
    flags = numbers.SFTP_FLAG_WRITE | numbers.SFTP_FLAG_CREATE | numbers.SFTP_FLAG_EXCL
    return (numbers.CMD_OPEN, path, flags, _mode(mode))


def close(handle: bytes) -> Request:
    return (numbers.CMD_CLOSE, handle)


def read(handle: bytes, offset: int, size: int) -> Request:
    return (numbers.CMD_READ, handle, int64(offset), size)


def write(handle: bytes, offset: int, data: bytes) -> Request:
    return (numbers.CMD_WRITE, handle, int64(offset), data)


def fstat(handle: bytes) -> Request:
    return (numbers.CMD_FSTAT, handle)


def fchmod(handle: bytes, mode: int) -> Request:
    return (numbers.CMD_FSETSTAT, handle, _mode(mode))


def chmod(path: str, mode: int) -> Request:
    return (numbers.CMD_SETSTAT, path, _mode(mode))


def fsync(handle: bytes) -> Request:
    return (numbers.CMD_EXTENDED, "fsync@openssh.com", handle)


def stat(path: str) -> Request:
    return (numbers.CMD_STAT, path)


def statvfs(path: str) -> Request:
    return (numbers.CMD_EXTENDED, "statvfs@openssh.com", path)


def open_directory(path: str) -> Request:
    return (numbers.CMD_OPENDIR, path)


def read_directory(handle: bytes) -> Request:
    return (numbers.CMD_READDIR, handle)


def rename(old: str, new: str) -> Request:
    """The rename that replaces, as POSIX has it."""
    return (numbers.CMD_EXTENDED, "posix-rename@openssh.com", old, new)


def remove(path: str) -> Request:
    return (numbers.CMD_REMOVE, path)


def make_directory(path: str, mode: int) -> Request:
    return (numbers.CMD_MKDIR, path, _mode(mode))


def _mode(mode: int) -> Any:
    attributes = paramiko.SFTPAttributes()
    attributes.st_mode = mode
    return attributes
