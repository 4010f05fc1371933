"""Measure and print: ``python -m benchmarks.run [--only ROW]... [--json]``.

The exit code says whether everything asked for was measured, not whether targets were met.
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from benchmarks import host, overlay
from benchmarks import rows as host_rows
from benchmarks.figures import Measured, Row

ROWS = host_rows.ROWS + overlay.ROWS


class Outcome(NamedTuple):
    """A row and its figure, or why there is none."""

    row: Row
    measured: Measured | None
    trouble: str = ""

    @property
    def verdict(self) -> str:
        if self.measured is None:
            return "not measured"
        if self.row.target is None:
            return "measured"
        return "met" if self.measured.value <= self.row.target else "missed"

    @property
    def note(self) -> str:
        return self.trouble if self.measured is None else self.measured.note


def figure(value: float, unit: str) -> str:
    digits = {"MiB": 0, "us": 1}.get(unit, 2)
    return f"{value:.{digits}f}{'' if unit == 'x' else ' '}{unit}"


def measure(row: Row) -> Outcome:
    """One row; what goes wrong in it does not stop the others."""
    start = time.monotonic()
    try:
        outcome = Outcome(row, row.measure())
    except (host.FailedError, host.NotHereError) as error:
        outcome = Outcome(row, None, str(error))
    host.say(f"{row.name}: {outcome.verdict}, {time.monotonic() - start:.0f} s, {outcome.note}")
    return outcome


def markdown(outcomes: Sequence[Outcome]) -> str:
    lines = ["| what | measured | to reach | | made of |", "| --- | --: | --: | --- | --- |"]
    for outcome in outcomes:
        row, measured = outcome.row, outcome.measured
        value = figure(measured.value, row.unit) if measured else "-"
        target = "-" if row.target is None else figure(row.target, row.unit)
        lines.append(f"| {row.what} | {value} | {target} | {outcome.verdict} | {outcome.note} |")
    return "\n".join(lines)


def as_json(outcomes: Sequence[Outcome]) -> str:
    found = [
        {
            "row": outcome.row.name,
            "what": outcome.row.what,
            "value": outcome.measured.value if outcome.measured else None,
            "target": outcome.row.target,
            "unit": outcome.row.unit,
            "verdict": outcome.verdict,
            "note": outcome.note,
        }
        for outcome in outcomes
    ]
    return json.dumps({"kernel": platform.release(), "rows": found}, indent=2)


def chosen(rows: Sequence[Row], names: Sequence[str]) -> list[Row]:
    unknown = set(names) - {row.name for row in rows}
    if unknown:
        raise SystemExit(f"no such row: {', '.join(sorted(unknown))} (see --list)")
    return [row for row in rows if not names or row.name in names]


def main(rows: Sequence[Row], prepare: Callable[[], None], clear: Callable[[], None]) -> int:
    """Measure the rows that the command line asks for, between preparing and clearing."""
    parser = argparse.ArgumentParser(description="Measure, and compare in the same run.")
    parser.add_argument("--only", action="append", default=[], metavar="ROW", help="repeatable")
    parser.add_argument("--json", action="store_true", help="for a script")
    parser.add_argument("--list", action="store_true", help="the names of the rows")
    options = parser.parse_args()
    wanted = chosen(rows, options.only)
    if options.list:
        print("\n".join(f"{row.name:16}{row.what}" for row in wanted))
        return 0
    prepare()
    try:
        outcomes = [measure(row) for row in wanted]
    finally:
        clear()
    print(as_json(outcomes) if options.json else markdown(outcomes))
    return 0 if all(outcome.measured for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(ROWS, host.prepare, host.clear))
