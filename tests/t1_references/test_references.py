"""What programs, libraries and scripts of a list refer to, what is read, and what a start reads."""

import time
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from aysfs import digest as digests
from aysfs.flist.entry import Entry, Kind
from aysfs.limits import LARGE
from aysfs.references import MOST, References
from aysfs.references.paths import Paths
from tests.t1_references.elves import elf
from tests.t1_references.reading import SITE, STANDARD, Tree, executable
from tests.trees import lists, regular, symlink

# --- programs, libraries and scripts -----------------------------------------------------


def test_a_program_refers_to_its_loader_and_then_to_its_libraries() -> None:
    tree = Tree(
        {
            b"/bin": "usr/bin",
            b"/lib64": "usr/lib64",
            b"/usr/bin/a": elf([b"libb.so.1", b"libc.so.6", b"libnone.so"], b"/lib64/ld.so.2"),
            b"/usr/lib/x86_64-linux-gnu/ld-2.so": elf(),
            b"/usr/lib/x86_64-linux-gnu/libb.so.1": "libb.so.1.5",
            b"/usr/lib/x86_64-linux-gnu/libb.so.1.5": elf([b"libc.so.6"]),
            b"/usr/lib/x86_64-linux-gnu/libc.so.6": elf([b"ld.so.2"]),
            b"/usr/lib64/ld.so.2": "../lib/x86_64-linux-gnu/ld-2.so",
        }
    )
    lib = b"/usr/lib/x86_64-linux-gnu/"
    assert tree.of(b"/usr/bin/a") == [lib + b"ld-2.so", lib + b"libb.so.1.5", lib + b"libc.so.6"]
    assert tree.of(lib + b"libb.so.1.5") == [lib + b"libc.so.6"]


def test_a_library_is_where_the_file_says_then_beside_it_then_where_libraries_are() -> None:
    def lib(name: bytes) -> bytes:
        return elf([b"made for " + name])

    files: dict[bytes, bytes | str] = {
        b"/a/libx.so": lib(b"/a"),
        b"/opt/lib/libx.so": lib(b"/opt/lib"),
        b"/opt/bin/by-origin": elf([b"libx.so"], runpath=b"/none:${ORIGIN}/../private:/opt/lib"),
        b"/opt/bin/by-path": elf([b"/opt/private/libx.so"]),
        b"/opt/bin/by-rpath": elf([b"libx.so"], rpath=b"/opt/private"),
        b"/opt/bin/somewhere": elf([b"libx.so", b"only.so"]),
        b"/opt/private/libx.so": lib(b"/opt/private"),
        b"/opt/private/beside": elf([b"libx.so", b"none"]),
        b"/z/only.so": lib(b"/z"),
    }
    tree = Tree(files)
    private = [b"/opt/private/libx.so"]
    assert tree.of(b"/opt/bin/by-origin") == private
    assert tree.of(b"/opt/bin/by-path") == private
    assert tree.of(b"/opt/bin/by-rpath") == private
    assert tree.of(b"/opt/private/beside") == private
    assert tree.of(b"/opt/bin/somewhere") == [b"/opt/lib/libx.so", b"/z/only.so"]


def test_a_script_refers_to_its_interpreter() -> None:
    tree = Tree(
        {
            b"/bin": "usr/bin",
            b"/usr/bin/dash": elf(),
            b"/usr/bin/run": b"#!/bin/sh\nimport os",
            b"/usr/bin/sh": "dash",
            b"/usr/sbin/tool": b"#!/opt/none/sh\n",
            b"/srv/run": b"#!/usr/bin/env dash\n",
            b"/srv/lost": b"#!/usr/bin/env none\n",
        }
    )
    for path in (b"/usr/bin/run", b"/usr/sbin/tool", b"/srv/run"):
        assert tree.of(path) == [b"/usr/bin/dash"]
    assert tree.of(b"/srv/lost") == []


PYTHON: dict[bytes, bytes | str] = {
    b"/bin/python3.11": elf([b"libpython3.11.so.1.0"]),
    b"/bin/pip": b"#!/bin/python3.11\nfrom pip.main import run\n",
    b"/bin/python3": "python3.11",
    b"/lib/libpython3.11.so.1.0": elf([b"libc.so"], runpath=b"$ORIGIN"),
    b"/lib/python3.10/site.py": b"# site of 3.10",
    STANDARD + b"/codecs.py": b"# codecs",
    STANDARD + b"/encodings/__init__.py": b"import codecs\nfrom . import aliases",
    STANDARD + b"/encodings/aliases.py": b"# aliases",
    STANDARD + b"/encodings/utf_8.py": b"import codecs #",
    STANDARD + b"/site.py": b"# site of 3.11",
    SITE + b"/pip/__init__.py": b"# pip",
    SITE + b"/pip/main.py": b"# main",
}


def test_a_python_interpreter_refers_to_what_it_reads_at_its_start() -> None:
    tree = Tree(PYTHON)
    encodings = STANDARD + b"/encodings/"
    expected = [encodings + one for one in (b"__init__.py", b"aliases.py", b"utf_8.py")]
    expected.append(STANDARD + b"/site.py")
    assert tree.of(b"/lib/libpython3.11.so.1.0") == expected
    assert tree.of(b"/bin/python3.11") == [b"/lib/libpython3.11.so.1.0", *expected]


def test_a_python_script_refers_to_what_it_imports_as_well() -> None:
    assert Tree(PYTHON).of(b"/bin/pip") == [
        b"/bin/python3.11",
        SITE + b"/pip/__init__.py",
        SITE + b"/pip/main.py",
    ]


# --- what is read ------------------------------------------------------------------------


def test_only_what_can_say_something_is_read() -> None:
    def sized(path: bytes, size: int, mode: int = 0o755) -> Entry:
        return Entry(path, Kind.REGULAR, mode, 0, 0, size, digests.of(path), 0)

    wanted = [
        sized(b"/a.py", 1 << 20, 0o644),
        sized(b"/bin/tool-2.1", LARGE),
        sized(b"/lib/liba.so", 9, 0o644),
        sized(b"/lib/liba.so.1.2", 9, 0o644),
    ]
    others = [
        sized(b"/b.py", (1 << 20) + 1),
        sized(b"/bin/large", LARGE + 1),
        sized(b"/empty", 0),
        sized(b"/executable.txt", 9),
        sized(b"/readme", 9, 0o644),
        sized(b"/__pycache__/a.cpython-311.pyc", 9),
        sized(b"/conf.sorted", 9, 0o644),
        symlink(b"/z.py", b"a.py"),
    ]
    again = wanted[0]._replace(path=b"/z/a.py")
    references = References([*wanted[:2], *others, *wanted[2:], again])
    assert references.to_read() == [(one.digest, one.size) for one in wanted]


def test_blobs_that_were_not_asked_for_or_not_read_have_no_references() -> None:
    entries = [regular(b"/p/a.py", b"import b"), regular(b"/p/b.py", b"import a")]
    references = References(entries)
    assert references.finished() == {}
    references.read(digests.of(b"strange"), b"import a, b")
    assert references.finished() == {}
    references.read(entries[0].digest, b"import b")
    assert references.finished() == {entries[0].digest: (entries[1].digest,)}


def test_symlinks_that_lead_round_and_round_lead_nowhere() -> None:
    tree = Tree(
        {
            b"/lib/liba.so": "libb.so",
            b"/lib/libb.so": "/lib/liba.so",
            b"/lib/more": "more/more",
            b"/bin/a": elf([b"liba.so", b"/lib/more/x"], b"/lib/more"),
            b"/bin/self": "self",
        }
    )
    assert tree.of(b"/bin/a") == []


# --- the start ---------------------------------------------------------------------------


def test_a_loop_of_symlinks_with_long_targets_takes_no_time() -> None:
    paths = Paths()
    paths.add_link(b"/a", b"/a" + b"/." * 2000)
    began = time.thread_time()
    assert [paths.find(b"/a/b") for _ in range(200)] == [None] * 200
    assert time.thread_time() - began < 0.5


def test_a_start_reads_the_programs_and_what_they_need_and_no_script() -> None:
    tree = Tree(
        {
            b"/lib/libc.so": elf([b"none"]),
            b"/lib/libother.so": elf([b"none", b"none"]),
            b"/opt/app/server": elf([b"libc.so"], b"/ld"),
            b"/usr/bin/README.txt": b"text",
            b"/usr/bin/script": b"#!/usr/bin/env tool\n",
            b"/usr/sbin/server": "../../opt/app/server",
            b"/usr/sbin/tool": elf([b"libc.so"]),
            b"/usr/share/bin.d/x": elf(),
        }
    )
    assert tree.start() == [b"/opt/app/server", b"/lib/libc.so", b"/usr/sbin/tool"]


def test_the_start_of_python_is_what_every_program_of_it_reads() -> None:
    encodings = STANDARD + b"/encodings/"
    assert Tree(PYTHON).start() == [
        b"/bin/python3.11",
        b"/lib/libpython3.11.so.1.0",
        encodings + b"__init__.py",
        STANDARD + b"/codecs.py",
        encodings + b"aliases.py",
        encodings + b"utf_8.py",
        STANDARD + b"/site.py",
    ]


def test_nobody_knows_how_a_whole_distribution_starts() -> None:
    tree = Tree(PYTHON)
    content = sum(len(tree.files[path]) for path in tree.start())
    assert tree.start(most_blobs=7, most_content=content) == tree.start()
    assert tree.start(most_blobs=6) == []
    assert tree.start(most_content=content - 1) == []
    assert Tree({b"/readme.txt": b"no programs"}).start() == []


# --- any list ----------------------------------------------------------------------------

ALL_CONTENTS = [
    *(b"", b"import a, b.a\nfrom . import b\nfrom ..a import b", b"#!/a/b\nimport a"),
    *(elf([b"a.so", b"b.so"], b"/a/b", b"$ORIGIN/.."), elf([b"../a.so"]), b"from .. import *"),
]
parts = st.sampled_from(
    [b"a", b"b", b"a.py", b"b.py", b"a.so", b"__init__.py", b"bin", b"site-packages", b"python3.1"]
)
paths = st.lists(parts, min_size=1, max_size=4).map(lambda found: b"/" + b"/".join(found))
targets = st.lists(parts | st.just(b".."), min_size=1, max_size=4).map(b"/".join)


@given(
    st.lists(
        st.builds(executable, paths, st.sampled_from(ALL_CONTENTS))
        | st.builds(symlink, paths, targets)
    ),
    lists(),
)
def test_references_of_any_list_are_of_its_blobs(
    some: Sequence[Entry], others: Sequence[Entry]
) -> None:
    entries = [*some, *others]
    references = References(entries)
    by_digest = {digests.of(one): one for one in ALL_CONTENTS}
    known = {one.digest: one.size for one in entries if one.kind == Kind.REGULAR}
    to_read = references.to_read()
    assert len(dict(to_read)) == len(to_read)
    for digest, size in to_read:
        assert known[digest] == size > 0
        references.read(digest, by_digest.get(digest, b"#!/usr/bin/env python3\nimport a, b"))
    for digest, found in references.finished().items():
        assert 0 < len(found) == len(set(found)) <= MOST
        assert digest not in found
        assert {digest, *found} <= known.keys()
    start = references.likely_start()
    assert len(start) == len(set(start))
    assert set(start) <= known.keys()
