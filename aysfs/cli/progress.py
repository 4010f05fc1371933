"""How far long work is: a bar where a person watches, a line now and then where nobody does."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)

from aysfs.cli.render import note, size_text

_PLAIN_EVERY = 5.0  # seconds between the lines
_DRAW_EVERY = 0.1


class Meter(Protocol):
    """Long work tells it how far it is: things done, bytes done."""

    def __call__(self, done: int, size: int, /) -> None: ...


@contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Meter]:
    """A bar where a person watches, a line now and then where nobody does."""
    if sys.stderr.isatty():
        with _bar(what, total) as meter:
            yield meter
    else:
        yield _lines(what, total)


def _lines(what: str, total: int | None) -> Meter:
    last = time.monotonic()

    def meter(done: int, size: int, /) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _PLAIN_EVERY:
            last = now
            of = f" of {total}" if total is not None else ""
            note(f"{what}: {done}{of}, {size_text(size)}")

    return meter


@contextmanager
def _bar(what: str, total: int | None) -> Iterator[Meter]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[size]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, transient=True) as bar:
        task = bar.add_task(what, total=total, size="")
        last = 0.0

        def meter(done: int, size: int, /) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= _DRAW_EVERY or done == total:
                last = now
                bar.update(task, completed=done, size=size_text(size))

        yield meter
