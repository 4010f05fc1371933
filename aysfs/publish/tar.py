"""A reader of tar streams: POSIX (pax) archives, and the older forms that Docker may send.

Serves ``stream``. Owns one buffer; members come in the order of the archive, names and
attributes as the bytes that are in it. It judges the form of an archive and never what a path
means. Everything that is not an archive, whole to its end, is a BadTar.

The standard library's tarfile is not used: it takes an archive that is cut off between two
members for a whole one, and it needs 8.2 s for 60,000 members with nanoseconds and 668 MB, where
this reader needs 1.4 s (both without hashing).
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

Read = Callable[[int], bytes]
"""Up to so many bytes, waiting for at least one; none at the end."""

BLOCK = 512
CHUNK = 1 << 20
# A pax header holds names and xattrs: the kernel allows 64 KiB of names and 64 KiB a value.
MAX_PAX = 16 << 20
MAX_SIZE = 1 << 62

REGULAR, LINK, SYMLINK, CHARACTER = b"0", b"1", b"2", b"3"
BLOCK_DEVICE, DIRECTORY, FIFO = b"4", b"5", b"6"
_REGULAR = frozenset((b"0", b"\0", b"7"))
_KNOWN = frozenset((LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO)) | _REGULAR
_PAX, _GLOBAL, _LONG_NAME, _LONG_LINK = b"x", b"g", b"L", b"K"

_ZEROS = bytes(BLOCK)
_BLANK = b" " * 8
_NUMBER = re.compile(rb"[ \0]*([0-7]*)[ \0]*").fullmatch
_DECIMAL = re.compile(rb"(-?)([0-9]{1,19})(?:\.([0-9]*))?").fullmatch
_XATTR = b"SCHILY.xattr."


class BadTar(ValueError):
    """What arrived is no whole archive; ``str()`` says what is wrong with it."""


class Member(NamedTuple):
    """One member. ``size`` bytes of data follow for a regular file, none for other kinds."""

    name: bytes
    type: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    link: bytes
    major: int
    minor: int
    xattrs: tuple[tuple[bytes, bytes], ...]


class TarReader:
    """One pass over an archive. Data that is not asked for is passed over."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._buffer = b""
        self._at = 0
        self._left = 0  # of the data of the current member
        self._padding = 0
        self._global: dict[bytes, bytes] = {}

    def __iter__(self) -> Iterator[Member]:
        local: dict[bytes, bytes] = {}
        while True:
            self._pass_over()
            header = self._take(BLOCK)
            if header == _ZEROS:
                if self._take(BLOCK) != _ZEROS:
                    raise BadTar("one empty block where an archive ends with two")
                if local:
                    raise BadTar("it ends after the extended header of a member")
                return
            kind = _checked_type(header)
            if kind == _PAX:
                local.update(self._pax(header))
            elif kind == _GLOBAL:
                self._global.update(self._pax(header))
            elif kind == _LONG_NAME:
                local[b"path"] = self._extra(header).rstrip(b"\0")
            elif kind == _LONG_LINK:
                local[b"linkpath"] = self._extra(header).rstrip(b"\0")
            else:
                member = _member(header, kind, {**self._global, **local} if self._global else local)
                self._left = member.size
                self._padding = -member.size % BLOCK
                yield member
                local = {}

    def data(self) -> bytes:
        """All the data of the current member that was not read yet."""
        size, self._left = self._left, 0
        return self._take(size)

    def pieces(self) -> Iterator[bytes]:
        """The same, piece by piece."""
        while self._left:
            size = min(self._left, CHUNK)
            self._left -= size
            yield self._take(size)

    def _pass_over(self) -> None:
        for _ in self.pieces():
            pass
        if self._padding:
            self._take(self._padding)
            self._padding = 0

    def _take(self, size: int) -> bytes:
        """Exactly so many bytes."""
        end = self._at + size
        if end <= len(self._buffer):
            data = self._buffer[self._at : end]
            self._at = end
            return data
        pieces = [self._buffer[self._at :]]
        missing = size - len(pieces[0])
        while True:
            got = self._read(CHUNK)
            if not got:
                raise BadTar("it is cut off")
            if len(got) >= missing:
                break
            pieces.append(got)
            missing -= len(got)
        pieces.append(got[:missing])
        self._buffer = got
        self._at = missing
        return b"".join(pieces)

    def _extra(self, header: bytes) -> bytes:
        size = _number(header[124:136])
        if size > MAX_PAX:
            raise BadTar(f"an extended header of {size} bytes")
        data = self._take(size)
        self._take(-size % BLOCK)
        return data

    def _pax(self, header: bytes) -> dict[bytes, bytes]:
        return _pax_records(self._extra(header))


def _checked_type(header: bytes) -> bytes:
    """The type of a header whose checksum is right."""
    wanted = _number(header[148:156])
    if wanted != sum(header[:148]) + sum(_BLANK) + sum(header[156:]):
        raise BadTar("a header with a wrong checksum")
    return header[156:157]


def _member(header: bytes, kind: bytes, pax: Mapping[bytes, bytes]) -> Member:
    if kind not in _KNOWN:
        raise BadTar(f"a member of the unknown type {kind!r}")
    name = pax.get(b"path")
    if not name:
        name = _text(header[:100])
        if header[257:263] == b"ustar\0" and header[345]:
            name = _text(header[345:500]) + b"/" + name
    link = pax.get(b"linkpath")
    if kind in _REGULAR:
        # Before there was a type for them, directories were files whose name ends so.
        kind = DIRECTORY if kind == b"\0" and name.endswith(b"/") else REGULAR
    is_device = kind in (CHARACTER, BLOCK_DEVICE)
    size = _count(pax, b"size", header[124:136]) if kind == REGULAR else 0
    if size > MAX_SIZE:
        raise BadTar(f"a member of {size} bytes")
    mtime = pax.get(b"mtime")
    return Member(
        name,
        kind,
        _number(header[100:108]) & 0o7777,
        _count(pax, b"uid", header[108:116]),
        _count(pax, b"gid", header[116:124]),
        size,
        _number(header[136:148]) * 10**9 if mtime is None else _nanoseconds(mtime),
        _text(header[157:257]) if link is None else link,
        _number(header[329:337]) if is_device else 0,
        _number(header[337:345]) if is_device else 0,
        _xattrs(pax) if len(pax) > 1 else (),
    )


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _number(field: bytes) -> int:
    """An octal field, or GNU's binary one for what does not fit."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big")
        bits = 8 * len(field)
        return value - (1 << bits) if field[0] == 0xFF else value - (1 << (bits - 1))
    found = _NUMBER(field)
    if found is None:
        raise BadTar("a header with a number that is none")
    return int(found[1] or b"0", 8)


def _count(pax: Mapping[bytes, bytes], key: bytes, field: bytes) -> int:
    text = pax.get(key)
    if text is None:
        value = _number(field)
    else:
        found = _DECIMAL(text)
        if found is None or found[3] is not None:
            raise BadTar(f"an extended header whose {key.decode()} is no number")
        value = int(text)
    if value < 0:
        raise BadTar(f"a member with a negative {key.decode(errors='replace')}")
    return value


def _nanoseconds(text: bytes) -> int:
    """From decimal seconds, exactly; digits beyond nanoseconds are dropped."""
    found = _DECIMAL(text)
    if found is None:
        raise BadTar("an extended header whose mtime is no time")
    value = int(found[2]) * 10**9 + int((found[3] or b"")[:9].ljust(9, b"0"))
    return -value if found[1] else value


def _pax_records(data: bytes) -> dict[bytes, bytes]:
    """Records ``length key=value\\n``. The value is bytes, and may hold any."""
    records: dict[bytes, bytes] = {}
    at = 0
    while at < len(data):
        blank = data.find(b" ", at, at + 20)
        if blank < 0 or not data[at:blank].isdigit():
            raise BadTar("an extended header without the length of a record")
        end = at + int(data[at:blank])
        equals = data.find(b"=", blank, end)
        if equals < 0 or end > len(data) or data[end - 1] != 10:
            raise BadTar("an extended header with a record that does not end where it says")
        key = data[blank + 1 : equals]
        if key.startswith(b"GNU.sparse."):
            raise BadTar("a sparse member")
        records[key] = data[equals + 1 : end - 1]
        at = end
    return records


def _xattrs(pax: Mapping[bytes, bytes]) -> tuple[tuple[bytes, bytes], ...]:
    """GNU tar writes `=` and `%` in the name of an attribute as ``%3D`` and ``%25``."""
    return tuple(
        (key.removeprefix(_XATTR).replace(b"%3D", b"=").replace(b"%25", b"%"), value)
        for key, value in pax.items()
        if key.startswith(_XATTR)
    )
