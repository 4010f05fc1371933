"""Trees for tests: entries written by hand, and random ones with every kind that a list names."""

import io
import struct
from collections.abc import Sequence

from hypothesis import strategies as st

from aysfs import digest
from aysfs.flist import Entry, Ext, FlistReader, Kind, encode_path, write_flist
from aysfs.flist.rules import MAX_ID, MAX_TIME_NS, MIN_TIME_NS
from aysfs.tree import Tree, TreeBuilder

CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)  # cap_net_bind_service+ep


def regular(path: bytes, content: bytes = b"x", ext: Ext = ()) -> Entry:
    return Entry(path, Kind.REGULAR, 0o644, 1, 2, len(content), digest.of(content), 3, ext)


def special(path: bytes, kind: Kind, ext: Ext = ()) -> Entry:
    return Entry(path, kind, 0o755, 1, 2, 0, digest.ZERO, 3, ext)


def directory(path: bytes) -> Entry:
    return special(path, Kind.DIRECTORY)


def symlink(path: bytes, target: bytes) -> Entry:
    return special(path, Kind.SYMLINK, ((b"target", target),))


def written(entries: Sequence[Entry]) -> bytes:
    """The list of these entries, in whatever order they come."""
    return b"".join(write_flist(None, sorted(entries, key=lambda one: encode_path(one.path))))


def tree_of(*entries: Entry, base: bytes = b"/") -> Tree:
    """The tree of a list of these entries."""
    builder = TreeBuilder(base)
    builder.add(FlistReader(io.BytesIO(written(entries)), source="t.flist", mtime_ns=0))
    return builder.build()


names = st.one_of(
    st.binary(min_size=1, max_size=20),
    st.text(min_size=1, max_size=12).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.sampled_from([b"a", b"b", b"-", b"...", b".a", b"+", b"..a", b"x" * 255, b"\xff\xfe"]),
).filter(lambda name: name not in (b".", b"..") and not {0, 0x2F} & set(name))
paths = st.lists(names, min_size=1, max_size=4).map(lambda parts: b"/" + b"/".join(parts))


@st.composite
def exts(draw: st.DrawFn, kind: Kind) -> Ext:
    """What a list may say of an entry and a kernel gives back."""
    pairs = {}
    if kind is Kind.SYMLINK:
        target = st.binary(min_size=1, max_size=60) | st.just(b"t" * 4095)
        pairs[b"target"] = draw(target.filter(lambda text: 0 not in text))
    elif kind in (Kind.BLOCK, Kind.CHARACTER):
        pairs[b"rdev"] = b"%d,%d" % (draw(st.integers(0, 4095)), draw(st.integers(1, 2**20 - 1)))
    elif kind is Kind.REGULAR and draw(st.booleans()):
        pairs[b"xattr.security.capability"] = CAPABILITY
    if kind in (Kind.REGULAR, Kind.DIRECTORY):  # the kernel refuses user.* of anything else
        for name in draw(st.sets(names, max_size=2)):
            value = st.binary(max_size=30) | st.just(b"v" * 5000)
            pairs[b"xattr.user." + name[:250]] = draw(value)
    return tuple(sorted(pairs.items()))


@st.composite
def entries(draw: st.DrawFn, path: bytes, kind: Kind) -> Entry:
    """An entry of a kind with any attributes; times are often alike, as in real lists."""
    size, value = 0, digest.ZERO
    if kind is Kind.REGULAR:
        content = draw(st.binary(max_size=4))
        # One digest has one size: up to 255 << 41 bytes, just below what an image takes.
        size = content[0] << content[-1] % 42 if content else 0
        value = digest.of(content) if size else digest.EMPTY
    return Entry(
        path,
        kind,
        draw(st.integers(0, 0o7777)),
        draw(st.sampled_from([0, 1000, 65535, 65536, MAX_ID])),
        draw(st.sampled_from([0, 1000, 65535, 65536, MAX_ID])),
        size,
        value,
        draw(st.just(1_500_000_000_123_456_789) | st.integers(MIN_TIME_NS, MAX_TIME_NS)),
        draw(exts(kind)),
    )


@st.composite
def lists(draw: st.DrawFn) -> list[Entry]:
    """The entries of a list that makes a tree, hard links included."""
    wanted = sorted(draw(st.sets(paths, max_size=12)), key=encode_path)
    above = {path[:at] for path in wanted for at, byte in enumerate(path) if byte == 0x2F}
    found: list[Entry] = []
    files: list[Entry] = []
    for path in wanted:
        kind = Kind.DIRECTORY if path in above else draw(st.sampled_from(Kind))
        if kind is Kind.REGULAR and files and draw(st.booleans()):
            first = draw(st.sampled_from(files))
            ext = tuple(sorted({**dict(first.ext), b"hardlink": first.path}.items()))
            found.append(first._replace(path=path, ext=ext))
            continue
        found.append(draw(entries(path, kind)))
        if kind is Kind.REGULAR:
            files.append(found[-1])
    return found
