"""What a Python module imports while it is imported itself.

Pure; serves the resolution of references. The text is searched for lines and not parsed: that is
fifty times as fast as ``ast``, and twelve thousand modules are read in a second. What lies in a
string may be taken for an import, which then names no module. Whatever the text says, the time is
in proportion to its length, the result is bounded and nothing is raised.
"""

import re
from typing import NamedTuple

MOST_IMPORTS = 1000
"""Imports of a module that are read."""
MOST_LEVEL = 32
_MOST_TEXT = 64 << 10
"""Bytes that the names of one import may take."""

_NAME = rb"[\w\x80-\xff]"
_SPACE = rb"(?:[ \t]|\\\n)*+"
_REST = rb"(?:[^\n;#\\]++|\\\n?)*+"

# Lines without indentation: an import, or what may have imports below it that run.
_TOP = re.compile(rb"\n(?:(import|from)|if|elif|else|try|except|finally|with|for|while)\b")
# Where the block ends that such a line begins.
_BLOCK_END = re.compile(rb"\n(?=[\w@\x80-\xff])")
_INNER = re.compile(
    rb"\n([ \t]*+)(?:(import|from)\b|"
    rb"(def|class|async|if|elif|else|try|except|finally|with|for|while)\b([^\n]*+))"
)
_BEHIND_COLON = re.compile(rb":[ \t]*+(?=(?:import|from)\b)")
_NOT_RUN = re.compile(
    rb"[ \t(]*+(?:"
    rb"(?:\w++\.)?TYPE_CHECKING\b|__name__\b|False\b|0[ \t]*+:|"
    rb"sys\.platform[ \t]*+==[ \t]*+['\"](?:win32|darwin|cygwin)|"
    rb"os\.name[ \t]*+==[ \t]*+['\"](?:nt|ce)\b)"
)
"""Conditions below which no import runs in a program for Linux that imports the module."""

_IMPORT = re.compile(rb"import\b(" + _REST + rb")")
_FROM = re.compile(
    rb"from\b" + _SPACE + rb"((?:\.[ \t]*+)*+)"
    rb"((?!import\b)(?:"
    + _NAME
    + rb"|\.){1,512}+)?+"
    + _SPACE
    + rb"import\b"
    + _SPACE
    + rb"(?:\(((?:[^()#]++|#[^\n]*+)*+)|("
    + _REST
    + rb"))"
)
_COMMENT = re.compile(rb"#[^\n]*+")
_NAMES = re.compile(rb"(?:^|,)[\s\\]*+((?:" + _NAME + rb"|\.){1,512}+)")
_NEXT_STATEMENT = re.compile(rb"[ \t)]*+;[ \t]*+(?=(?:import|from)\b)")


class Import(NamedTuple):
    """``from <level dots><module> import <names>``, or ``import <module>`` without names.

    Names are bytes of the text. A name may be a module or anything else of a module.
    """

    level: int
    module: bytes
    names: tuple[bytes, ...]


def imports(source: bytes) -> list[Import]:
    """What runs when the text is imported, in its order.

    That is what stands outside of functions and classes, and below no condition that only holds
    for a checker of types, for a program, or on another system.
    """
    found: list[Import] = []
    if b"import" not in source:
        return found
    text = b"\n" + source.removeprefix(b"\xef\xbb\xbf")
    if b"\r" in text:
        text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    at = 0
    while len(found) < MOST_IMPORTS and (line := _TOP.search(text, at)):
        if line[1]:
            at = _statements(text, line.start(1), found)
        else:
            end = _BLOCK_END.search(text, line.end())
            at = end.start() if end else len(text)
            _block(text[line.start() : at], found)
    return found[:MOST_IMPORTS]


def _block(text: bytes, found: list[Import]) -> None:
    """The imports in a statement with a block, of which the first line is one without a block."""
    not_run: int | None = None  # the indentation of what has a block that does not run
    at = 0
    while len(found) < MOST_IMPORTS and (line := _INNER.search(text, at)):
        at = line.end()
        depth = len(line[1])
        if not_run is not None:
            if depth > not_run:
                continue
            not_run = None
        if line[2]:
            at = _statements(text, line.start(2), found)
        elif line[3] in (b"def", b"class", b"async") or (
            line[3] in (b"if", b"elif") and _NOT_RUN.match(line[4])
        ):
            not_run = depth
        elif behind := _BEHIND_COLON.search(text, line.start(4), line.end(4)):
            at = _statements(text, behind.end(), found)


def _statements(text: bytes, at: int, found: list[Import]) -> int:
    """Take the import that begins there, and those behind a semicolon. Where they end."""
    while True:
        end = _statement(text, at, found)
        if end is None:
            return at + 1
        more = _NEXT_STATEMENT.match(text, end)
        if more is None or len(found) >= MOST_IMPORTS:
            return end
        at = more.end()


def _statement(text: bytes, at: int, found: list[Import]) -> int | None:
    """Take one import; None when it is none after all."""
    if plain := _IMPORT.match(text, at):
        found += [Import(0, name, ()) for name in _names(plain[1])]
        return plain.end()
    if parts := _FROM.match(text, at):
        level = parts[1].count(b".")
        if level <= MOST_LEVEL and (level or parts[2]):
            names = _names(parts[4] if parts[3] is None else parts[3])
            found.append(Import(level, parts[2] or b"", tuple(names)))
        return parts.end()
    return None


def _names(text: bytes) -> list[bytes]:
    """What stands first between commas."""
    text = text[:_MOST_TEXT]
    return _NAMES.findall(_COMMENT.sub(b"", text) if b"#" in text else text)
