"""Every refusal of a version 2 list, with its line and reason."""

import re

import pytest

from aysfs import digest
from aysfs.errors import BadList
from aysfs.flist import Entry, Header, Kind
from aysfs.flist.text import MAX_LINE
from tests.t1_flist.texts import LINE, SHA256, ZEROS, body, line_of, read, regular, special, write


@pytest.mark.parametrize(
    ("data", "line", "reason"),
    [
        (b"", 0, "empty list"),
        (b"#flist 3\n", 1, "not a version of the format"),
        (b"#flist 2", 1, "not a version of the format"),
        (b"#flist 2\r\n", 1, "CRLF"),
        (b"#flist 2\n#require chunks\n", 2, "requires `chunks`, which is not known here"),
        (b"#flist 2\n#base opt\n", 2, "relative path"),
        (b"#flist 2\n#base /opt/\n", 2, "trailing slash"),
        (b"#flist 2\n#base /a\n#base /b\n", 3, "header key twice"),
        (b"#flist 2\n#flist 2\n", 2, "`#flist` twice"),
        (b"#flist 2\n#tool x\n#base /a\n", 3, "header key not in order"),
        (b"#flist 2\n#tool\n", 2, "bad header line"),
        (b"#flist 2\n# a comment\n", 2, "bad header line"),
        (b"#flist 2\n#tool x\r\n", 2, "CRLF"),
        (b"#flist 2\n#tool x", 2, "bad header line"),
        (b"#flist 2\n#tool %41\n", 2, "not canonical"),
        (b"#flist 2\n" + b"#a " + b"x" * MAX_LINE, 2, "line over 1 MiB"),
        (b"#flist 2\n#a " + b"x" * 600000 + b"\n#b " + b"x" * 600000 + b"\n", 3, "header over"),
        (body(LINE, b"#tool x\n"), 3, "a header line after the first entry"),
        (body(LINE, b"\n"), 3, "blank line"),
        (body(LINE[:-1]), 2, "no newline: the list is cut off"),
        (body(LINE[:-1] + b"\r\n"), 2, "CRLF"),
        (body(LINE, LINE), 3, "the same path twice: `/a`"),
        (body(LINE.replace(b"/a", b"/b"), LINE), 3, "not sorted: `/a` after `/b`"),
        (body(b"/" + b"x" * MAX_LINE), 2, "line over 1 MiB"),
        (body(b"/a|b1946ac92492d2347c6235b4d2611184|6\n"), 2, "3 columns, expected 10"),
        (body(LINE.replace(b"/a", b"/a|b")), 2, "11 columns, expected 10"),
    ],
)
def test_a_refusal_names_source_line_and_reason(data: bytes, line: int, reason: str) -> None:
    with pytest.raises(BadList, match=re.escape(reason)) as caught:
        read(data)
    assert (caught.value.source, caught.value.line) == ("demo.flist", line)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        (b"a", "relative path"),
        (b"", "relative path"),
        (b"/a/../b", "`..` in the path"),
        (b"/..", "`..` in the path"),
        (b"/./a", "`.` in the path"),
        (b"/a//b", "`//` in the path"),
        (b"//", "trailing slash"),
        (b"/a/", "trailing slash"),
        (b"/a\0b", "NUL"),
        (b"/a%00b", "NUL"),
        (b"/a\tb", "a control character in the path is not percent-encoded"),
        (b"/a\x7f", "a control character in the path is not percent-encoded"),
        (b"/%2F", "not canonical"),
        (b"/%41", "not canonical"),
        (b"/%C3%A9", "not canonical"),
        (b"/\xe9", "not canonical"),
        (b"/%0a", "not followed by two upper-case"),
        (b"/a%", "not followed by two upper-case"),
        (b"/" + b"n" * 256, "a name of 256 bytes, over 255"),
        (b"/", "the root is not a directory"),
    ],
)
def test_a_bad_path_is_refused(path: bytes, reason: str) -> None:
    with pytest.raises(BadList, match=re.escape(reason)):
        read(body(LINE.replace(b"/a", path, 1)))


def test_only_a_name_is_bounded_not_a_path() -> None:
    path = b"/" + b"/".join([b"n" * 255] * 40)
    assert read(body(LINE.replace(b"/a", path, 1)))[1][0].path == path


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        (1, b"b1946ac92492d2347c6235b4d261118", "bad md5"),
        (1, b"B1946AC92492D2347C6235B4D2611184", "bad md5"),
        (2, b"-1", "negative size"),
        (2, b"06", "bad size"),
        (2, b"", "bad size"),
        (2, b"6.0", "bad size"),
        (2, b"9223372036854775808", "size over 2**63-1"),
        (2, b"9" * 5000, "bad size"),
        (3, b"root", "bad uid"),
        (3, b"4294967295", "bad uid"),
        (3, b"00", "bad uid"),
        (4, b"-1", "bad gid"),
        (4, b"99999999999", "bad gid"),
        (5, b"644", "bad mode"),
        (5, b"0688", "bad mode"),
        (5, b"100644", "bad mode"),
        (6, b"7", "bad type"),
        (6, b"", "bad type"),
        (8, b"2.000000000", "ctime differs from mtime"),
    ],
)
def test_a_bad_column_is_refused(column: int, value: bytes, reason: str) -> None:
    columns = LINE.split(b"|")
    columns[column] = value
    with pytest.raises(BadList, match=re.escape(reason)):
        read(body(b"|".join(columns)))


@pytest.mark.parametrize(
    ("time", "reason"),
    [
        (b"1", "bad time"),
        (b"1.0", "bad time"),
        (b"01.000000000", "bad time"),
        (b"-0.000000000", "minus zero"),
        (b"9223372036.854775808", "64-bit"),
        (b"-9223372036.854775809", "64-bit"),
        (b"99999999999.000000000", "bad time"),
    ],
)
def test_a_bad_time_is_refused(time: bytes, reason: str) -> None:
    with pytest.raises(BadList, match=reason):
        read(body(LINE.replace(b"1.000000000", time)))


@pytest.mark.parametrize(
    ("kind", "ext", "reason"),
    [
        (1, b"", "a symlink without target"),
        (1, b"target=", "a symlink without target"),
        (1, b"target=a%00", "NUL in a symlink target"),
        (1, b"target=" + b"x" * 4096, "a symlink target of 4096 bytes"),
        (2, b"target=a", "only for symlinks"),
        (3, b"", "a device without rdev"),
        (5, b"x=1", "a device without rdev"),
        (5, b"rdev=0,0", "device 0,0"),
        (3, b"rdev=0,0", "device 0,0"),
        (3, b"rdev=8", "bad device number"),
        (3, b"rdev=08,1", "bad device number"),
        (3, b"rdev=4096,1", "bad device number"),
        (3, b"rdev=1,1048576", "bad device number"),
        (4, b"rdev=1,3", "only for devices"),
        (4, b"hardlink=/a", "only for regular files"),
        (4, b"sha256=" + SHA256, "only for regular files"),
        (1, b"chunks=1," + ZEROS + b"&target=a", "only for regular files"),
        (2, b"hardlink=a", "relative path"),
        (2, b"hardlink=/../a", "`..`"),
        (2, b"hardlink=/m", "does not name an earlier path"),
        (2, b"hardlink=/z", "does not name an earlier path"),
        (2, b"sha256=" + SHA256[:-1], "bad sha256"),
        (2, b"chunks=0," + ZEROS, "bad chunks"),
        (2, b"chunks=" + ZEROS, "bad chunks"),
        (2, b"x", "not `key=value` pairs"),
        (2, b"=x", "not `key=value` pairs"),
        (2, b"a=1&", "not `key=value` pairs"),
        (2, b"a=1&a=2", "ext key twice"),
        (2, b"b=1&a=2", "ext keys not sorted"),
        (2, b"a=b=c", "ext is not canonical"),
        (2, b"a=%41", "ext is not canonical"),
        (2, b"a=\xff", "ext is not canonical"),
        (2, b"a=%3d", "not followed by two upper-case"),
        (2, b"a=\t", "a control character in ext"),
        (2, b"xattr.trusted.overlay.redirect=/x", "only user.* and security.capability"),
        (2, b"xattr.user.=x", "only user.* and security.capability"),
        (2, b"xattr.user." + b"n" * 251 + b"=x", "kernel's bounds"),
        (2, b"xattr.user.n=" + b"n" * 65537, "kernel's bounds"),
    ],
)
def test_a_bad_ext_is_refused(kind: int, ext: bytes, reason: str) -> None:
    with pytest.raises(BadList, match=re.escape(reason)):
        read(body(line_of(kind, ext)))


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.REGULAR])
def test_only_regular_files_have_content(kind: Kind) -> None:
    ext = {1: b"target=x", 3: b"rdev=8,0", 5: b"rdev=0,1"}.get(kind, b"")
    assert read(body(line_of(kind, ext)))[1][0].digest == digest.ZERO
    with pytest.raises(BadList, match="must be zero"):
        read(body(line_of(kind, ext, md5=digest.EMPTY.hex().encode())))


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (regular(b"relative"), "relative path"),
        (regular(b"/a")._replace(mode=0o100644), "bad mode"),
        (regular(b"/a")._replace(uid=-1), "bad uid"),
        (regular(b"/a")._replace(kind=7), "bad type"),
        (regular(b"/a")._replace(size=-1), "negative size"),
        (regular(b"/a")._replace(mtime_ns=2**63), "64-bit"),
        (regular(b"/a", ext=((b"b", b""), (b"a", b""))), "not sorted"),
        (special(b"/a", Kind.CHARACTER, 0, ext=((b"rdev", b"0,0"),)), "device 0,0"),
    ],
)
def test_the_writer_refuses_what_the_reader_would(entry: Entry, reason: str) -> None:
    with pytest.raises(BadList, match=reason) as caught:
        write(b"/", [entry])
    assert caught.value.line == 3


@pytest.mark.parametrize(
    "header",
    [
        Header(2, b"relative"),
        Header(2, None, ((b"require", b"x"),)),
        Header(2, None, ((b"Bad Key", b"x"),)),
        Header(2, b"/a", ((b"base", b"/b"),)),
    ],
)
def test_the_writer_refuses_a_header_that_cannot_be_read(header: Header) -> None:
    with pytest.raises(BadList):
        write(header, [])
