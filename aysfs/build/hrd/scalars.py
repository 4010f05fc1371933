r"""One value without structure: text <-> str, int, float or None.

Serves the reader, the writer and the answers to ``@ASK``. Owns escapes, quotes and the plain
spelling. The escapes ``\K \D \S \Q \N \n`` (comma, colon, space, ``"``, newline) are the
format's own; it has none for what else cannot stand in a line, so ``\H \A \B \T \R`` (``#``,
``'``, backslash, tab, carriage return) are written by this project.
"""

import re

Scalar = str | int | float | None

QUOTES = "'\""

_ESCAPES = {
    "K": ",",
    "D": ":",
    "S": " ",
    "Q": '"',
    "N": "\n",
    "n": "\n",
    "H": "#",
    "A": "'",
    "B": "\\",
    "T": "\t",
    "R": "\r",
}
_ESCAPE = re.compile(rf"\\([{''.join(_ESCAPES)}])")
_MUST_ESCAPE = re.compile(rf"[\n#'\t\r]|\\(?=[{''.join(_ESCAPES)}])")
_WRITTEN = {"\n": r"\N", "#": r"\H", "'": r"\A", "\t": r"\T", "\r": r"\R", "\\": r"\B"}

NO_TEXT = re.compile("[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")
"""What a line cannot hold: control characters, and the traces of bytes that are not UTF-8."""

_INT = re.compile(r"0|-?[1-9][0-9]{0,17}")
_FLOAT = re.compile(r"-?[0-9]+\.[0-9]+")
_NONE = ("none", "None", "empty")
_STRAY = re.compile(r"[ \t]*(?:[,\]]|\Z)")
_PLAIN = re.compile(r"[\w./$()+%~=;-]+(?: [\w./$()+%~=;-]+)*", re.ASCII)


class Malformed(Exception):
    """What is wrong in a line, and at which offset into it. The reader adds file and line."""

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(reason)
        self.offset = offset
        self.reason = reason


def unescape(text: str) -> str:
    """The text that an escaped one stands for."""
    return _ESCAPE.sub(lambda match: _ESCAPES[match[1]], text)


def quote(text: str) -> str:
    """The text between quotes, in one line, as ``unquote`` reads it back."""
    return f"'{_MUST_ESCAPE.sub(lambda match: _WRITTEN[match[0]], text)}'"


def is_stray(text: str, at: int) -> bool:
    """Whether a quote only follows the closing one: nothing but the end of the item is left."""
    return _STRAY.match(text, at + 1) is not None


def unquote(text: str) -> str:
    r"""What a text that starts with a quote stands for.

    Real recipes close a quote in the middle of a path (``'/opt/kvm'/bin``) or forget to: the
    pieces belong together, so the quotes merely go. One that is meant is written ``\A``.
    """
    return unescape(text.replace(text[0], ""))


def parse_plain(text: str) -> Scalar:
    """An unquoted text: a number when it is written as we would write it, none, or text."""
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text) and repr(float(text)) == text:
        return float(text)
    if text in _NONE:
        return None
    return unescape(text)


def parse_scalar(text: str) -> Scalar:
    """A value without structure, quoted or not."""
    return unquote(text) if text[:1] in ("'", '"') else parse_plain(text)


def format_scalar(value: Scalar) -> str:
    """The canonical spelling, which ``parse_scalar`` reads back as the same value."""
    if value is None:
        return "none"
    if not isinstance(value, str):
        return repr(value)
    if _PLAIN.fullmatch(value) and parse_plain(value) == value:
        return value
    return quote(value)


def as_bool(value: object) -> bool | None:
    """Whether a value says yes, says no, or neither (None)."""
    match str(value).strip().lower():
        case "true" | "1" | "yes" | "on":
            return True
        case "false" | "0" | "no" | "off" | "" | "none":
            return False
    return None
