"""Classic and lineage lists: the lines of the field as they were, and what a classic list loses."""

import io
import re
from collections import Counter
from pathlib import Path
from typing import Literal

import pytest

from aysfs import digest
from aysfs.errors import BadList
from aysfs.flist import (
    Entry,
    FlistReader,
    Header,
    Kind,
    Loss,
    encode_path,
    host_id,
    write_classic,
    write_flist,
)
from aysfs.flist.line import LineParser
from aysfs.flist.lineage import CHUNK

GOLDEN = Path(__file__).parent.parent / "golden" / "lists"
NOW = 1_500_000_000_000_000_000
EARLY = 1_455_802_667_000_000_000
MD5 = b"8a3e5e03a10ecc3601a1f14fbc371019"
FULL = b"/a|" + MD5 + b"|5|root|root|0755|2|20|10|\n"


def resolve(what: Literal["user", "group"], name: bytes) -> int | None:
    known = {("user", b"root"): 0, ("group", b"root"): 0, ("group", b"disk"): 6}
    return known.get((what, name))


def read(data: bytes) -> list[Entry]:
    reader = FlistReader(io.BytesIO(data), source="old.flist", mtime_ns=NOW, resolve=resolve)
    assert reader.header == Header(1)
    return list(reader)


def test_the_golden_classic_list_reads_to_exact_values_and_back() -> None:
    data = (GOLDEN / "classic.flist").read_bytes()
    entries = read(data)
    assert entries[0] == Entry(
        b"/opt/jumpscale8/bin/jsnet",
        Kind.REGULAR,
        0o555,
        0,
        0,
        4857,
        digest.from_hex("8a3e5e03a10ecc3601a1f14fbc371019"),
        NOW,
    )
    assert [(entry.path[20:], entry.size) for entry in entries] == [
        (b"jsnet", 4857),
        (b"jsnode", 5088),
        (b"jsportalclient", 1553),
        (b"jsprocess_monitor", 248),
        (b"jsprocess_startAllReset", 184),
        (b"jsprocess", 4506),
    ]
    dropped: Counter[Loss] = Counter()
    assert b"".join(write_classic(entries, dropped)) == data
    assert not dropped


def test_the_golden_lineage_list_reads_to_exact_values() -> None:
    entries = read((GOLDEN / "lineage.flist").read_bytes())
    date = digest.from_hex("428beac34e4b4cbbe83d5b2b5b6c60b0")
    jsnet = digest.from_hex("8a3e5e03a10ecc3601a1f14fbc371019")
    su = digest.from_hex("8f43de21117cfdcdb409c3e4c39e1652")
    zero = digest.ZERO
    link_time = 1_455_740_757_000_000_000
    assert entries == [
        Entry(b"/bin/date", Kind.REGULAR, 0o755, 0, 0, 68464, date, EARLY),
        Entry(
            b"/bin/sh.distrib", Kind.SYMLINK, 0o777, 0, 0, 0, zero, link_time,
            ((b"target", b"dash"),),
        ),
        Entry(b"/bin/su", Kind.REGULAR, 0o755, 0, 0, 36936, su, EARLY),
        Entry(b"/dev/sda1", Kind.BLOCK, 0o660, 0, 6, 0, zero, EARLY, ((b"rdev", b"8,1"),)),
        Entry(b"/dev/null", Kind.CHARACTER, 0o666, 0, 0, 0, zero, EARLY, ((b"rdev", b"1,3"),)),
        Entry(b"/run/100%25", Kind.SOCKET, 0o755, 1000, 1000, 0, zero, EARLY),
        Entry(b"/run/fifo", Kind.FIFO, 0o600, 0, 0, 0, zero, EARLY),
        Entry(b"/srv/empty", Kind.DIRECTORY, 0o755, 0, 0, 0, zero, EARLY),
        Entry(b"/opt/jumpscale8/bin/jsnet", Kind.REGULAR, 0o555, 0, 0, 4857, jsnet, NOW),
    ]  # fmt: skip


def test_the_golden_lineage_list_converts_to_identical_bytes() -> None:
    entries = read((GOLDEN / "lineage.flist").read_bytes())
    entries.sort(key=lambda entry: encode_path(entry.path))
    converted = (GOLDEN / "lineage-converted.flist").read_bytes()
    assert b"".join(write_flist(None, entries)) == converted


def test_the_last_line_may_lack_its_newline() -> None:
    assert [entry.path for entry in read(b"/a|" + MD5 + b"|1\n/b|" + MD5 + b"|2")] == [b"/a", b"/b"]


def test_nothing_is_decoded_and_any_other_byte_is_a_name() -> None:
    (entry,) = read(b"/%7C \xe9\t#|" + MD5 + b"|1\n")
    assert entry.path == b"/%7C \xe9\t#"
    assert entry.target is None


def test_the_same_path_twice_is_left_to_the_tree() -> None:
    assert len(read(FULL + FULL)) == 2


@pytest.mark.parametrize(
    ("owner", "uid", "gid", "mode"),
    [
        (b"root|root", 0, 0, 0o6755),
        (b"root|disk", 0, 6, 0o6755),
        (b"1000|100", 1000, 100, 0o6755),
        (b"nobody-knows|disk", 0, 0, 0o755),
        (b"root|nobody-knows", 0, 0, 0o755),
        (b"1000|nobody-knows", 0, 0, 0o755),
        (b"|", 0, 0, 0o755),
    ],
)
def test_an_unknown_owner_is_root_without_setuid(
    owner: bytes, uid: int, gid: int, mode: int
) -> None:
    (entry,) = read(FULL.replace(b"root|root|0755", owner + b"|6755"))
    assert (entry.uid, entry.gid, entry.mode) == (uid, gid, mode)


def test_a_sticky_bit_survives_an_unknown_owner() -> None:
    (entry,) = read(FULL.replace(b"root|root|0755", b"who|who|7777"))
    assert entry.mode == 0o1777


def test_the_host_resolves_its_own_names() -> None:
    assert host_id("user", b"root") == host_id("group", b"root") == 0
    for name in (b"no such name here", b"\xff", b"a\0b", b""):
        assert host_id("user", name) is None
        assert host_id("group", name) is None


@pytest.mark.parametrize(
    ("times", "mtime_ns"),
    [
        (b"20|10", 10 * 10**9),
        (b"10|20", 10 * 10**9),
        (b"-5|20", -5 * 10**9),
        (b"10.5|20", 10_500_000_000),
        (b"0|0", 0),
    ],
)
def test_the_earlier_time_is_the_mtime(times: bytes, mtime_ns: int) -> None:
    assert read(FULL.replace(b"20|10", times))[0].mtime_ns == mtime_ns


@pytest.mark.parametrize(
    ("data", "line", "reason"),
    [
        (b"\n", 1, "blank line"),
        (FULL + b"\n", 2, "blank line"),
        (FULL[:-1] + b"\r\n", 1, "CRLF"),
        (b"/a|b|" + MD5 + b"|5\n", 1, "4 columns, expected 3 or 10; a name that holds `|`"),
        (b"/a|" + MD5 + b"|5|root|root|0755\n", 1, "6 columns"),
        (b"# made by hand\n", 1, "1 columns"),
        (b"\x1f\x8b\x08\x00", 1, "1 columns"),
        (b"a|" + MD5 + b"|5\n", 1, "relative path"),
        (b"/a/../b|" + MD5 + b"|5\n", 1, "`..` in the path"),
        (b"/a\0|" + MD5 + b"|5\n", 1, "NUL in the path"),
        (b"/|" + MD5 + b"|5\n", 1, "the root is not a directory"),
        (FULL.replace(b"/a", b"/"), 1, "the root is not a directory"),
        (b"/a|" + MD5[1:] + b"|5\n", 1, "bad md5"),
        (b"/a|" + MD5 + b"|-5\n", 1, "negative size"),
        (b"/a|" + MD5 + b"|five\n", 1, "bad size"),
        (b"/a|" + MD5 + b"|9223372036854775808\n", 1, "bad size"),
        (b"/a|" + MD5 + b"|" + b"9" * 5000 + b"\n", 1, "bad size"),
        (FULL + FULL.replace(b"0755", b"rwx"), 2, "bad mode"),
        (FULL.replace(b"0755", b"100755"), 1, "bad mode"),
        (FULL.replace(b"|2|", b"|9|"), 1, "bad type"),
        (FULL.replace(b"|20|", b"|yesterday|"), 1, "bad time"),
        (FULL.replace(b"|20|", b"|9999999999|"), 1, "64-bit"),
        (FULL.replace(b"root|root", b"9999999999|0"), 1, "bad user id"),
        (FULL.replace(b"|2|", b"|1|"), 1, "a symlink without target"),
        (FULL.replace(b"|2|", b"|3|"), 1, "bad device number"),
        (FULL.replace(b"|2|", b"|5|")[:-1] + b"0,0\n", 1, "device 0,0"),
        (FULL[:-1] + b"x\n", 1, "ext of an entry that is neither"),
        (b"/" + b"n" * (1 << 20), 1, "line over 1 MiB"),
    ],
)
def test_a_refusal_names_source_line_and_reason(data: bytes, line: int, reason: str) -> None:
    with pytest.raises(BadList, match=re.escape(reason)) as caught:
        read(data)
    assert (caught.value.source, caught.value.line) == ("old.flist", line)


def test_a_classic_list_counts_what_it_cannot_say() -> None:
    every_kind = (GOLDEN / "every-kind.flist").read_bytes()
    reader = FlistReader(io.BytesIO(every_kind), source="x", mtime_ns=0)
    dropped: Counter[Loss] = Counter()
    data = b"".join(write_classic(reader, dropped))
    assert data == (
        b"/opt/demo/first|b1946ac92492d2347c6235b4d2611184|6\n"
        b"/opt/demo/large|afacdb0a401ccdf6b48551bbc00e8a74|2147483648\n"
        b"/opt/demo/latin\xe91|d41d8cd98f00b204e9800998ecf8427e|0\n"
        b"/opt/demo/ping|b1946ac92492d2347c6235b4d2611184|6\n"
        b"/opt/demo/second|b1946ac92492d2347c6235b4d2611184|6\n"
        b"/opt/demo/su|b1946ac92492d2347c6235b4d2611184|6\n"
        b"/opt/demo/with space \xc3\xa9|d41d8cd98f00b204e9800998ecf8427e|0\n"
    )
    assert dropped == {
        Loss.SYMLINK: 1,
        Loss.DIRECTORY: 2,
        Loss.SPECIAL: 4,
        Loss.NAME: 2,
        Loss.ATTRIBUTES: 7,
        Loss.XATTRS: 1,
        Loss.HARDLINK: 1,
    }


def test_a_classic_list_comes_in_chunks() -> None:
    entries = [
        Entry(b"/%05d" % n, Kind.REGULAR, 0o555, 0, 0, 1, digest.EMPTY, 0) for n in range(5000)
    ]
    chunks = list(write_classic(entries))
    assert len(chunks) == 4
    assert all(len(chunk) < CHUNK + 100 for chunk in chunks)
    assert not list(write_classic([]))


def test_the_parser_of_version_2_takes_no_lineage_line() -> None:
    with pytest.raises(ValueError, match="bad uid"):
        LineParser().parse(FULL)
