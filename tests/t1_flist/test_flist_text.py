"""Version 2 lists: worked examples to the byte."""

import io
import re

import pytest

from aysfs import digest
from aysfs.errors import BadList
from aysfs.flist import (
    Entry,
    FlistReader,
    Header,
    Kind,
    encode_path,
    find_entry,
    write_flist,
)
from aysfs.flist import text as text_module
from aysfs.flist.line import CACHED, LineParser, format_time, parse_time
from aysfs.flist.text import CHUNK
from tests.t1_flist.texts import (
    CAPABILITY,
    EVERY_KIND,
    EVERY_KIND_HEADER,
    FORMAT,
    GOLDEN,
    HELLO,
    LINE,
    body,
    line_of,
    read,
    regular,
    write,
)


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


def test_unknown_ext_keys_are_preserved() -> None:
    data = body(line_of(2, b"a=&future.key=%26%3D%00&zz=\xc3\xa9"))
    header, entries = read(data)
    assert entries[0].ext == ((b"a", b""), (b"future.key", b"&=\0"), (b"zz", b"\xc3\xa9"))
    assert write(header, entries) == data


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
