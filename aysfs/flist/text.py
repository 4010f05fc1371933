"""Lists as bytes: read any generation, write version 2.

Serves the mount, the tools and the publisher. ``FlistReader`` streams: its memory does not
grow with the list. Everything it refuses is a BadList with the line and the reason, and every
version 2 list it accepts is what ``write_flist`` would write for the same header and entries.
It must not build trees, look for neighbours beyond the line before, or touch a file system.
"""

import re
from collections.abc import Iterable, Iterator
from functools import partial
from typing import BinaryIO

from aysfs.errors import BadList
from aysfs.flist.entry import Entry, Header
from aysfs.flist.line import LineParser, format_line
from aysfs.flist.lineage import LineageParser, Resolve, host_id
from aysfs.flist.percent import Malformed, decode_path, encode_path
from aysfs.flist.rules import check_path, show

MAX_LINE = 1 << 20  # bytes, newline included; the header lines together have the same bound
CHUNK = 1 << 16
_PIECE = 1 << 20

_MAGIC = b"#flist 2\n"
_HEADER_LINE = re.compile(rb"#([a-z][a-z0-9._-]*) ([^|\x00-\x1f\x7f]+)\n").fullmatch


class FlistReader:
    """One pass over a list: ``header`` is there after construction, iteration yields entries.

    ``mtime_ns`` stands in for the times that a classic line lacks; ``resolve`` finds the ids
    of the names in a lineage line (this host's by default). ``line`` is the line of the entry
    that was yielded last.
    """

    def __init__(
        self, file: BinaryIO, *, source: str, mtime_ns: int, resolve: Resolve = host_id
    ) -> None:
        self.source = source
        self.line = 0
        self._lines = iter(partial(file.readline, MAX_LINE + 1), b"")
        self._first: bytes | None = None
        self._lineage = LineageParser(mtime_ns, resolve)
        try:
            self.header = self._read_header()
        except Malformed as refusal:
            raise BadList(source, self.line, str(refusal)) from None

    def __iter__(self) -> Iterator[Entry]:
        entries = self._version_2() if self.header.version == 2 else self._version_1()
        try:
            yield from entries
        except Malformed as refusal:
            raise BadList(self.source, self.line, str(refusal)) from None

    def _version_2(self) -> Iterator[Entry]:
        parse = LineParser().parse
        previous = b""
        for line in self._body():
            path, entry = parse(line)
            if path <= previous:
                raise Malformed(_order_reason(path, previous))
            previous = path
            yield entry

    def _version_1(self) -> Iterator[Entry]:
        yield from map(self._lineage.parse, self._body())

    def _body(self) -> Iterator[bytes]:
        if self._first is not None:
            line, self._first = self._first, None
            yield line
        for line in self._lines:
            self.line += 1
            if len(line) > MAX_LINE:
                raise Malformed("line over 1 MiB")
            yield line

    def _next_header_line(self) -> bytes:
        line = next(self._lines, b"")
        if line:
            self.line += 1
        if len(line) > MAX_LINE:
            raise Malformed("line over 1 MiB")
        return line

    def _read_header(self) -> Header:
        line = self._next_header_line()
        if not line:
            raise Malformed("empty list")
        if not line.startswith(b"#flist"):
            self._first = line
            return Header(version=1)
        if line != _MAGIC:
            if line.endswith(b"\r\n"):
                raise Malformed("CRLF line ending")
            raise Malformed(f"not a version of the format that is known here: {show(line[:40])}")
        base = None
        keys: list[tuple[bytes, bytes]] = []
        previous = b""
        total = 0
        while (line := self._next_header_line()).startswith(b"#"):
            total += len(line)
            if total > MAX_LINE:
                raise Malformed("header over 1 MiB")
            key, value = _parse_header_line(line, previous)
            if key == b"base":
                base = value
            else:
                keys.append((key, value))
            previous = key
        self._first = line or None
        return Header(2, base, tuple(keys))


def find_entry(file: BinaryIO, path: bytes) -> Entry | None:
    """The entry of one path in a version 2 list that was accepted before; the others stay unread.

    None when no line names the path, or the list is none of version 2.
    """
    file.seek(0)
    if file.read(len(_MAGIC)) != _MAGIC:
        return None
    wanted = b"\n" + encode_path(path) + b"|"
    before = b"\n"
    while piece := file.read(_PIECE):
        data = before + piece
        at = data.find(wanted) + 1
        if at:
            end = data.find(b"\n", at) + 1
            line = data[at:end] if end else data[at:] + file.readline(MAX_LINE)
            try:
                return LineParser().parse(line)[1]
            except Malformed:  # the file was changed under us
                return None
        before = data[1 - len(wanted) :]
    return None


def _parse_header_line(line: bytes, previous: bytes) -> tuple[bytes, bytes]:
    found = _HEADER_LINE(line)
    if not found:
        if line.endswith(b"\r\n"):
            raise Malformed("CRLF line ending")
        raise Malformed("bad header line: `#key value`")
    key, value = found[1], decode_path(found[2])
    if key == b"require":
        raise Malformed(f"the list requires {show(value)}, which is not known here")
    if key == b"flist":
        raise Malformed("`#flist` twice")
    if key <= previous:
        raise Malformed(f"header key {'twice' if key == previous else 'not in order'}: {show(key)}")
    if key == b"base":
        check_path(value)
    return key, value


def _order_reason(path: bytes, previous: bytes) -> str:
    if path == previous:
        return f"the same path twice: {show(path)}"
    return f"not sorted: {show(path)} after {show(previous)}"


def write_flist(
    header: Header | bytes | None, entries: Iterable[Entry], *, source: str = "list"
) -> Iterator[bytes]:
    """The bytes of a version 2 list, in chunks of about 64 KiB.

    ``header`` may be just the base. Entries come in the order of ``encode_path(entry.path)``.
    BadList, with the line it would have been, for entries that no list can hold: the bytes
    that were yielded before are then no list either.
    """
    if not isinstance(header, Header):
        header = Header(2, header)
    number = 0
    try:
        chunk = _header_lines(header)
        number = len(chunk)
        room = CHUNK
        parse = LineParser().parse
        previous = b""
        for entry in entries:
            number += 1
            line = format_line(entry)
            path, read_back = parse(line)
            if read_back != entry:
                raise Malformed("an entry that is not written as it is read")
            if path <= previous:
                raise Malformed(_order_reason(path, previous))
            if len(line) > MAX_LINE:
                raise Malformed("line over 1 MiB")
            previous = path
            chunk.append(line)
            room -= len(line)
            if room <= 0:
                yield b"".join(chunk)
                chunk.clear()
                room = CHUNK
        yield b"".join(chunk)
    except Malformed as refusal:
        raise BadList(source, number, str(refusal)) from None


def _header_lines(header: Header) -> list[bytes]:
    pairs = list(header.keys)
    if header.base is not None:
        pairs.append((b"base", header.base))
    lines = [_MAGIC]
    previous = b""
    for key, value in sorted(pairs):
        line = b"#%s %s\n" % (key, encode_path(value))
        _parse_header_line(line, previous)
        lines.append(line)
        previous = key
    return lines
