"""Coverage-guided fuzzing of the list reader. A process of its own, not a test of the suite:

    python tests/fuzz/fuzz_flist.py -atheris_runs=200000

Without a corpus on the command line it starts from the golden lists. It ends with a crash when
bytes are anything but a list or a BadList, or when an accepted version 2 list is not rewritten
to the same bytes.
"""

import io
import sys
import tempfile
from pathlib import Path

# Not among the packages of the tests, and without types where it is there.
# Untyped, and not in the environment of the tests.
import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore]

with atheris.instrument_imports(include=["aysfs"]):
    from aysfs.errors import BadList
    from aysfs.flist import FlistReader, write_flist

GOLDEN = Path(__file__).parent.parent / "golden" / "lists"


def one_input(data: bytes) -> None:
    """Read the bytes as a list and, when they are one, write it again."""
    try:
        reader = FlistReader(io.BytesIO(data), source="fuzz", mtime_ns=0, resolve=lambda *_: None)
        entries = list(reader)
    except BadList:
        return
    if reader.header.version == 2 and b"".join(write_flist(reader.header, entries)) != data:
        raise AssertionError("an accepted list is not rewritten to the same bytes")


def main() -> None:
    """Hand over to atheris, which ends the process."""
    with tempfile.TemporaryDirectory() as corpus:  # new findings go here, not into the seeds
        arguments = sys.argv
        if all(argument.startswith("-") for argument in arguments[1:]):
            arguments = [*arguments, corpus, str(GOLDEN)]
        atheris.Setup(arguments, one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
