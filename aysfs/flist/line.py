"""One full line of a version 2 list <-> one Entry.

Serves the reader and the writer of lists. A line is accepted in exactly one place, ``parse``;
what it accepts, ``format_line`` gives back byte for byte. Nothing here knows about files,
line numbers or neighbouring lines.

Speed is a contract: a million lines are read at each start of a large mount. One regular
expression per line, and the few distinct attribute and time columns are parsed once.
"""

import binascii
import re
from collections.abc import Callable
from typing import cast

from aysfs import digest
from aysfs.flist.entry import Entry, Ext, Kind
from aysfs.flist.percent import Malformed, decode_path, encode_path
from aysfs.flist.rules import (
    MAX_ID,
    MAX_NAME,
    MAX_SIZE,
    MAX_TIME_NS,
    MIN_TIME_NS,
    check_ext,
    check_path,
    format_ext,
    parse_ext,
)

_MATCH = re.compile(
    rb"(/[^|\x00-\x1f\x7f]*)"
    rb"\|([0-9a-f]{32})"
    rb"\|(0|[1-9][0-9]{0,18})"
    rb"\|([0-9]{1,10}\|[0-9]{1,10}\|[0-7]{4}\|[0-6])"
    rb"\|(-?[0-9]{1,10}\.[0-9]{9})\|\5"
    rb"\|([^|\x00-\x1f\x7f]*)\n"
).fullmatch
_MD5 = re.compile(rb"[0-9a-f]{32}").fullmatch
_TIME = re.compile(rb"(-?)(0|[1-9][0-9]{0,9})\.([0-9]{9})").fullmatch
_NUMBER = re.compile(rb"0|[1-9][0-9]{0,18}").fullmatch
_MODE = re.compile(rb"[0-7]{4}").fullmatch
_DOTS = re.compile(rb"/\.\.?(?:/|\Z)").search
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]").search

_unhex = cast("Callable[[bytes], digest.Digest]", binascii.unhexlify)

CACHED = 65536  # distinct columns remembered before starting over: memory stays bounded
_Attributes = tuple[int, int, int, Kind]


class LineParser:
    """Turns lines into entries, remembering the attribute and time columns it has seen."""

    def __init__(self) -> None:
        self._attributes: dict[bytes, _Attributes] = {}
        self._times: dict[bytes, int] = {}

    def parse(self, line: bytes) -> tuple[bytes, Entry]:
        """The path as written and the entry; Malformed for everything not canonical."""
        found = _MATCH(line)
        if found is None:
            raise Malformed(explain(line))
        text, md5, size_text, attributes, time, ext_text = found.groups()
        path = text
        if b"%" in text or not line.isascii():
            path = decode_path(text)
            if b"\0" in path:
                raise Malformed("NUL in the path")
        if (
            (b"/." in path and _DOTS(path))
            or b"//" in path
            or path[-1] == 47
            or len(path) > MAX_NAME
        ):
            check_path(path)
        size = int(size_text)
        try:
            uid, gid, mode, kind = self._attributes[attributes]
        except KeyError:
            uid, gid, mode, kind = self._new_attributes(attributes)
        try:
            mtime_ns = self._times[time]
        except KeyError:
            mtime_ns = self._new_time(time)
        ext: Ext = ()
        if ext_text or kind is not Kind.REGULAR or size > MAX_SIZE or path == b"/":
            ext = _rest(path, kind, size, md5, ext_text)
        return text, Entry(path, kind, mode, uid, gid, size, _unhex(md5), mtime_ns, ext)

    def _new_attributes(self, text: bytes) -> _Attributes:
        uid, gid, mode, kind = text.split(b"|")
        value = (_id(uid, "uid"), _id(gid, "gid"), int(mode, 8), Kind(int(kind)))
        if len(self._attributes) >= CACHED:
            self._attributes.clear()
        self._attributes[text] = value
        return value

    def _new_time(self, text: bytes) -> int:
        value = parse_time(text)
        if len(self._times) >= CACHED:
            self._times.clear()
        self._times[text] = value
        return value


def _rest(path: bytes, kind: Kind, size: int, md5: bytes, ext_text: bytes) -> Ext:
    """The checks that a regular file without ext does not need; returns the ext."""
    if size > MAX_SIZE:
        raise Malformed("size over 2**63-1")
    if kind is not Kind.REGULAR and (size or md5.strip(b"0")):
        raise Malformed("md5 and size of an entry that is not a regular file must be zero")
    if path == b"/" and kind is not Kind.DIRECTORY:
        raise Malformed("the root is not a directory")
    ext = parse_ext(ext_text)
    check_ext(path, kind, ext)
    return ext


def format_line(entry: Entry) -> bytes:
    """The line of an entry. The writer parses it again: that is the check."""
    time = format_time(entry.mtime_ns)
    return b"%s|%s|%d|%d|%d|%04o|%d|%s|%s|%s\n" % (
        encode_path(entry.path),
        entry.digest.hex().encode(),
        entry.size,
        entry.uid,
        entry.gid,
        entry.mode,
        entry.kind,
        time,
        time,
        format_ext(entry.ext) if entry.ext else b"",
    )


def parse_time(text: bytes) -> int:
    """Nanoseconds from decimal ``seconds.nnnnnnnnn``, which may be negative."""
    found = _TIME(text)
    if not found:
        raise Malformed("bad time: `seconds.nnnnnnnnn`")
    value = int(found[2]) * 10**9 + int(found[3])
    if found[1]:
        if not value:
            raise Malformed("bad time: minus zero")
        value = -value
    if not MIN_TIME_NS <= value <= MAX_TIME_NS:
        raise Malformed("time outside of 64-bit nanoseconds")
    return value


def format_time(time_ns: int) -> bytes:
    """The text that parse_time reads back: -1.5 s is ``-1.500000000``."""
    seconds, nanoseconds = divmod(abs(time_ns), 10**9)
    return b"%s%d.%09d" % (b"-" if time_ns < 0 else b"", seconds, nanoseconds)


def explain(line: bytes) -> str:
    """Why the pattern did not match, in the words of the first column that is wrong."""
    for refused, reason in (
        (line in (b"\n", b"\r\n"), "blank line"),
        (line.endswith(b"\r\n"), "CRLF line ending"),
        (line.startswith(b"#"), "a header line after the first entry"),
        (not line.endswith(b"\n"), "the last line has no newline: the list is cut off"),
    ):
        if refused:
            return reason
    columns = line[:-1].split(b"|")
    if len(columns) != 10:
        return f"{len(columns)} columns, expected 10"
    path, md5, size, uid, gid, mode, kind, ctime, mtime, ext = columns
    for wrong, reason in (
        (not path.startswith(b"/"), "relative path"),
        (b"\0" in path, "NUL in the path"),
        (_CONTROL(path), "a control character in the path is not percent-encoded"),
        (not _MD5(md5), "bad md5: 32 lower-case hexadecimal digits"),
        (size.startswith(b"-"), "negative size"),
        (not _NUMBER(size), "bad size"),
        (not _NUMBER(uid) or len(uid) > 10, "bad uid"),
        (not _NUMBER(gid) or len(gid) > 10, "bad gid"),
        (not _MODE(mode), "bad mode: four octal digits"),
        (kind not in (b"0", b"1", b"2", b"3", b"4", b"5", b"6"), "bad type: 0 to 6"),
        (not _TIME(ctime) or not _TIME(mtime), "bad time: `seconds.nnnnnnnnn`"),
        (ctime != mtime, "ctime differs from mtime"),
        (_CONTROL(ext), "a control character in ext is not percent-encoded"),
    ):
        if wrong:
            return reason
    return "malformed line"


def _id(text: bytes, what: str) -> int:
    value = int(text)
    if (text != b"0" and text.startswith(b"0")) or value > MAX_ID:
        raise Malformed(f"bad {what}: 0 to {MAX_ID}, no leading zeros")
    return value
