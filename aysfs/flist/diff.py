"""What changed from one list to the next.

Serves ``flist diff`` and everything that compares two builds. A merge of two sorted streams:
it holds one entry of each side, and must not sort or collect anything itself.
"""

import enum
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from aysfs.flist.entry import Entry
from aysfs.flist.percent import encode_path
from aysfs.flist.rules import show

_FIELDS = ("kind", "mode", "uid", "gid", "size", "digest", "mtime_ns")


class ChangeKind(enum.StrEnum):
    """What happened to a path."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


class Change(NamedTuple):
    """One path that differs. ``fields`` names Entry's fields and, as ``ext.<key>``, ext keys."""

    kind: ChangeKind
    path: bytes
    old: Entry | None
    new: Entry | None
    fields: tuple[str, ...] = ()


def diff(old: Iterable[Entry], new: Iterable[Entry]) -> Iterator[Change]:
    """The changes from ``old`` to ``new``, both in the order of ``encode_path(entry.path)``.

    ValueError when a side is not in that order: sort a lineage list first.
    """
    olds, news = _ordered(old, "old"), _ordered(new, "new")
    left, right = next(olds, None), next(news, None)
    while left or right:
        if right is None or (left is not None and left[0] < right[0]):
            assert left is not None
            yield Change(ChangeKind.REMOVED, left[1].path, left[1], None)
            left = next(olds, None)
        elif left is None or right[0] < left[0]:
            yield Change(ChangeKind.ADDED, right[1].path, None, right[1])
            right = next(news, None)
        else:
            if left[1] != right[1]:
                yield Change(
                    ChangeKind.CHANGED, left[1].path, left[1], right[1], _fields(left[1], right[1])
                )
            left, right = next(olds, None), next(news, None)


def _ordered(entries: Iterable[Entry], side: str) -> Iterator[tuple[bytes, Entry]]:
    previous = b""
    for entry in entries:
        key = encode_path(entry.path)
        if key <= previous:
            raise ValueError(f"{side} side is not sorted: {show(key)} after {show(previous)}")
        previous = key
        yield key, entry


def _fields(old: Entry, new: Entry) -> tuple[str, ...]:
    fields = [name for name in _FIELDS if getattr(old, name) != getattr(new, name)]
    before, after = dict(old.ext), dict(new.ext)
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key):
            fields.append("ext." + key.decode("utf-8", "backslashreplace"))
    return tuple(fields)
