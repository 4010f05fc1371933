"""Which program the first line of a script names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aysfs.references.script import Interpreter, interpreter


@pytest.mark.parametrize(
    ("line", "program", "searched"),
    [
        (b"#!/bin/sh\necho", b"/bin/sh", False),
        (b"#! /usr/bin/perl -w\n", b"/usr/bin/perl", False),
        (b"#!/bin/sh\r\n", b"/bin/sh", False),
        (b"#!/bin/sh", b"/bin/sh", False),
        (b"#!sh\n", b"sh", True),
        (b"#!/usr/bin/env python3\nimport os", b"python3", True),
        (b"#!/usr/bin/env -S python3 -u\n", b"python3", True),
        (b"#!/usr/bin/env -Spython3 -u\n", b"python3", True),
        (b"#!/usr/bin/env -i A=b -u PATH /opt/python3\n", b"/opt/python3", False),
    ],
)
def test_the_program_is_named(line: bytes, program: bytes, searched: bool) -> None:
    assert interpreter(line) == Interpreter(program, searched)


@pytest.mark.parametrize(
    "data", [b"", b"#", b"#!", b"#! \n/bin/sh", b"# /bin/sh", b"#!/usr/bin/env\n", b"\x7fELF"]
)
def test_what_names_no_program_is_no_script(data: bytes) -> None:
    assert interpreter(data) is None


@given(st.binary(max_size=100), st.sampled_from([b"", b"#!", b"#!/usr/bin/env "]))
def test_any_bytes_name_one_word_or_none(data: bytes, start: bytes) -> None:
    found = interpreter(start + data)
    if found is not None:
        assert found.program.split() == [found.program]
