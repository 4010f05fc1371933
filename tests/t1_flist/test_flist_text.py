"""Version 2 lists: worked examples to the byte, and every refusal with its line and reason."""

import io
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from aysfs import digest
from aysfs.errors import BadList
from aysfs.flist import (
    Entry,
    Ext,
    FlistReader,
    Header,
    Kind,
    encode_path,
    find_entry,
    write_flist,
)
from aysfs.flist import text as text_module
from aysfs.flist.line import CACHED, LineParser, format_time, parse_time
from aysfs.flist.text import CHUNK, MAX_LINE

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


def test_the_golden_list_reads_to_exact_values() -> None:
    assert read(GOLDEN.read_bytes()) == (EVERY_KIND_HEADER, EVERY_KIND)


def test_the_golden_list_is_written_to_identical_bytes() -> None:
    assert write(EVERY_KIND_HEADER, EVERY_KIND) == GOLDEN.read_bytes()


def test_the_meaning_of_ext_is_reachable_by_name() -> None:
    by_path = {entry.path: entry for entry in EVERY_KIND}
    assert by_path[b"/opt/demo/link"].target == b"../a=b&c"
    assert by_path[b"/opt/demo/block"].rdev == (8, 1)
    assert by_path[b"/opt/demo/second"].hardlink == b"/opt/demo/first"
    assert by_path[b"/opt/demo/ping"].xattrs == {
        b"security.capability": CAPABILITY,
        b"user.note": b"50% = half",
    }


def test_one_file_to_the_byte() -> None:
    entry = Entry(b"/a", Kind.REGULAR, 0o644, 0, 0, 6, HELLO, 10**9)
    assert write(None, [entry]) == b"#flist 2\n" + LINE
    assert write(b"/", [entry]) == b"#flist 2\n#base /\n" + LINE
    assert read(b"#flist 2\n" + LINE) == (Header(2), [entry])


def test_the_first_three_columns_are_a_classic_list() -> None:
    assert LINE.startswith(b"/a|" + HELLO.hex().encode() + b"|6|")


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"/plain", b"/plain"),
        (b"/sp ace", b"/sp ace"),
        (b"/100%", b"/100%25"),
        (b"/%41", b"/%2541"),
        (b"/a|b", b"/a%7Cb"),
        (b"/new\nline\r\t\x01\x7f", b"/new%0Aline%0D%09%01%7F"),
        ("/é€😀".encode(), "/é€😀".encode()),
        (b"/\xe9", b"/%E9"),
        (b"/\xe2\x82", b"/%E2%82"),  # a euro sign cut short
        (b"/\xe2\x82\xac\xac", b"/\xe2\x82\xac%AC"),
        (b"/\xed\xa0\x80", b"/%ED%A0%80"),  # a surrogate is not UTF-8
        (b"/\xc0\xaf", b"/%C0%AF"),  # an overlong slash is not UTF-8
        (b"/a=b&c", b"/a=b&c"),
    ],
)
def test_names_to_the_byte(raw: bytes, text: bytes) -> None:
    entry = Entry(raw, Kind.REGULAR, 0o644, 0, 0, 6, HELLO, 10**9)
    line = LINE.replace(b"/a", text)
    assert encode_path(raw) == text
    assert write(None, [entry]) == body(line)
    assert read(body(line))[1] == [entry]


@pytest.mark.parametrize(
    ("time_ns", "text"),
    [
        (0, b"0.000000000"),
        (1, b"0.000000001"),
        (-1, b"-0.000000001"),
        (-1_500_000_000, b"-1.500000000"),
        (2**63 - 1, b"9223372036.854775807"),
        (-(2**63), b"-9223372036.854775808"),
    ],
)
def test_times_to_the_byte(time_ns: int, text: bytes) -> None:
    assert format_time(time_ns) == text
    assert parse_time(text) == time_ns


def test_the_root_and_an_empty_list_of_entries() -> None:
    root = Entry(b"/", Kind.DIRECTORY, 0o755, 0, 0, 0, digest.ZERO, 0)
    assert read(write(None, [root])) == (Header(2), [root])
    assert read(write(None, [])) == (Header(2), [])


def test_header_keys_are_kept() -> None:
    data = b"#flist 2\n#author a%25 b\n#base /opt/caf\xc3\xa9\n#x.y-z 1\n" + LINE
    header, entries = read(data)
    assert header == Header(2, "/opt/café".encode(), ((b"author", b"a% b"), (b"x.y-z", b"1")))
    assert write(header, entries) == data


def test_order_is_that_of_the_encoded_path() -> None:
    # Raw `|` sorts after `a`, its encoding `%7C` before.
    entries = [regular(b"/|"), regular(b"/a")]
    assert read(write(None, entries))[1] == entries
    with pytest.raises(BadList, match="not sorted"):
        write(None, reversed(entries))


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


def line_of(kind: int, ext: bytes, path: bytes = b"/m", md5: bytes = ZEROS) -> bytes:
    return b"%s|%s|0|0|0|0644|%d|0.000000000|0.000000000|%s\n" % (path, md5, kind, ext)


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


def test_unknown_ext_keys_are_preserved() -> None:
    data = body(line_of(2, b"a=&future.key=%26%3D%00&zz=\xc3\xa9"))
    header, entries = read(data)
    assert entries[0].ext == ((b"a", b""), (b"future.key", b"&=\0"), (b"zz", b"\xc3\xa9"))
    assert write(header, entries) == data


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


def test_the_reader_knows_the_line_it_is_at() -> None:
    data = b"#flist 2\n#base /\n" + LINE + LINE.replace(b"/a", b"/b")
    reader = FlistReader(io.BytesIO(data), source="x", mtime_ns=0)
    assert [(entry.path, reader.line) for entry in reader] == [(b"/a", 3), (b"/b", 4)]


def test_entries_are_yielded_before_the_rest_is_read() -> None:
    file = io.BytesIO(body(LINE, LINE))
    entries = iter(FlistReader(file, source="x", mtime_ns=0))
    assert next(entries).path == b"/a"
    assert file.tell() == len(body(LINE))


def test_chunks_are_of_bounded_size_and_deterministic() -> None:
    entries = [regular(b"/%05d" % number) for number in range(5000)]
    chunks = list(write_flist(None, entries))
    assert all(len(chunk) < CHUNK + 200 for chunk in chunks)
    assert len(chunks) == 8
    assert b"".join(chunks) == write(None, entries)


def test_the_columns_remembered_are_bounded() -> None:
    parser = LineParser()
    for number in range(CACHED + 10):
        time = format_time(number)
        parser.parse(LINE.replace(b"1.000000000", time).replace(b"|0|0|", b"|%d|0|" % number))
    assert len(parser._times) == len(parser._attributes) == 10


def test_the_lists_in_the_documentation_are_lists() -> None:
    text = FORMAT.read_text()
    example = re.search(r"(?:^    .*\n)+", text[text.index("    #flist 2") :], re.MULTILINE)
    assert example
    data = re.sub("^    ", "", example[0], flags=re.MULTILINE).encode()
    header, entries = read(data)
    assert (header.base, len(entries)) == (b"/opt/demo", 4)
    assert write(header, entries) == data


def test_the_bytes_in_the_documentation_are_the_bytes() -> None:
    section = FORMAT.read_text().partition("### One file, byte by byte")[2].partition("\n#")[0]
    digits = re.findall(r"^    ((?:[0-9A-F]{2} )+)", section, re.MULTILINE)
    assert bytes.fromhex("".join(digits)) == body(LINE)


# --- one line of a list ----------------------------------------------------------------------


@pytest.mark.parametrize("piece", [1, 7, 50, 1 << 20])
def test_each_entry_of_a_list_is_found_by_its_path(
    piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the list falls into the pieces in which it is read."""
    monkeypatch.setattr(text_module, "_PIECE", piece)
    data = GOLDEN.read_bytes()
    entries = list(FlistReader(io.BytesIO(data), source="x", mtime_ns=0))
    for entry in entries:
        assert find_entry(io.BytesIO(data), entry.path) == entry
        for other in (entry.path + b"x", entry.path[:-1], entry.path + b"/x"):
            known = next((one for one in entries if one.path == other), None)
            assert find_entry(io.BytesIO(data), other) == known


def test_a_line_is_found_only_in_a_list_of_version_2() -> None:
    assert find_entry(io.BytesIO(b""), b"/a") is None
    assert find_entry(io.BytesIO(b"/a|9dd4e461268c8034f5c8564e155c67a6|1\n"), b"/a") is None
    assert find_entry(io.BytesIO(b"#flist 2\n/a|rubbish\n"), b"/a") is None
    assert find_entry(io.BytesIO(b"#flist 2\n/a|rubbish"), b"/a") is None
