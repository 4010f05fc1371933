"""Coverage-guided fuzzing of the HRD reader. A process of its own, not a test of the suite:

    python tests/fuzz/fuzz_hrd.py -atheris_runs=200000

Without a corpus on the command line it starts from the recipes of the tests. It ends with a
crash when bytes are anything but HRD or a BadHrd, or when what was read is not written so that
it reads back.
"""

import sys
import tempfile
from pathlib import Path

# Not among the packages of the tests, and without types where it is there.
# Untyped, and not in the environment of the tests.
import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore]

with atheris.instrument_imports(include=["aysfs"]):
    from aysfs.build.hrd import Hrd
    from aysfs.errors import BadHrd

RECIPES = Path(__file__).parent.parent / "t4_build" / "recipes"


def one_input(data: bytes) -> None:
    """Read the bytes as HRD and, when they are, write and read them again."""
    try:
        hrd = Hrd.parse(data, source="fuzz")
    except BadHrd:
        return
    text = hrd.dump()
    again = Hrd.parse(text, source="again")
    if again != hrd or again.dump() != text:
        raise AssertionError("what was read is not written so that it reads back")


def main() -> None:
    """Hand over to atheris, which ends the process."""
    with tempfile.TemporaryDirectory() as corpus:  # new findings go here, not into the seeds
        arguments = sys.argv
        if all(argument.startswith("-") for argument in arguments[1:]):
            arguments = [*arguments, corpus, str(RECIPES)]
        atheris.Setup(arguments, one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
