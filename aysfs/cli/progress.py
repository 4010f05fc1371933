"""How far long work is: a bar where a person watches, a line now and then where nobody does."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)

from aysfs.cli.render import note
from aysfs.sizes import size_text

_PLAIN_EVERY = 5.0  # seconds between the lines
_DRAW_EVERY = 0.1


class Meter(Protocol):
    """Long work tells it how far it is: things done, bytes done."""

    def __call__(self, done: int, size: int, /) -> None: ...


class PhaseMeter(Protocol):
    """Long work in phases tells it the phase, and how many of its bytes are done."""

    def __call__(self, phase: str, done: int, total: int, /) -> None: ...


class TextMeter(Protocol):
    """Long work tells it how far the bar is, and what stands beside it."""

    def __call__(self, done: int, total: int, text: str, /) -> None: ...


Shown = Callable[[float], str]
"""How much of a phase is written: as a size, or as a number."""


@contextmanager
def phases(what: str, shown: Shown = size_text) -> Iterator[PhaseMeter]:
    """As ``progress``, for work that is several phases of known sizes, one after the other."""
    with told(what) as tell:

        def meter(phase: str, done: int, total: int, /) -> None:
            tell(done, total, amounts(phase, done, total, shown))

        yield meter


def amounts(phase: str, done: int, total: int, shown: Shown = size_text) -> str:
    """How far a phase is, in words."""
    return f"{phase} {shown(done)} of {shown(total)}"


@contextmanager
def told(what: str) -> Iterator[TextMeter]:
    """As ``progress``, for work that has its own words for how far it is."""
    if sys.stderr.isatty():
        with _text_bar(what) as meter:
            yield meter
    else:
        yield _text_lines(what)


@contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Meter]:
    """A bar where a person watches, a line now and then where nobody does."""
    if sys.stderr.isatty():
        with _bar(what, total) as meter:
            yield meter
    else:
        yield _lines(what, total)


def _now_and_then(every: float, start: float) -> Callable[[], bool]:
    """True at most once in ``every`` seconds after ``start``."""
    last = start

    def due() -> bool:
        nonlocal last
        now = time.monotonic()
        if now - last < every:
            return False
        last = now
        return True

    return due


def _text_lines(what: str) -> TextMeter:
    due = _now_and_then(_PLAIN_EVERY, time.monotonic())

    def meter(_done: int, _total: int, text: str, /) -> None:
        if due():
            note(f"{what}: {text}")

    return meter


def _lines(what: str, total: int | None) -> Meter:
    due = _now_and_then(_PLAIN_EVERY, time.monotonic())

    def meter(done: int, size: int, /) -> None:
        if due():
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
        due = _now_and_then(_DRAW_EVERY, 0.0)

        def meter(done: int, size: int, /) -> None:
            if due() or done == total:
                bar.update(task, completed=done, size=size_text(size))

        yield meter


@contextmanager
def _text_bar(what: str) -> Iterator[TextMeter]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=10),  # a terminal of 80 columns has room for the words
        TextColumn("{task.fields[text]}"),
    )
    with Progress(*columns, transient=True) as bar:
        task = bar.add_task(what, total=None, text="")
        due = _now_and_then(_DRAW_EVERY, 0.0)

        def meter(done: int, total: int, text: str, /) -> None:
            if due() or done == total:
                bar.update(task, completed=done, total=total, text=text)

        yield meter
