"""HRD as text: values -> the one canonical spelling. Serves ``Hrd``.

Keys sorted and padded to 30, lists and dicts as indented lines, a blank line after each of
them (the parser of 2015 needs it) and between the groups of a first label.
What it writes, the reader reads back as the same values.
"""

import binascii
import re
from collections.abc import Mapping, Sequence

from aysfs.build.hrd.ask import Ask
from aysfs.build.hrd.reader import BINARY_END
from aysfs.build.hrd.scalars import format_scalar, quote
from aysfs.build.hrd.values import Value, format_item

# A line of a text over several lines: nothing that is stripped, cut off or passed over.
_TEXT_LINE = re.compile(r"[!-\"$-?A-~](?:[ !-\"$-~]*[!-\"$-~])?")


def write_hrd(header: Sequence[str], values: Mapping[str, Value]) -> str:
    """The text of these values. A value that HRD cannot hold has been refused by ``set``."""
    lines = list(header)
    group, long = "", False
    for key in sorted(values):
        label = key.partition(".")[0]
        entry = _entry(key, values[key])
        if lines and (group != label or long):
            lines.append("")
        group, long = label, len(entry) > 1
        lines += entry
    return "".join(f"{line}\n" for line in lines)


def format_line(value: object) -> str:
    """A value in one line, for messages, substitution and ``get_str``."""
    if isinstance(value, dict):
        return ", ".join(f"{key}:{format_line(one)}" for key, one in value.items())
    if isinstance(value, list):
        return ", ".join(map(format_line, value))
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, Ask):
        return value.text
    return "" if value is None else str(value)


def _entry(key: str, value: Value) -> list[str]:
    name = key.ljust(30)
    if isinstance(value, bytes):
        encoded = binascii.b2a_qp(value, quotetabs=True, istext=False).decode("ascii")
        return [f"{name} = bqp", *encoded.replace("#", "=23").split("\n"), BINARY_END]
    if isinstance(value, dict | list) and not value:
        return [f"{name} = {':' if isinstance(value, dict) else ','}"]
    if isinstance(value, dict):
        items = [f"{one}:{_dict_value(value[one])}" for one in value]
        return [f"{name} =", *(f"    {item}," for item in items)]
    if isinstance(value, list):
        return [f"{name} =", *(f"    {format_item(item)}," for item in value)]
    if isinstance(value, str) and _is_block(lines := value.split("\n")):
        return [f"{name} =", *(f"    {line}" for line in lines)]
    if isinstance(value, str) and value in ("", "b", "bqp"):
        return [f"{name} = {quote(value)}"]
    return [f"{name} = {value.text if isinstance(value, Ask) else format_scalar(value)}"]


def _dict_value(value: Value) -> str:
    return "" if value == "" else format_item(value)


def _is_block(lines: list[str]) -> bool:
    """Whether a text of several lines can stand as it is."""
    return (
        len(lines) > 1
        and not lines[0].endswith(",")
        and all(_TEXT_LINE.fullmatch(line) for line in lines)
    )
