"""Which blobs of a list a blob refers to, in the order in which it reads them."""

import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aysfs import digest as digests
from aysfs.digest import Digest
from aysfs.flist.entry import Entry, Kind
from aysfs.limits import LARGE
from aysfs.references import MOST, References
from tests.t1_references.elves import elf
from tests.trees import lists, regular, symlink

STANDARD = b"/lib/python3.11"
SITE = STANDARD + b"/site-packages"


class Tree:
    """Files by path, and symlinks (text), as a list and read: what one refers to, by first path."""

    def __init__(self, files: Mapping[bytes, bytes | str]) -> None:
        self.files = {path: what for path, what in files.items() if isinstance(what, bytes)}
        self.first: dict[Digest, bytes] = {}
        for path, content in self.files.items():
            self.first.setdefault(digests.of(content), path)
        self.references = References(
            executable(path, what) if isinstance(what, bytes) else symlink(path, what.encode())
            for path, what in files.items()
        )
        self.read = [self.first[digest] for digest, _ in self.references.to_read()]
        for path in self.read:
            content = self.files[path]
            self.references.read(digests.of(content), content)
        self.found = self.references.finished()

    def of(self, path: bytes) -> list[bytes]:
        """What the blob of a path refers to."""
        targets = self.found.get(digests.of(self.files[path]), ())
        return [self.first[digest] for digest in targets]

    def start(self, **bounds: int) -> list[bytes]:
        return [self.first[digest] for digest in self.references.likely_start(**bounds)]


def executable(path: bytes, content: bytes) -> Entry:
    mode = 0o644 if path.endswith((b".py", b".pyc", b".txt")) else 0o755
    return regular(path, content)._replace(mode=mode)


# --- Python modules ----------------------------------------------------------------------


def test_a_module_refers_to_what_it_imports_in_its_order() -> None:
    tree = Tree(
        {
            b"/p/a.py": b"import c\nimport b.d, nothing\nfrom b import e, f\nfrom . import c",
            b"/p/b/__init__.py": b"# b",
            b"/p/b/d.py": b"# d",
            b"/p/b/e.py": b"# e",
            b"/p/c.py": b"# c",
        }
    )
    assert tree.of(b"/p/a.py") == [b"/p/c.py", b"/p/b/__init__.py", b"/p/b/d.py", b"/p/b/e.py"]
    assert tree.of(b"/p/c.py") == []


def test_relative_imports_are_found_by_their_level() -> None:
    tree = Tree(
        {
            b"/p/a/__init__.py": b"from .b import x",
            b"/p/a/b/__init__.py": b"from . import c\nfrom .c import d\nfrom .. import e",
            b"/p/a/b/c.py": b"from ..e import f\nfrom ...a.e import f\nfrom . import c",
            b"/p/a/e.py": b"from ........ import x",
        }
    )
    assert tree.of(b"/p/a/__init__.py") == [b"/p/a/b/__init__.py"]
    assert tree.of(b"/p/a/b/__init__.py") == [b"/p/a/b/c.py", b"/p/a/e.py"]
    assert tree.of(b"/p/a/b/c.py") == [b"/p/a/e.py", b"/p/a/__init__.py"]
    assert tree.of(b"/p/a/e.py") == []


def test_modules_are_looked_for_beside_the_package_then_in_the_nearest_library() -> None:
    tree = Tree(
        {
            b"/lib/python3.10/os.py": b"# os of 3.10",
            b"/lib/python3.10/site-packages/x.py": b"import os",
            STANDARD + b"/lib-dynload/math.cpython-311-x86_64-linux-gnu.so": elf(),
            STANDARD + b"/os.py": b"import x",
            SITE + b"/os.py": b"# never read",
            SITE + b"/x/__init__.py": b"import os, math, y",
            SITE + b"/x/sub/z.py": b"import x.sub.z, os",
            SITE + b"/y.py": b"# y",
            b"/app/main.py": b"import own\nimport os, x",
            b"/app/own.py": b"# own",
            b"/test/own.py": b"# another",
        }
    )
    assert tree.of(SITE + b"/x/__init__.py") == [
        STANDARD + b"/os.py",
        STANDARD + b"/lib-dynload/math.cpython-311-x86_64-linux-gnu.so",
        SITE + b"/y.py",
    ]
    assert tree.of(SITE + b"/x/sub/z.py") == [SITE + b"/x/__init__.py", STANDARD + b"/os.py"]
    assert tree.of(STANDARD + b"/os.py") == [SITE + b"/x/__init__.py"]
    assert tree.of(b"/lib/python3.10/site-packages/x.py") == [b"/lib/python3.10/os.py"]
    assert tree.of(b"/app/main.py")[0] == b"/app/own.py"
    assert b"/test/own.py" not in tree.of(b"/app/main.py")


def test_of_several_pythons_the_nearest_and_one_of_the_same_version_counts() -> None:
    tree = Tree(
        {
            b"/opt/own/lib/python3.12/site-packages/a.py": b"import os #",
            b"/usr/bin/tool": b"#!/usr/bin/python3\nimport os, a",
            b"/usr/lib/bundle/lib/python3.11/os.py": b"# os of a bundle",
            b"/usr/lib/bundle/lib/python3.11/site-packages/a.py": b"import os # of a bundle",
            b"/usr/lib/python3.11/os.py": b"# os of 3.11",
            b"/usr/lib/python3.12/os.py": b"# os of 3.12",
            b"/usr/lib/python3/dist-packages/a.py": b"import os # of Debian",
        }
    )
    bundle = b"/usr/lib/bundle/lib/python3.11"
    assert tree.of(bundle + b"/site-packages/a.py") == [bundle + b"/os.py"]
    assert tree.of(b"/usr/lib/python3/dist-packages/a.py") == [b"/usr/lib/python3.11/os.py"]
    assert tree.of(b"/opt/own/lib/python3.12/site-packages/a.py") == [b"/usr/lib/python3.12/os.py"]
    expected = [b"/usr/lib/python3.11/os.py", b"/usr/lib/python3/dist-packages/a.py"]
    assert tree.of(b"/usr/bin/tool") == expected


def test_a_directory_without_an_init_may_lie_between() -> None:
    tree = Tree(
        {
            SITE + b"/a.py": b"import google.cloud.store\nfrom google import auth",
            SITE + b"/google/auth/__init__.py": b"from google.cloud import store",
            SITE + b"/google/cloud/store.py": b"# store",
        }
    )
    expected = [SITE + b"/google/cloud/store.py", SITE + b"/google/auth/__init__.py"]
    assert tree.of(SITE + b"/a.py") == expected
    assert tree.of(SITE + b"/google/auth/__init__.py") == expected[:1]


def test_what_is_compiled_is_read_in_place_of_the_source_and_refers_to_the_same() -> None:
    tree = Tree(
        {
            b"/p/__pycache__/a.cpython-311.opt-1.pyc": b"a, optimized",
            b"/p/__pycache__/a.cpython-311.pyc": b"a, compiled",
            b"/p/__pycache__/b.cpython-311.opt-1.pyc": b"b, optimized",
            b"/p/__pycache__/b.cpython-311.pyc": b"b, compiled",
            b"/p/a.py": b"import b, c, d",
            b"/p/b.py": b"import a",
            b"/p/c.py": b"# not compiled",
            b"/p/d.pyc": b"without a source",
        }
    )
    expected = [b"/p/__pycache__/b.cpython-311.pyc", b"/p/c.py", b"/p/d.pyc"]
    for path in (
        b"/p/a.py",
        *(b"/p/__pycache__/a.cpython-311%s.pyc" % o for o in (b"", b".opt-1")),
    ):
        assert tree.of(path) == expected
    assert tree.of(b"/p/b.py") == [b"/p/__pycache__/a.cpython-311.pyc"]
    assert tree.read == [b"/p/a.py", b"/p/b.py", b"/p/c.py"]


@pytest.mark.parametrize("suffix", [b".so", b".abi3.so", b".cpython-311-x86_64-linux-gnu.so"])
def test_an_extension_is_read_before_a_source_and_refers_to_what_both_name(suffix: bytes) -> None:
    tree = Tree(
        {
            b"/p/a.py": b"import fast",
            b"/p/fast" + suffix: elf([b"libfast.so"]),
            b"/p/fast.py": b"import b",
            b"/p/b.py": b"# b",
            b"/p/libs/libfast.so": elf([b"c"]),
        }
    )
    assert tree.of(b"/p/a.py") == [b"/p/fast" + suffix]
    assert tree.of(b"/p/fast" + suffix) == [b"/p/libs/libfast.so", b"/p/b.py"]


def test_a_package_is_read_before_a_module_of_its_name() -> None:
    tree = Tree(
        {b"/p/a.py": b"import b", b"/p/b.py": b"# module", b"/p/b/__init__.py": b"# package"}
    )
    assert tree.of(b"/p/a.py") == [b"/p/b/__init__.py"]


def test_modules_may_lie_in_the_root_itself() -> None:
    tree = Tree(
        {
            b"/__init__.py": b"import a",
            b"/a.py": b"from . import b\nfrom .. import b",
            b"/b.py": b"#",
        }
    )
    assert tree.of(b"/__init__.py") == [b"/a.py"]
    assert tree.of(b"/a.py") == [b"/b.py"]


def test_an_empty_module_is_there_and_nothing_is_read_of_it() -> None:
    tree = Tree(
        {
            b"/p/a/__init__.py": b"",
            b"/p/a/b.py": b"import a.c",
            b"/p/a/c.py": b"# c",
            b"/p/a/__pycache__/b.cpython-311.pyc": b"",
        }
    )
    assert tree.of(b"/p/a/b.py") == [b"/p/a/c.py"]


def test_of_two_paths_with_the_same_text_each_compiled_one_has_its_own_references() -> None:
    text = b"from .core import *"
    tree = Tree(
        {
            b"/p/a/__init__.py": text,
            b"/p/a/__pycache__/__init__.cpython-311.pyc": b"compiled a",
            b"/p/a/core.py": b"# core of a",
            b"/p/b/__init__.py": text,
            b"/p/b/__pycache__/__init__.cpython-311.pyc": b"compiled b",
            b"/p/b/core.py": b"# core of b",
        }
    )
    assert tree.of(b"/p/a/__init__.py") == [b"/p/a/core.py"]
    assert tree.of(b"/p/b/__pycache__/__init__.cpython-311.pyc") == [b"/p/b/core.py"]


def test_a_module_that_is_a_symlink_is_found() -> None:
    tree = Tree({b"/p/a.py": b"import b", b"/p/b.py": "../share/real.py", b"/share/real.py": b"#"})
    assert tree.of(b"/p/a.py") == [b"/share/real.py"]


def test_references_of_a_blob_are_bounded() -> None:
    names = [b"m%03d" % number for number in range(MOST + 20)]
    files: dict[bytes, bytes | str] = {b"/p/%s.py" % name: b"# " + name for name in names}
    tree = Tree({b"/p/a.py": b"import " + b",".join(names), **files})
    assert tree.of(b"/p/a.py") == [b"/p/%s.py" % name for name in names[:MOST]]


def test_the_standard_library_refers_to_itself() -> None:
    root = Path(sysconfig.get_path("stdlib"))
    files: dict[bytes, bytes | str] = {}
    for name in ("json/__init__.py", "json/decoder.py", "json/scanner.py", "json/encoder.py"):
        files[STANDARD + b"/" + name.encode()] = (root / name).read_bytes()
    tree = Tree(files)
    expected = [STANDARD + b"/json/decoder.py", STANDARD + b"/json/encoder.py"]
    assert tree.of(STANDARD + b"/json/__init__.py") == expected
    assert tree.of(STANDARD + b"/json/decoder.py")[-1] == STANDARD + b"/json/scanner.py"


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
