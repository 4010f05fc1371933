"""``@ASK``: a value that somebody must still give, and what may be given.

Serves instances. Owns the tags of a question and what makes an answer acceptable. Asking
itself is a callback: the command line prompts in a terminal, scripts give arguments.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from aysfs.build.hrd.scalars import Malformed, Scalar, as_bool, parse_scalar, unquote

_TAG = re.compile(r"""(?<![A-Za-z])([A-Za-z]+):\s*('[^']*'|"[^"]*"|\S*)""")
_TYPES = {
    **dict.fromkeys(("str", "string", "date", "email", "tel", "ipaddr", "dropdown"), "str"),
    **dict.fromkeys(("int", "integer"), "int"),
    **dict.fromkeys(("bool", "boolean"), "bool"),
    **{name: name for name in ("float", "list", "dict", "multiline")},
}


@dataclass(frozen=True)
class Ask:
    """One question. ``text`` is all that was written, and all that equality looks at."""

    text: str
    type: str = field(default="str", compare=False)
    name: str = field(default="", compare=False)
    descr: str = field(default="", compare=False)
    default: str | None = field(default=None, compare=False)
    regex: str | None = field(default=None, compare=False)
    retry: int = field(default=1, compare=False)
    minimum: float | None = field(default=None, compare=False)
    maximum: float | None = field(default=None, compare=False)
    choices: tuple[str, ...] = field(default=(), compare=False)

    def refusal(self, answer: str) -> str | None:
        """Why an answer is not acceptable; None when it is."""
        if self.choices and answer not in self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.regex is not None and not re.search(self.regex, answer):
            return f"must match {self.regex}"
        if self.type == "bool" and as_bool(answer) is None:
            return "true or false"
        if self.type not in ("int", "float"):
            return None
        try:
            number = int(answer) if self.type == "int" else float(answer)
        except ValueError:
            return "a whole number" if self.type == "int" else "a number"
        if not math.isfinite(number):
            return "a number"
        if self.minimum is not None and number < self.minimum:
            return f"at least {self.minimum:g}"
        if self.maximum is not None and number > self.maximum:
            return f"at most {self.maximum:g}"
        return None

    def value(self, answer: str) -> Scalar | list[Scalar] | dict[str, Scalar]:
        """An acceptable answer as a value of the type that was asked for."""
        if self.type == "int":
            return int(answer)
        if self.type == "float":
            return float(answer)
        if self.type == "bool":
            return str(as_bool(answer))
        items = [item.strip() for item in answer.split(",") if item.strip()]
        if self.type == "list":
            return [parse_scalar(item) for item in items]
        if self.type == "dict":
            pairs = (item.partition(":") for item in items)
            return {key.strip(): parse_scalar(value.strip()) for key, _, value in pairs}
        return answer


Asker = Callable[[str, Ask], str]
"""Asks a person: the key and the question give the answer."""


def parse_ask(text: str, offset: int = 0) -> Ask:
    """Read ``@ASK`` with its tags; what stands between them is kept, and means nothing."""
    tags = {}
    for match in _TAG.finditer(text):
        raw = match[2].rstrip(",")
        quoted = raw[:1] in ("'", '"')
        tags[match[1].lower()] = (
            raw[1:-1] if quoted and match[1].lower() == "regex" else _plain(raw)
        )
    try:
        kind = _TYPES[tags.get("type", "str").lower()]
        minimum, maximum = (_number(tags.get(tag)) for tag in ("minvalue", "maxvalue"))
        retry = int(tags.get("retry") or 1)
        if regex := tags.get("regex"):
            re.compile(regex)
    except KeyError:
        raise Malformed(offset, f"@ASK of no type that is known: {tags['type']!r}") from None
    except ValueError as error:
        raise Malformed(offset, f"@ASK with no number: {error}") from None
    except (re.error, RecursionError, OverflowError):
        raise Malformed(offset, "@ASK with a regex that is none") from None
    return Ask(
        text,
        kind,
        tags.get("name", ""),
        tags.get("descr", "").replace("__", " "),
        tags.get("default"),
        regex or None,
        min(max(retry, 1), 100),
        minimum,
        maximum,
        tuple(item.strip() for item in tags.get("dropdownvals", "").split(",") if item.strip()),
    )


def _plain(raw: str) -> str:
    return unquote(raw) if raw[:1] in ("'", '"') else raw


def _number(text: str | None) -> float | None:
    return float(text) if text else None
