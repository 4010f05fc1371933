"""Any bytes are a list or a BadList, nothing else; and what is a list is written as it is read."""

import io
import random
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from aysfs import digest
from aysfs.errors import BadList
from aysfs.flist import Entry, Ext, FlistReader, Header, Kind, encode_path, write_flist
from aysfs.flist.percent import decode_ext, decode_path, encode_ext
from aysfs.flist.rules import MAX_ID, MAX_SIZE, MAX_TIME_NS, MIN_TIME_NS

GOLDEN = sorted((Path(__file__).parent.parent / "golden" / "lists").glob("*.flist"))
CASES = 3000
FRAGMENTS = [
    *(b"|", b"\n", b"\r\n", b"\0", b"%", b"%00", b"%2F", b"%7C", b"=", b"&", b"#", b"#flist 2\n"),
    *(b"/", b"/..", b"//", b"-", b".", b"0", b"9" * 20, b"\xff", b"\xed\xa0\x80", b"\xc3"),
    *(b"hardlink=/", b"target=", b"rdev=0,0", b"xattr.user.", b"#require x\n", b"#base /\n"),
]  # fmt: skip


def check(data: bytes) -> bool:
    """Whether the bytes are a list. Raises for everything that must not happen."""
    try:
        reader = FlistReader(io.BytesIO(data), source="fuzz", mtime_ns=0, resolve=lambda *_: None)
        entries = list(reader)
    except BadList as refused:
        refusal = refused
    else:
        return check_written(reader.header, entries, data)
    assert refusal.source == "fuzz"
    assert 0 <= refusal.line <= data.count(b"\n") + 1
    assert refusal.reason
    assert refusal.reason.isprintable()
    return False


def check_written(header: Header, entries: list[Entry], data: bytes) -> bool:
    """An accepted version 2 list is what the writer writes."""
    if header.version == 2:
        assert b"".join(write_flist(header, entries)) == data
    return True


def mutate(source: random.Random, data: bytes, other: bytes) -> bytes:
    """One to four small damages."""
    changed = bytearray(data)
    for _ in range(source.randint(1, 4)):
        at = source.randrange(len(changed) + 1)
        match source.randrange(5):
            case 0:
                changed[at : at + 1] = bytes((source.randrange(256),))
            case 1:
                del changed[at : at + source.randint(1, 30)]
            case 2:
                changed[at:at] = source.choice(FRAGMENTS)
            case 3:
                start = source.randrange(len(other))
                changed[at:at] = other[start : start + source.randint(1, 120)]
            case _:
                lines = changed.splitlines(keepends=True)
                source.shuffle(lines)
                changed = bytearray(b"".join(lines[: source.randint(1, 20)]))
    return bytes(changed)


def test_damaged_golden_lists_are_read_or_refused() -> None:
    source = random.Random(20151204)
    lists = [path.read_bytes() for path in GOLDEN]
    accepted = sum(
        check(mutate(source, source.choice(lists), source.choice(lists))) for _ in range(CASES)
    )
    assert 50 < accepted < CASES - 50, "the damages say nothing when all or none are refused"


def test_every_cut_of_a_golden_list_is_read_or_refused() -> None:
    for path in GOLDEN:
        data = path.read_bytes()
        for length in range(len(data)):
            read = check(data[:length])
            if data.startswith(b"#flist 2"):
                assert read == (length > 0 and data[length - 1 : length] == b"\n")


@given(st.binary())
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    check(data)
    check(b"#flist 2\n" + data)
    check(b"#flist 2\n#" + data + b"\n")


@given(st.lists(st.binary(max_size=12), min_size=10, max_size=10))
def test_any_columns_are_read_or_refused(columns: list[bytes]) -> None:
    line = b"|".join(columns) + b"\n"
    check(line)
    check(b"#flist 2\n" + line)


@given(st.binary())
def test_the_encoding_has_one_form(raw: bytes) -> None:
    for encode, decode in ((encode_path, decode_path), (encode_ext, decode_ext)):
        text = encode(raw)
        assert decode(text) == raw
        assert not any(byte < 0x20 or byte in b"\x7f|" for byte in text)
    assert not any(byte in b"&=" for byte in encode_ext(raw))


names = st.one_of(
    st.binary(min_size=1, max_size=20),
    st.text(min_size=1, max_size=12).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.sampled_from([b"a|b", b"100%", b"%41", b"new\nline", b"two words", b"\xff\xfe", b"a=b&c"]),
).filter(lambda name: name not in (b".", b"..") and not {0, 0x2F} & set(name))
paths = st.lists(names, min_size=1, max_size=4).map(lambda parts: b"/" + b"/".join(parts))
values = st.binary(max_size=30)


@st.composite
def exts(draw: st.DrawFn, kind: Kind) -> Ext:
    pairs = {b"x-" + key: draw(values) for key in draw(st.sets(st.binary(max_size=4), max_size=2))}
    if kind is Kind.SYMLINK:
        pairs[b"target"] = draw(values.filter(lambda text: bool(text) and 0 not in text))
    elif kind in (Kind.BLOCK, Kind.CHARACTER):
        major, minor = draw(st.integers(0, 4095)), draw(st.integers(1, 2**20 - 1))
        pairs[b"rdev"] = b"%d,%d" % (major, minor)
    elif kind is Kind.REGULAR:
        if draw(st.booleans()):
            pairs[b"sha256"] = draw(st.binary(min_size=32, max_size=32)).hex().encode()
        if draw(st.booleans()):
            pairs[b"xattr.security.capability"] = draw(values)
    for name in draw(st.sets(names, max_size=2)):
        pairs[b"xattr.user." + name] = draw(values)
    return tuple(sorted(pairs.items()))


@st.composite
def entries(draw: st.DrawFn, path: bytes) -> Entry:
    kind = draw(st.sampled_from(Kind))
    regular = kind is Kind.REGULAR
    return Entry(
        path,
        kind,
        draw(st.integers(0, 0o7777)),
        draw(st.integers(0, MAX_ID)),
        draw(st.integers(0, MAX_ID)),
        draw(st.integers(0, MAX_SIZE)) if regular else 0,
        digest.of(draw(values)) if regular else digest.ZERO,
        draw(st.integers(MIN_TIME_NS, MAX_TIME_NS)),
        draw(exts(kind)),
    )


@st.composite
def trees(draw: st.DrawFn) -> list[Entry]:
    found = sorted(draw(st.sets(paths, max_size=6)), key=encode_path)
    return [draw(entries(path)) for path in found]


headers = st.builds(
    Header,
    st.just(2),
    st.none() | paths,
    st.dictionaries(st.from_regex(rb"x[a-z0-9._-]{0,5}", fullmatch=True), names, max_size=3).map(
        lambda pairs: tuple(sorted(pairs.items()))
    ),
)


@given(headers, trees())
def test_entries_survive_writing_and_reading(header: Header, tree: list[Entry]) -> None:
    data = b"".join(write_flist(header, tree))
    reader = FlistReader(io.BytesIO(data), source="x", mtime_ns=0)
    assert list(reader) == tree
    assert reader.header == header
    assert b"".join(write_flist(reader.header, tree)) == data
