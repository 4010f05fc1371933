"""Version 2 lists in a few words."""

import io
from collections.abc import Iterable
from pathlib import Path

from aysfs import digest
from aysfs.flist import Entry, Ext, FlistReader, Header, Kind, write_flist

GOLDEN = Path(__file__).parent.parent / "golden" / "lists" / "every-kind.flist"
FORMAT = Path(__file__).parents[2] / "docs" / "format.md"
TIME = 1449571931_123456789
HELLO = digest.of(b"hello\n")
ZEROS = b"0" * 32
LINE = b"/a|b1946ac92492d2347c6235b4d2611184|6|0|0|0644|2|1.000000000|1.000000000|\n"
SHA256 = b"5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")


def read(data: bytes) -> tuple[Header, list[Entry]]:
    reader = FlistReader(io.BytesIO(data), source="demo.flist", mtime_ns=7)
    return reader.header, list(reader)


def write(header: Header | bytes | None, entries: Iterable[Entry]) -> bytes:
    return b"".join(write_flist(header, entries))


def body(*lines: bytes) -> bytes:
    return b"#flist 2\n" + b"".join(lines)


def special(path: bytes, kind: Kind, mode: int, gid: int = 0, ext: Ext = ()) -> Entry:
    return Entry(path, kind, mode, 0, gid, 0, digest.ZERO, TIME, ext)


def regular(path: bytes, content: bytes = b"hello\n", mode: int = 0o644, ext: Ext = ()) -> Entry:
    return Entry(path, Kind.REGULAR, mode, 0, 0, len(content), digest.of(content), TIME, ext)


EVERY_KIND = [
    special(b"/opt/demo", Kind.DIRECTORY, 0o755),
    regular(b"/opt/demo/a%b|c"),
    special(b"/opt/demo/block", Kind.BLOCK, 0o660, 6, ((b"rdev", b"8,1"),)),
    special(b"/opt/demo/char", Kind.CHARACTER, 0o666, 0, ((b"rdev", b"1,3"),)),
    special(b"/opt/demo/empty", Kind.DIRECTORY, 0o1777),
    Entry(b"/opt/demo/fifo", Kind.FIFO, 0o600, 1000, 1000, 0, digest.ZERO, 0),
    regular(b"/opt/demo/first", mode=0o755, ext=((b"sha256", SHA256),)),
    Entry(
        b"/opt/demo/large",
        Kind.REGULAR,
        0o644,
        0,
        0,
        2**31,
        digest.of(b"large"),
        TIME,
        ((b"chunks", b"640,d41d8cd98f00b204e9800998ecf8427e"),),
    ),
    regular(b"/opt/demo/latin\xe91", b""),
    special(b"/opt/demo/link", Kind.SYMLINK, 0o777, 0, ((b"target", b"../a=b&c"),)),
    regular(b"/opt/demo/new\nline", b"")._replace(mtime_ns=-1_500_000_000),
    regular(
        b"/opt/demo/ping",
        mode=0o755,
        ext=((b"xattr.security.capability", CAPABILITY), (b"xattr.user.note", b"50% = half")),
    ),
    regular(
        b"/opt/demo/second",
        mode=0o755,
        ext=((b"hardlink", b"/opt/demo/first"), (b"sha256", SHA256)),
    ),
    special(b"/opt/demo/socket", Kind.SOCKET, 0o755),
    regular(b"/opt/demo/su", mode=0o4755, ext=((b"x-later", b"kept"),)),
    regular("/opt/demo/with space é".encode(), b""),
]
EVERY_KIND_HEADER = Header(2, b"/opt/demo", ((b"tool", b"example"),))


def line_of(kind: int, ext: bytes, path: bytes = b"/m", md5: bytes = ZEROS) -> bytes:
    return b"%s|%s|0|0|0|0644|%d|0.000000000|0.000000000|%s\n" % (path, md5, kind, ext)
