#!/usr/bin/env python3
"""Every check of the project in one go: lint, types, contracts, then the tests by floor.

The floors are ``tests/t0_*``, ``tests/t1_*``, ... in that order, and ``integration`` on top, each
in its own pytest, and the first red one ends the run: what stands on a broken floor says nothing.
Within a floor two processes share the modules. A module stays in one of them: what its fixtures
start is started once, and what a host does once at a time is in one module.
The last line is ``N passed, N failed, N skipped``. Arguments choose floors (``t2``, ``t0_digest``),
in which case the checks before them are left out; ``--lint`` runs only those checks.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "tests"
BIN = Path(sys.executable).parent
INTEGRATION = ROOT / "integration"
CHECKED = ("aysfs", "tests", "integration", "benchmarks", "demo", "scripts")

CHECKS: tuple[tuple[str, ...], ...] = (
    ("ruff", "check", *CHECKED, "build"),
    ("ruff", "format", "--check", *CHECKED, "build"),
    ("mypy", *CHECKED),
    ("lint-imports", "--no-logo"),
)

# Two, for the bounds of time in tests are those of a machine of two cores that has something
# else to do as well.
SHARED = ("-n", "2", "--dist", "loadfile")

NO_TESTS_COLLECTED = 5


class Counts(NamedTuple):
    """Outcomes of tests; what broke outside a test body counts as failed."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def plus(self, other: "Counts") -> "Counts":
        return Counts(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


def say(words: str) -> None:
    print(words, flush=True)


def run(command: Sequence[str]) -> int:
    say(f"--- {' '.join(command)}")
    return subprocess.run([str(BIN / command[0]), *command[1:]], cwd=ROOT, check=False).returncode


def lint() -> bool:
    """Run every check, the later ones too when an earlier one is red."""
    codes = [run(check) for check in CHECKS]
    return not any(codes)


def has_tests(path: Path) -> bool:
    return path.is_file() or any(path.rglob("test_*.py"))


def floors(wanted: Sequence[str]) -> list[Path]:
    """The floors to run, lowest first; on top of them what uses the whole product."""
    found = [path for path in TESTS.glob("t[0-9]*_*") if has_tests(path)]
    found.sort(key=lambda path: (int(re.findall(r"\d+", path.name)[0]), path.name))
    found.append(INTEGRATION)
    return [path for path in found if not wanted or path.name.startswith(tuple(wanted))]


def homeless() -> list[Path]:
    """Test modules that stand on no floor and would never run."""
    modules = (path.relative_to(TESTS) for path in TESTS.rglob("test_*.py"))
    return [path for path in modules if not re.match(r"t\d+_", path.parts[0])]


def counts_of(report: Path, code: int) -> Counts:
    """What a pytest run's JUnit report says; a run that died without one failed."""
    if not report.exists():
        return Counts(failed=1)
    suites = list(ET.parse(report).getroot().iter("testsuite"))

    def total(key: str) -> int:
        return sum(int(suite.get(key, "0")) for suite in suites)

    failed, skipped = total("failures") + total("errors"), total("skipped")
    passed = max(0, total("tests") - failed - skipped)
    return Counts(passed, failed if failed or not code else 1, skipped)


def run_floor(floor: Path) -> tuple[Counts, bool]:
    """One pytest for one floor: its counts, and whether it is green."""
    rules = ("-p", "tests.conftest") if floor == INTEGRATION else ()
    with tempfile.TemporaryDirectory(prefix="aysfs-tests-") as directory:
        report = Path(directory) / "report.xml"
        code = run(
            ("pytest", *SHARED, *rules, str(floor.relative_to(ROOT)), f"--junitxml={report}")
        )
        counts = counts_of(report, code)
    if code == NO_TESTS_COLLECTED:
        say(f"{floor.name}: no test was found")
    return counts, code == 0


def run_floors(chosen: Sequence[Path]) -> tuple[Counts, bool]:
    """Floor by floor; stops above the first red one."""
    counts = Counts()
    for floor in chosen:
        more, green = run_floor(floor)
        counts = counts.plus(more)
        if not green:
            say(f"{floor.name} is red: the floors above it were not run")
            return counts, False
    return counts, True


def all_tests(wanted: Sequence[str]) -> bool:
    """The tests, and the summary line."""
    chosen, lost = floors(wanted), homeless()
    counts, green = run_floors(chosen)
    if not chosen:
        say("no floor to run")
    for path in lost:
        say(f"tests/{path}: stands on no floor (tests/t<number>_<name>)")
    say(f"{counts.passed} passed, {counts.failed} failed, {counts.skipped} skipped")
    return green and bool(chosen) and not lost


def main() -> int:
    parser = argparse.ArgumentParser(description="Check the project.")
    parser.add_argument("--lint", action="store_true", help="no tests")
    parser.add_argument("floors", nargs="*", help="only these floors, and no lint")
    options = parser.parse_args()
    green = True if options.floors else lint()
    if options.lint:
        return 0 if green else 1
    # A red lint does not hide what the tests say.
    return 0 if all_tests(options.floors) and green else 1


if __name__ == "__main__":
    sys.exit(main())
