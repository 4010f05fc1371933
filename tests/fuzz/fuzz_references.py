"""Coverage-guided fuzzing of what looks for references. A process of its own, not a test of the
suite:

    python tests/fuzz/fuzz_references.py -atheris_runs=200000 -max_len=4000

The first byte chooses: bytes as an ELF file, as a Python module, as a script, or as the files of a
list, each a line with its path and its text. It ends with a crash when reading raises, or when what
is found breaks its bounds.
"""

import sys
import tempfile
from pathlib import Path

# Untyped, and not in the environment of the tests.
import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore]

with atheris.instrument_imports(include=["aysfs"]):
    from aysfs import digest as digests
    from aysfs.flist.entry import Entry, Kind
    from aysfs.references import MOST, References
    from aysfs.references.elf import MOST_NEEDED, read_elf
    from aysfs.references.python import MOST_IMPORTS, MOST_LEVEL, imports
    from aysfs.references.script import interpreter

from tests.t1_references.elves import elf


def seeds() -> list[bytes]:
    """A program of each layout, a module, scripts, and a list."""
    programs = [
        elf([b"liba.so", b"libb.so"], b"/lib/ld.so", b"$ORIGIN:/a", bits=bits, order=order)
        for bits in (32, 64)
        for order in "<>"
    ]
    module = b"import a.b, c as d\ntry:\n    from . import (e, # f\n  g)\nexcept X:\n    import h"
    script = b"#!/usr/bin/env -S python3 -u\nimport a\n"
    files = b"/a/__init__.py import b\n/a/b.py from . import c\n/a/c.so \x7fELF\n/bin/a -> /a/b.py"
    return [*(b"\0" + one for one in programs), b"\1" + module, b"\2" + script, b"\3" + files]


def one_input(data: bytes) -> None:
    """Read the bytes as what the first of them says."""
    kind, rest = data[:1], data[1:]
    if kind == b"\0":
        program = read_elf(rest)
        assert program is None or len(program.needed) <= MOST_NEEDED
    elif kind == b"\1":
        found = imports(rest)
        assert len(found) <= MOST_IMPORTS
        assert all(one.level <= MOST_LEVEL and (one.level or one.module) for one in found)
    elif kind == b"\2":
        named = interpreter(rest)
        assert named is None or named.program.split() == [named.program]
    else:
        read_list(rest)


def read_list(data: bytes) -> None:
    """All references of the files that the lines name."""
    entries, contents = [], {}
    for line in data.split(b"\n"):
        path, _, text = line.partition(b" ")
        if text.startswith(b"-> "):
            ext = ((b"target", text[3:]),)
            entries.append(Entry(path, Kind.SYMLINK, 0o777, 0, 0, 0, digests.ZERO, 0, ext))
        else:
            name = digests.of(text)
            contents[name] = text
            entries.append(Entry(path, Kind.REGULAR, 0o755, 0, 0, len(text), name, 0))
    references = References(entries)
    for name, size in references.to_read():
        assert size == len(contents[name])
        references.read(name, contents[name])
    for name, found in references.finished().items():
        assert name not in found
        assert 0 < len(set(found)) == len(found) <= MOST
        assert contents.keys() >= set(found)
    assert contents.keys() >= set(references.likely_start())


def main() -> None:
    """Hand over to atheris, which ends the process."""
    with tempfile.TemporaryDirectory() as corpus:  # seeds, and what is found
        arguments = sys.argv
        if all(argument.startswith("-") for argument in arguments[1:]):
            for number, data in enumerate(seeds()):
                (Path(corpus) / f"seed-{number}").write_bytes(data)
            arguments = [*arguments, corpus]
        atheris.Setup(arguments, one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
