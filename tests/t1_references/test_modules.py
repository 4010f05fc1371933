"""What a Python module refers to: what is read for its imports, in their order."""

import sysconfig
from pathlib import Path

import pytest

from aysfs.references import MOST
from tests.t1_references.elves import elf
from tests.t1_references.reading import SITE, STANDARD, Tree


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


def test_a_module_that_is_a_script_elsewhere_is_both() -> None:
    text = b"#!/usr/bin/env perl\nimport b"
    tree = Tree({b"/bin/a": text, b"/bin/perl": elf(), b"/p/a.py": text, b"/p/b.py": b"# b"})
    assert tree.of(b"/p/a.py") == [b"/bin/perl", b"/p/b.py"]


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
