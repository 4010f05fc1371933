"""HRD as text: bytes -> values. Serves ``Hrd``.

Follows the parser of 2015 and what its real files need: a ``#`` starts a comment wherever it
stands, in a URL and between quotes too. Everything that is refused carries line and column.
"""

import binascii
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from aysfs.build.hrd.ask import Ask, parse_ask
from aysfs.build.hrd.scalars import NO_TEXT, Malformed, parse_scalar
from aysfs.build.hrd.values import Scanner, Value, parse_dict, parse_item, parse_list, show
from aysfs.errors import BadHrd

MAX_SIZE = 4 << 20
BINARY_END = "#BINARYEND#########"

KEY = re.compile(r"[a-z0-9_][a-z0-9_.-]*")

_KEY_LINE = re.compile(r"[ \t]*([\w.-]+)[ \t]*=")
_URL = re.compile(r"[a-z][a-z0-9+.-]*://[^,]*", re.IGNORECASE)
_QUOTED_OR_ASK = re.compile(r"'[^']*'|\"[^\"]*\"|(@ask)", re.IGNORECASE)


@dataclass
class Parsed:
    """What a text holds: its values, the line of each, and the comment at its head."""

    values: dict[str, Value] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    header: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Line:
    """A line of a block, without comment and indentation."""

    number: int
    offset: int
    text: str


class HrdReader:
    """One pass over a text."""

    def __init__(self, data: bytes, source: str) -> None:
        if len(data) > MAX_SIZE:
            raise BadHrd(source, 0, 0, f"over {MAX_SIZE >> 20} MiB")
        text = data.decode("utf-8", "surrogateescape").removeprefix("\ufeff")
        self._source = source
        self._lines = text.split("\n")
        ends = (at for at, line in enumerate(self._lines) if line.startswith(BINARY_END))
        self._last_end = max(ends, default=-1)
        self._at = 0
        self._number = 0  # of the line that a refusal speaks of
        self._parsed = Parsed()

    def read(self) -> Parsed:
        """All of it, or BadHrd."""
        try:
            while self._at < len(self._lines):
                self._read_entry()
        except Malformed as refusal:
            column = refusal.offset + 1
            raise BadHrd(self._source, self._number, column, refusal.reason) from None
        return self._parsed

    def _read_entry(self) -> None:
        """A blank line, a comment, or a key with its value."""
        raw = self._lines[self._at]
        self._at += 1
        self._number = self._at
        if raw.startswith("#") and not self._parsed.values:
            comment = raw.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            self._parsed.header.append(comment.rstrip())
            return
        line = _code(raw)
        text = line.strip(" \t")
        if not text or text.startswith("@"):
            return
        start = len(line) - len(line.lstrip(" \t"))
        name, equals, rest = line.partition("=")
        if not equals:
            raise Malformed(start, "neither `key = value` nor an indented line of one")
        key = name.strip(" \t").lower()
        if not KEY.fullmatch(key):
            raise Malformed(start, f"bad key `{show(name.strip())}`")
        self._parsed.lines[key] = self._number
        offset = len(line) - len(rest.lstrip(" \t"))
        self._parsed.values[key] = self._read_value(rest.strip(" \t"), offset)

    def _read_value(self, text: str, offset: int) -> Value:
        if text in ("b", "bqp") and (end := self._binary_end()) is not None:
            return self._read_binary(text, end)
        first = self._number
        if text in ("", ":"):
            block = self._read_block()
            return _parse_block(block, self._at_line) if block else ({} if text else "")
        value = _parse_line(text, offset)
        if not text.endswith(",") or _KEY_LINE.match(self._peek()):
            return value
        block = [_Line(first, offset, text), *self._read_block()]
        if isinstance(value, Ask):
            self._number = first
            return parse_ask(" ".join((value.text, *(one.text for one in block[1:]))), offset)
        return _parse_block(block, self._at_line) if len(block) > 1 else value

    def _peek(self) -> str:
        return self._lines[self._at] if self._at < len(self._lines) else ""

    def _at_line(self, number: int) -> None:
        self._number = number

    def _read_block(self) -> list[_Line]:
        """The indented lines that follow, up to a blank one or the next key at the margin."""
        block = []
        while self._at < len(self._lines):
            raw = self._peek()
            if raw[:1] not in (" ", "\t") or not raw.strip(" \t\r"):
                break
            self._number = self._at + 1
            line = _code(raw)
            self._at += 1
            text = line.strip(" \t")
            if text and not text.startswith("@"):
                block.append(_Line(self._at, len(line) - len(line.lstrip(" \t")), text))
        return block

    def _binary_end(self) -> int | None:
        """The line that ends a binary block; without one, `b` is merely a text."""
        for at in range(self._at, self._last_end + 1):
            if self._lines[at].startswith(BINARY_END):
                return at
        return None

    def _read_binary(self, kind: str, end: int) -> bytes:
        data = "\n".join(self._lines[self._at : end]).encode("utf-8", "surrogateescape")
        self._at = end + 1
        return binascii.a2b_qp(data) if kind == "bqp" else data


def _code(raw: str) -> str:
    """A line without its comment; Malformed when what is left is no text."""
    line = raw.partition("#")[0].rstrip("\r")
    if found := NO_TEXT.search(line):
        raise Malformed(found.start(), "not UTF-8" if found[0] > "\x7f" else "control character")
    return line


def _parse_line(text: str, offset: int) -> Value:
    """The value of a key on its own line; what it looks like says its type."""
    for found in _QUOTED_OR_ASK.finditer(text):
        if found[1]:  # what stands before it means nothing
            return parse_ask(text[found.start() :], offset + found.start())
    if _URL.fullmatch(text):
        return parse_scalar(text)
    scanner = Scanner(text, offset)
    items = scanner.items()
    if text[0] in "'\"[":
        return parse_list(items) if scanner.commas else parse_item(text, offset)
    if any(item.colon >= 0 for item in items):
        return parse_dict(items)
    return parse_list(items) if scanner.commas else parse_scalar(text)


def _parse_block(block: list[_Line], at_line: Callable[[int], None]) -> Value:
    """The value that several indented lines make; the first of them says its type."""
    first = block[0]
    at_line(first.number)
    if not first.text.endswith(","):
        if len(block) > 1:
            return "\n".join(line.text for line in block)
        return {} if first.text == ":" else parse_item(first.text, first.offset)
    head = Scanner(first.text, first.offset, lenient=True).items()
    is_dict = any(item.colon >= 0 for item in head)
    pairs: dict[str, Value] = {}
    listed: list[Value] = []
    for line in block:
        at_line(line.number)
        items = Scanner(line.text, line.offset, lenient=True).items()
        if is_dict:
            pairs |= parse_dict(items)
        else:
            listed += parse_list(items)
    return pairs if is_dict else listed
