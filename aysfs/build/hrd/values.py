"""The values of HRD and how a line falls into items.

Serves the reader and the writer. A value is a scalar, bytes, a question, or a list or dict of
scalars; a dict may hold lists, written ``[a,b]``. Booleans stay the text they are written as,
so that ``link:True`` is kept as it came; ``get_bool`` and ``get_dict`` make them booleans.
"""

import re
from typing import NamedTuple

from aysfs.build.hrd.ask import Ask, parse_ask
from aysfs.build.hrd.scalars import (
    NO_TEXT,
    QUOTES,
    Malformed,
    Scalar,
    format_scalar,
    is_stray,
    parse_plain,
    parse_scalar,
)

Value = Scalar | bytes | Ask | list["Value"] | dict[str, "Value"]

DICT_KEY = re.compile(r"[\w./$()][\w./$()+-]*", re.ASCII)

_OPENS_AFTER = " \t=(:,["  # an apostrophe inside a word is no quote
_SWALLOWED = re.compile(r",\s*[\w.]+\s*:")
_LIST = re.compile(r"\[.*\]", re.DOTALL)


class Item(NamedTuple):
    """One item between commas: its text, where it is, and its first colon outside quotes (-1)."""

    text: str
    offset: int
    colon: int

    @property
    def key(self) -> str:
        return self.text[: self.colon].strip()

    @property
    def value(self) -> str:
        return self.text[self.colon + 1 :].strip()


class Scanner:
    """Splits a line at the commas outside quotes and brackets.

    ``lenient`` lines, those of a block, hold one item for each line by custom: a quote that is
    never closed then ends with its line. Elsewhere it would swallow its neighbours.
    """

    def __init__(self, text: str, offset: int = 0, *, lenient: bool = False) -> None:
        self._text = text
        self._offset = offset
        self._lenient = lenient
        self.commas = 0
        self._brackets = True  # until one is never closed: looking again would take for ever

    def items(self) -> list[Item]:
        """The items that are not empty, in order."""
        text = self._text
        found = []
        start = at = 0
        mark, colon, fresh = "", -1, True
        while at <= len(text):
            char = text[at : at + 1]
            if char in ("", ","):
                found.append(self._item(start, at, colon, mark))
                self.commas += char == ","
                start = at + 1
                mark, colon, fresh = "", -1, True
            elif char == ":" and colon < 0 and not mark:
                colon, fresh = at - start, True
            elif char in QUOTES:
                mark = char if fresh else mark
                at, fresh = self._quoted(at, fresh, mark), False
            elif char == "[" and fresh and self._brackets:
                at, fresh = self._bracketed(at), False
            elif char not in " \t":
                fresh = False
            at += 1
        return [item for item in found if item.text]

    def _item(self, start: int, end: int, colon: int, mark: str) -> Item:
        raw = self._text[start:end]
        text = raw.lstrip(" \t")
        before = len(raw) - len(text)
        item = Item(text.rstrip(" \t"), self._offset + start + before, max(colon - before, -1))
        closed = item.text.endswith(mark) and item.text.count(mark) == 2
        if mark and not closed and _SWALLOWED.search(item.text):
            raise Malformed(item.offset, "a quote is not closed: the next item is inside it")
        return item

    def _quoted(self, at: int, fresh: bool, mark: str) -> int:
        """The offset of the last character that the quote at ``at`` hides."""
        text = self._text
        if not fresh and mark:
            if text[at] != mark or is_stray(text, at):
                return at
        elif not fresh and text[at - 1] not in _OPENS_AFTER:
            return at
        end = text.find(text[at], at + 1)
        if end >= 0:
            return end
        if not fresh and not mark:
            return at
        if not self._lenient or _SWALLOWED.search(text, at):
            raise Malformed(self._offset + at, "the quote is not closed")
        return len(text.rstrip(", \t")) - 1

    def _bracketed(self, at: int) -> int:
        """The offset of the bracket that closes the one at ``at``, or ``at`` for mere text."""
        text = self._text
        end = at + 1
        while end < len(text) and text[end] != "]":
            if text[end] in QUOTES and text[end - 1] in _OPENS_AFTER:
                end = max(text.find(text[end], end + 1), end)
            end += 1
        self._brackets = end < len(text) and is_stray(text, end)
        return end if self._brackets else at


def parse_item(text: str, offset: int) -> Value:
    """The value of one item: a question, a list in brackets, or a scalar."""
    if text[:4].lower() == "@ask":
        return parse_ask(text, offset)
    if _LIST.fullmatch(text):
        items = Scanner(text[1:-1], offset + 1).items()
        return [parse_scalar(item.text) for item in items]
    return parse_scalar(text)


def parse_list(items: list[Item]) -> list[Value]:
    """Items without keys. A question has no name to be asked by in a list."""
    for item in items:
        if item.text[:4].lower() == "@ask":
            raise Malformed(item.offset, "@ASK cannot stand in a list")
    return [parse_item(item.text, item.offset) for item in items]


def parse_dict(items: list[Item]) -> dict[str, Value]:
    """Items ``key:value``; a lone ``:`` is the empty dict. A key given twice: the last counts."""
    if [item.text for item in items] == [":"]:
        return {}
    found: dict[str, Value] = {}
    for item in items:
        if item.colon < 0:
            raise Malformed(item.offset, "an item of a dict is `key:value`")
        key = parse_scalar(item.key) if item.key[:1] in ("'", '"') else item.key
        if not isinstance(key, str) or not DICT_KEY.fullmatch(key):
            raise Malformed(item.offset, "bad key of an item")
        value_at = item.offset + item.colon + 1
        found[key] = parse_item(item.value, value_at)
    return found


def format_item(value: Value) -> str:
    """One item of a list or dict as text, without its comma."""
    if isinstance(value, Ask):
        return value.text
    if isinstance(value, list):
        return f"[{','.join(format_item(one) for one in value)}]"
    if isinstance(value, dict | bytes):
        raise TypeError("not a value that an item can hold")  # check_value came before
    text = format_scalar(value)
    return text or "''"


def check_value(value: object) -> Value:
    """A value as HRD can hold it, or ValueError with the reason. Booleans become their text."""
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str) or not DICT_KEY.fullmatch(key):
                raise ValueError(f"bad key in a dict: {show(str(key))}")
        return {
            key: one if isinstance(one, Ask) else _check_item(one, lists=True)
            for key, one in value.items()
        }
    if isinstance(value, list | tuple):
        return [_check_item(one, lists=True) for one in value]
    if isinstance(value, bytes | Ask):
        return value
    return _check_item(value, lists=False)


def _check_item(value: object, *, lists: bool) -> Value:
    if isinstance(value, list | tuple) and lists:
        return [_check_item(one, lists=False) for one in value]
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int | float):
        return value if parse_plain(repr(value)) == value else repr(value)
    if isinstance(value, str):
        if NO_TEXT.search(value.replace("\n", "").replace("\r", "")):
            raise ValueError("a control character, or no Unicode")
        return value
    if value is None:
        return None
    raise ValueError(f"a {type(value).__name__} cannot stand here")


def show(text: str) -> str:
    """A piece of bad input for a message: short, and harmless to a terminal."""
    short = text if len(text) <= 40 else text[:40] + "..."
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in short)
