"""Which program runs a script: its first line. Pure; serves the resolution of references."""

from typing import NamedTuple

_MOST_LINE = 1024
"""Bytes of a first line that are read; Linux reads 256."""
_WITH_VALUE = (b"-u", b"-C", b"--unset", b"--chdir")
"""Options of env whose value is the next word."""


class Interpreter(NamedTuple):
    """A program: by its path, or by a name that is looked for where programs are."""

    program: bytes
    searched: bool


def interpreter(data: bytes) -> Interpreter | None:
    """The program that the first line names, behind ``env`` too; None for what is no script."""
    if data[:2] != b"#!":
        return None
    words = data[2:_MOST_LINE].partition(b"\n")[0].split()
    if not words:
        return None
    if words[0].rpartition(b"/")[2] == b"env":
        name = _run_by_env(words[1:])
        return None if name is None else Interpreter(name, b"/" not in name)
    return Interpreter(words[0], b"/" not in words[0])


def _run_by_env(words: list[bytes]) -> bytes | None:
    """The first word that is neither an option nor a variable."""
    waits = iter(words)
    for word in waits:
        if word.startswith(b"-S") and word != b"-S":
            word = word[2:]
        elif word in _WITH_VALUE:
            next(waits, None)
            continue
        if not word.startswith(b"-") and b"=" not in word:
            return word
    return None
