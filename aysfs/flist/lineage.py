"""Lists that others wrote: the classic three columns and the lineage's ten.

Serves the reader (which finds no ``#flist 2``) and ``flist convert``. Nothing is decoded: a
name is the bytes between the bars, and a name with a bar cannot be read. Each line decides for
itself which of the two it is. The same path may come twice; the tree judges that.
"""

import binascii
import enum
import grp
import pwd
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, cast

from aysfs import digest
from aysfs.flist.entry import Entry, Ext, Kind
from aysfs.flist.percent import Malformed
from aysfs.flist.rules import (
    DEVICES,
    MAX_ID,
    MAX_SIZE,
    MAX_TIME_NS,
    MIN_TIME_NS,
    check_path,
    check_rdev,
    check_target,
)

CLASSIC_FILE_MODE = 0o555
CHUNK = 1 << 16
_CACHED = 4096

Resolve = Callable[[Literal["user", "group"], bytes], int | None]

_MD5 = re.compile(rb"[0-9a-f]{32}").fullmatch
_NUMBER = re.compile(rb"[0-9]{1,19}").fullmatch
_MODE = re.compile(rb"[0-7]{1,4}").fullmatch
_KIND = re.compile(rb"[0-6]").fullmatch
_TIME = re.compile(rb"(-?)([0-9]{1,10})(?:\.([0-9]{1,9}))?").fullmatch
_ID = re.compile(rb"[0-9]{1,10}").fullmatch

_unhex = cast("Callable[[bytes], digest.Digest]", binascii.unhexlify)


def host_id(what: Literal["user", "group"], name: bytes) -> int | None:
    """The id of a user or group on this host, None when there is no such name."""
    try:
        text = name.decode()
        return pwd.getpwnam(text).pw_uid if what == "user" else grp.getgrnam(text).gr_gid
    except (KeyError, ValueError):  # ValueError: NUL in the name, or not UTF-8
        return None


class LineageParser:
    """Turns lines of three or ten columns into entries."""

    def __init__(self, mtime_ns: int, resolve: Resolve) -> None:
        self._mtime_ns = mtime_ns
        self._resolve = resolve
        self._owners: dict[tuple[bytes, bytes], tuple[int, int] | None] = {}

    def parse(self, line: bytes) -> Entry:
        """The entry of a line; Malformed when the line is neither of the two."""
        if line in (b"\n", b"\r\n"):
            raise Malformed("blank line")
        if line.endswith((b"\r\n", b"\r")):
            raise Malformed("CRLF line ending")
        columns = line.removesuffix(b"\n").split(b"|")
        if len(columns) not in (3, 10):
            raise Malformed(
                f"{len(columns)} columns, expected 3 or 10; a name that holds `|` needs version 2"
            )
        path, md5, size_text = columns[:3]
        check_path(path)
        if not _MD5(md5):
            raise Malformed("bad md5: 32 lower-case hexadecimal digits")
        size = _size(size_text)
        if len(columns) == 10:
            return self._full(path, md5, size, columns[3:])
        if path == b"/":
            raise Malformed("the root is not a directory")
        return Entry(path, Kind.REGULAR, CLASSIC_FILE_MODE, 0, 0, size, _unhex(md5), self._mtime_ns)

    def _full(self, path: bytes, md5: bytes, size: int, columns: list[bytes]) -> Entry:
        uname, gname, mode_text, kind_text, first, second, ext_text = columns
        if not _MODE(mode_text):
            raise Malformed("bad mode: up to four octal digits")
        if not _KIND(kind_text):
            raise Malformed("bad type: 0 to 6")
        kind = Kind(int(kind_text))
        mode = int(mode_text, 8)
        mtime_ns = min(_time(first), _time(second))  # old writers swapped the two columns
        if path == b"/" and kind is not Kind.DIRECTORY:
            raise Malformed("the root is not a directory")
        ext = _ext(kind, ext_text)
        owner = self._owner(uname, gname)
        if owner is None:
            # DANGER: setuid for an owner we do not know would become setuid root.
            owner = (0, 0)
            mode &= ~0o6000
        value = digest.ZERO
        if kind is Kind.REGULAR:
            value = _unhex(md5)
        else:
            size = 0
        return Entry(path, kind, mode, *owner, size, value, mtime_ns, ext)

    def _owner(self, uname: bytes, gname: bytes) -> tuple[int, int] | None:
        key = (uname, gname)
        if key not in self._owners:
            uid, gid = self._id("user", uname), self._id("group", gname)
            if len(self._owners) >= _CACHED:
                self._owners.clear()
            self._owners[key] = None if uid is None or gid is None else (uid, gid)
        return self._owners[key]

    def _id(self, what: Literal["user", "group"], name: bytes) -> int | None:
        if not _ID(name):
            return self._resolve(what, name)
        value = int(name)
        if value > MAX_ID:
            raise Malformed(f"bad {what} id: 0 to {MAX_ID}")
        return value


def _size(text: bytes) -> int:
    if text.startswith(b"-"):
        raise Malformed("negative size")
    if not _NUMBER(text) or int(text) > MAX_SIZE:
        raise Malformed("bad size")
    return int(text)


def _time(text: bytes) -> int:
    found = _TIME(text)
    if not found:
        raise Malformed("bad time: seconds")
    value = int(found[2]) * 10**9 + int((found[3] or b"").ljust(9, b"0"))
    if found[1]:
        value = -value
    if not MIN_TIME_NS <= value <= MAX_TIME_NS:
        raise Malformed("time outside of 64-bit nanoseconds")
    return value


def _ext(kind: Kind, text: bytes) -> Ext:
    if kind is Kind.SYMLINK:
        check_target(text)
        return ((b"target", text),)
    if kind in DEVICES:
        check_rdev(text)
        return ((b"rdev", text),)
    if text:
        raise Malformed("ext of an entry that is neither a symlink nor a device")
    return ()


class Loss(enum.StrEnum):
    """What a classic list cannot say. The first four leave an entry out altogether."""

    SYMLINK = "symlinks left out"
    DIRECTORY = "directories left out (a directory above a file is implied)"
    SPECIAL = "sockets, devices and fifos left out"
    NAME = "names holding `|` or a newline left out"
    ATTRIBUTES = "files whose mode or owner is not 0555 root root"
    XATTRS = "files with extended attributes or capabilities"
    HARDLINK = "hard links that become files of their own"


_LEFT_OUT: dict[int, Loss] = {Kind.SYMLINK: Loss.SYMLINK, Kind.DIRECTORY: Loss.DIRECTORY}


def write_classic(
    entries: Iterable[Entry], dropped: Counter[Loss] | None = None
) -> Iterator[bytes]:
    """A classic list, in chunks of about 64 KiB. Counts in ``dropped`` what it could not say.

    The counts are complete when the iterator is exhausted. Times are lost without a count:
    no classic line has one.
    """
    losses: Counter[Loss] = Counter() if dropped is None else dropped
    chunk: list[bytes] = []
    room = CHUNK
    for entry in entries:
        if entry.kind != Kind.REGULAR:
            losses[_LEFT_OUT.get(entry.kind, Loss.SPECIAL)] += 1
            continue
        if b"|" in entry.path or b"\n" in entry.path:
            losses[Loss.NAME] += 1
            continue
        losses.update(_losses(entry))
        line = b"%s|%s|%d\n" % (entry.path, entry.digest.hex().encode(), entry.size)
        chunk.append(line)
        room -= len(line)
        if room <= 0:
            yield b"".join(chunk)
            chunk.clear()
            room = CHUNK
    if chunk:
        yield b"".join(chunk)


def _losses(entry: Entry) -> Iterator[Loss]:
    if (entry.mode, entry.uid, entry.gid) != (CLASSIC_FILE_MODE, 0, 0):
        yield Loss.ATTRIBUTES
    if entry.ext and entry.xattrs:
        yield Loss.XATTRS
    if entry.ext and entry.hardlink is not None:
        yield Loss.HARDLINK
