"""What programs and libraries name, in every layout, and that no bytes are too much."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aysfs.references.elf import MOST_DIRECTORIES, MOST_NEEDED, Elf, read_elf
from tests.t1_references.elves import elf

layouts = pytest.mark.parametrize(
    ("bits", "order"), [(64, "<"), (64, ">"), (32, "<"), (32, ">")], ids=str
)


@layouts
def test_names_are_read_in_every_layout(bits: int, order: str) -> None:
    data = elf(
        [b"libb.so.1", b"liba.so"], b"/lib/ld.so.1", b"/a:$ORIGIN/../lib", bits=bits, order=order
    )
    expected = Elf((b"libb.so.1", b"liba.so"), b"/lib/ld.so.1", (b"/a", b"$ORIGIN/../lib"))
    assert read_elf(data) == expected


def test_the_old_search_path_counts_where_there_is_no_new_one() -> None:
    old, both = read_elf(elf(rpath=b"/old")), read_elf(elf(rpath=b"/old", runpath=b"/new"))
    assert old is not None
    assert both is not None
    assert (old.search, both.search) == ((b"/old",), (b"/new",))


def test_a_program_that_needs_nothing_is_one() -> None:
    assert read_elf(elf(kind=2)) == Elf((), None, ())


def test_the_python_of_the_tests_names_its_loader_and_its_libraries() -> None:
    found = read_elf(Path(os.path.realpath(sys.executable)).read_bytes())
    assert found is not None
    assert found.interpreter is not None
    assert b"ld" in found.interpreter
    assert any(name.startswith((b"libc.", b"libpython")) for name in found.needed)


@pytest.mark.parametrize("kind", [0, 1, 4, 0xFE00])
def test_objects_and_memory_dumps_are_no_programs(kind: int) -> None:
    assert read_elf(elf([b"liba.so"], kind=kind)) is None


def test_a_file_that_is_cut_off_is_read_as_far_as_it_makes_sense() -> None:
    data = elf([b"liba.so", b"libb.so"], b"/lib/ld.so")
    for size in range(len(data)):
        found = read_elf(data[:size])
        assert found is None or set(found.needed) <= {b"liba.so", b"libb.so"}


def test_names_and_directories_are_bounded() -> None:
    many = [b"lib%d.so" % number for number in range(MOST_NEEDED + 9)]
    found = read_elf(elf(many, runpath=b":".join(b"/%d" % one for one in range(99))))
    assert found is not None
    assert found.needed == tuple(many[:MOST_NEEDED])
    assert found.search == tuple(b"/%d" % one for one in range(MOST_DIRECTORIES))


def test_a_name_without_an_end_is_none() -> None:
    found = read_elf(elf([b"l" * 5000, b"liba.so"]))
    assert found is not None
    assert found.needed == (b"liba.so",)


whole = elf([b"liba.so", b"libb.so"], b"/lib/ld.so", b"$ORIGIN")


@given(
    st.lists(st.tuples(st.integers(0, len(whole) - 1), st.binary(min_size=1, max_size=8))),
    st.sampled_from([whole, elf([b"liba.so"], b"/ld.so", bits=32, order=">")]),
)
def test_a_damaged_file_is_read_or_not_and_no_more(
    damages: list[tuple[int, bytes]], data: bytes
) -> None:
    changed = bytearray(data)
    for at, value in damages:
        changed[at : at + len(value)] = value
    found = read_elf(bytes(changed))
    if found is not None:
        assert all(found.needed)
        assert b"" not in found.search


@given(st.binary(max_size=200))
def test_any_bytes_behind_the_mark_are_read_or_not_and_no_more(rest: bytes) -> None:
    assert read_elf(rest) is None
    read_elf(b"\x7fELF\x02\x01" + rest)
