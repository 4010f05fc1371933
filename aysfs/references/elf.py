"""What a program or library for Linux names: its loader, its libraries, and where they are.

Pure; serves the resolution of references. The bytes are anybody's: whatever they say, what is read
of them is bounded, and nothing is raised.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

MOST_NEEDED = 256
MOST_DIRECTORIES = 16
_MOST_SEGMENTS = 1024
_MOST_DYNAMIC = 4096
"""Entries of a dynamic section that are read; the largest libraries have some fifty."""
_MOST_TEXT = 4096
"""Bytes of a name or of a search path."""

_PROGRAM, _LIBRARY = 2, 3  # e_type; a program that may lie anywhere is a library here
_LOAD, _DYNAMIC, _INTERP = 1, 2, 3  # p_type
_END, _NEEDED, _STRINGS, _RPATH, _RUNPATH = 0, 1, 5, 15, 29  # d_tag


class Elf(NamedTuple):
    """Names as they are written: libraries in their order, the path of the loader, directories.

    ``search`` is RUNPATH, or RPATH where there is none; ``$ORIGIN`` in it is the file's directory.
    """

    needed: tuple[bytes, ...]
    interpreter: bytes | None
    search: tuple[bytes, ...]


class _Segment(NamedTuple):
    kind: int
    offset: int
    address: int
    size: int


class _Layout(NamedTuple):
    """Where the numbers are, which differs between files of 32 and of 64 bits."""

    header: str  # e_phoff, e_phentsize and e_phnum; from byte 16 on e_type
    segment: str
    fields: tuple[int, int, int, int]  # of a segment: p_type, p_offset, p_vaddr, p_filesz
    dynamic: str


_LAYOUTS = {
    1: _Layout("H10xI10xHH", "8I", (0, 1, 2, 4), "iI"),
    2: _Layout("H14xQ14xHH", "IIQQQQQQ", (0, 2, 3, 5), "qQ"),
}
_ORDERS = {1: "<", 2: ">"}


def read_elf(data: bytes) -> Elf | None:
    """What the file names; None for what is no program or library, or is broken."""
    if data[:4] != b"\x7fELF" or len(data) < 64:
        return None
    layout, order = _LAYOUTS.get(data[4]), _ORDERS.get(data[5])
    if layout is None or order is None:
        return None
    segments = _segments(data, layout, order)
    if segments is None:
        return None
    interpreter = next((one for one in segments if one.kind == _INTERP), None)
    loader = None if interpreter is None else _text(data, interpreter.offset)
    dynamic = next((one for one in segments if one.kind == _DYNAMIC), None)
    if dynamic is None:
        return Elf((), loader, ())
    needed: list[int] = []
    strings, rpath, runpath = None, None, None
    for tag, value in _entries(data, dynamic, order + layout.dynamic):
        if tag == _NEEDED and len(needed) < MOST_NEEDED:
            needed.append(value)
        elif tag == _STRINGS:
            strings = _offset(segments, value)
        elif tag == _RPATH:
            rpath = value
        elif tag == _RUNPATH:
            runpath = value
    if strings is None:
        return None
    names = (_text(data, strings + at) for at in needed)
    where = rpath if runpath is None else runpath
    search = (None if where is None else _text(data, strings + where)) or b""
    directories = search.split(b":", MOST_DIRECTORIES)[:MOST_DIRECTORIES]
    return Elf(tuple(filter(None, names)), loader or None, tuple(filter(None, directories)))


def _segments(data: bytes, layout: _Layout, order: str) -> list[_Segment] | None:
    kind, start, size, count = struct.unpack_from(order + layout.header, data, 16)
    one = struct.Struct(order + layout.segment)
    end = start + count * one.size
    if kind not in (_PROGRAM, _LIBRARY) or count > _MOST_SEGMENTS:
        return None
    if (count and size != one.size) or end > len(data):
        return None
    found = one.iter_unpack(data[start:end])
    return [_Segment(*(fields[at] for at in layout.fields)) for fields in found]


def _entries(data: bytes, dynamic: _Segment, form: str) -> Iterator[tuple[int, int]]:
    """Tags and values, up to the end or as far as the file goes."""
    one = struct.Struct(form)
    size = min(dynamic.size, max(0, len(data) - dynamic.offset), _MOST_DYNAMIC * one.size)
    end = dynamic.offset + size - size % one.size
    for tag, value in one.iter_unpack(data[dynamic.offset : end]):
        if tag == _END:
            return
        yield tag, value


def _offset(segments: list[_Segment], address: int) -> int | None:
    """Where in the file the bytes are that lie there in memory."""
    for one in segments:
        if one.kind == _LOAD and one.address <= address < one.address + one.size:
            return one.offset + address - one.address
    return None


def _text(data: bytes, at: int) -> bytes | None:
    """The text that begins there; None when it has no end, or none near enough."""
    if at >= len(data):
        return None
    end = data.find(b"\0", at, at + _MOST_TEXT)
    return None if end < 0 else data[at:end]
