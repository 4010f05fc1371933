"""One HRD: named values with their conversions, ``$(name)`` and questions.

Serves templates, instances and the actions of services, which know the camel-case names of
2015. Reads files, never writes one: who keeps a file knows its mode and its lock.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn, Self, TypeVar

from aysfs.build.hrd.ask import Ask, Asker
from aysfs.build.hrd.reader import KEY, MAX_SIZE, HrdReader
from aysfs.build.hrd.scalars import as_bool
from aysfs.build.hrd.secrets import masked
from aysfs.build.hrd.substitute import Substitution, TooLarge
from aysfs.build.hrd.values import Value, check_value, show
from aysfs.build.hrd.writer import format_line, write_hrd
from aysfs.errors import BadHrd

Number = TypeVar("Number", int, float)


class Hrd:
    """Values by dotted, lower-case keys. ``parents`` are asked for names that it lacks itself."""

    def __init__(
        self,
        values: Mapping[str, object] | None = None,
        *,
        source: str = "hrd",
        parents: Sequence["Hrd"] = (),
    ) -> None:
        self.source = source
        self.parents = tuple(parents)
        self.header: list[str] = []
        self._values: dict[str, Value] = {}
        self._lines: dict[str, int] = {}
        for key, value in (values or {}).items():
            self.set(key, value)

    @classmethod
    def parse(
        cls, data: bytes | str, *, source: str = "hrd", parents: Sequence["Hrd"] = ()
    ) -> Self:
        """Read a text; BadHrd with line and column for what is none."""
        raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
        parsed = HrdReader(raw, source).read()
        hrd = cls(source=source, parents=parents)
        hrd.header, hrd._values, hrd._lines = parsed.header, parsed.values, parsed.lines
        return hrd

    @classmethod
    def read(cls, path: Path, *, parents: Sequence["Hrd"] = ()) -> Self:
        """Read a file; BadHrd when it cannot be read, too."""
        try:
            with path.open("rb") as file:
                data = file.read(MAX_SIZE + 1)
        except OSError as error:
            raise BadHrd(str(path), 0, 0, f"cannot be read: {error.strerror}") from None
        return cls.parse(data, source=str(path), parents=parents)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Hrd) and self._values == other._values

    __hash__ = None  # type: ignore[assignment] # it is mutable

    def __repr__(self) -> str:
        return f"<Hrd {self.source}: {len(self._values)} keys>"  # no values: some are secret

    # --- what is there ---------------------------------------------------------------------

    def keys(self) -> list[str]:
        """All keys, sorted."""
        return sorted(self._values)

    def exists(self, key: str) -> bool:
        return key.lower() in self._values

    def line(self, key: str) -> int:
        """The line of a key in its file; 0 for one that was set since."""
        return self._lines.get(key.lower(), 0)

    def prefix(self, key: str, depth: int = 0) -> list[str]:
        """The keys below ``key``, itself included, cut to ``depth`` labels, in natural order."""
        below = key.lower().rstrip(".")
        found = {one for one in self._values if not below or f"{one}.".startswith(f"{below}.")}
        if depth:
            found = {".".join(one.split(".")[:depth]) for one in found}
        return sorted(found, key=_natural)

    def numbered(self, prefix: str) -> list[str]:
        """The keys ``prefix.N`` by their numbers; gaps do not matter."""
        head = f"{prefix.lower().rstrip('.')}."
        return [one for one in self.prefix(prefix) if _is_number(one.removeprefix(head))]

    def items(self, prefix: str) -> list[tuple[int, Value]]:
        """The values of ``prefix.N`` with their numbers."""
        return [(int(one.rpartition(".")[2]), self.get(one)) for one in self.numbered(prefix)]

    # --- reading ---------------------------------------------------------------------------

    def raw(self, key: str) -> Value:
        """A value as it is written, ``$(name)`` included; BadHrd when there is none."""
        if key.lower() not in self._values:
            self.refuse(key, "is not given")
        return self._values[key.lower()]

    def get(self, key: str, default: object = None) -> Value:
        """A value with ``$(name)`` replaced. Without a default it must be there."""
        if default is not None and not self.exists(key):
            return check_value(default)
        value = self.raw(key)
        if isinstance(value, Ask):
            self.refuse(key, "is a question that nobody has answered")
        try:
            return self._substituted(value, Substitution(self._lookup), key.lower())
        except TooLarge:
            self.refuse(key, "grows too large with what $(...) stands for")

    def get_str(self, key: str, default: str | None = None) -> str:
        """A value as text; lists and dicts in one line."""
        return format_line(self.get(key, default)).strip()

    def get_int(self, key: str, default: int | None = None) -> int:
        return self._number(key, default, int, "whole number")

    def get_float(self, key: str, default: float | None = None) -> float:
        return self._number(key, default, float, "number")

    def get_bool(self, key: str, default: bool | None = None) -> bool:
        """true, yes, on and 1, or their opposites; nothing is false."""
        said = as_bool(format_line(self.get(key, default)))
        return self.refuse(key, "is neither true nor false") if said is None else said

    def get_list(self, key: str, default: Sequence[Value] | None = None) -> list[Value]:
        """A list; a text falls into items at its commas."""
        value = self.get(key, None if default is None else list(default))
        if isinstance(value, list):
            return value
        if isinstance(value, dict | bytes):
            self.refuse(key, "is no list")
        if isinstance(value, str):
            return [item.strip() for item in value.split(",") if item.strip()]
        return [] if value is None else [value]

    def get_dict(self, key: str, default: Mapping[str, Value] | None = None) -> dict[str, object]:
        """A dict, its ``true`` and ``false`` as booleans; an empty text is an empty dict."""
        value = self.get(key, None if default is None else dict(default))
        if value is None or value == "":
            return {}
        if not isinstance(value, dict):
            self.refuse(key, "is no dict")
        return {one: _with_bool(item) for one, item in value.items()}

    def apply(self, content: str, args: Mapping[str, object] | None = None) -> str:
        """A text with its ``$(name)`` replaced: from ``args`` first, then from here."""
        given = {key.lower(): str(value) for key, value in (args or {}).items()}

        def lookup(name: str) -> str | None:
            return given[name] if name in given else self._lookup(name)

        try:
            return Substitution(lookup).text(content)
        except TooLarge:
            raise BadHrd(self.source, 0, 0, "$(...) makes a text too large") from None

    # --- changing --------------------------------------------------------------------------

    def set(self, key: str, value: object) -> None:
        """Set a value; BadHrd for a key or a value that HRD cannot hold."""
        name = key.lower()
        if not KEY.fullmatch(name):
            raise BadHrd(self.source, 0, 0, f"bad key `{show(key)}`")
        try:
            self._values[name] = check_value(value)
        except ValueError as error:
            raise BadHrd(self.source, 0, 0, f"`{name}` cannot be set: {error}") from None
        self._lines.pop(name, None)

    def delete(self, key: str) -> None:
        """Remove a key; nothing happens when it is not there."""
        self._values.pop(key.lower(), None)
        self._lines.pop(key.lower(), None)

    def fill(self, args: Mapping[str, object], ask: Asker | None = None) -> None:
        """Answer the questions: from ``args``, which always win, from ``ask``, from defaults."""
        for key, given in args.items():
            self.set(key, given)
        for key in self.keys():
            value = self._values[key]
            if isinstance(value, Ask):
                self.set(key, self._answer(key, value, ask))
            elif isinstance(value, dict):
                answers: dict[str, object] = {
                    name: self._answer(f"{key}.{name}", one, ask) if isinstance(one, Ask) else one
                    for name, one in value.items()
                }
                self.set(key, answers)

    def apply_template(self, template: "Hrd", args: Mapping[str, object]) -> None:
        """Take over a template: its plain values overrule, its questions only fill gaps."""
        for key, value in template._values.items():
            if not isinstance(value, Ask) or key not in self._values:
                self.set(key, value)
        for key, given in args.items():
            self.set(key, given)

    def dump(self) -> str:
        """The canonical text, for a file: secrets are in it."""
        return write_hrd(self.header, self._values)

    def __str__(self) -> str:
        """The canonical text for people: secrets are masked."""
        shown = {key: masked(key, value) for key, value in self._values.items()}
        return write_hrd([], shown)

    # --- inside ----------------------------------------------------------------------------

    def refuse(self, key: str, reason: str) -> NoReturn:
        """Raise BadHrd about a key, with its line."""
        line = self.line(key)
        raise BadHrd(self.source, line, 1 if line else 0, f"`{show(key.lower())}` {reason}")

    def _lookup(self, name: str) -> str | None:
        value = self._values.get(name)
        if name in self._values and not isinstance(value, Ask):
            return format_line(value)
        known = (parent._lookup(name) for parent in self.parents)
        return next((text for text in known if text is not None), None)

    def _substituted(self, value: Value, names: Substitution, key: str) -> Value:
        if isinstance(value, str):
            return names.text(value, (key,)) if "$(" in value else value
        if isinstance(value, list):
            return [self._substituted(one, names, key) for one in value]
        if isinstance(value, dict):
            return {name: self._substituted(one, names, key) for name, one in value.items()}
        return value

    def _number(
        self, key: str, default: Number | None, convert: Callable[[str], Number], what: str
    ) -> Number:
        text = format_line(self.get(key, default))
        try:
            return convert(text)
        except ValueError:
            self.refuse(key, f"is no {what}")

    def _answer(self, key: str, question: Ask, ask: Asker | None) -> object:
        for _ in range(question.retry if ask else 0):
            answer = ask(key, question) if ask else ""
            if question.refusal(answer) is None:
                return question.value(answer)
        if question.default is None:
            self.refuse(key, "needs an answer: give it as an argument")
        if reason := question.refusal(question.default):
            self.refuse(key, f"has a default that is not acceptable: {reason}")
        return question.value(question.default)

    # --- the names of 2015 -----------------------------------------------------------------

    def listAdd(self, key: str, item: object) -> None:  # noqa: N802 - the manual's name
        """Append to a list unless the item is there."""
        items = self.get_list(key, [])
        if item not in items:
            self.set(key, [*items, item])

    def getListFromPrefix(self, prefix: str) -> list[Value]:  # noqa: N802 - the manual's name
        """The values below a prefix, in natural order."""
        return [self.get(key) for key in self.prefix(prefix)]

    def getDictFromPrefix(self, prefix: str) -> dict[str, Value]:  # noqa: N802 - the manual's name
        """The values below a prefix, by the rest of their keys."""
        cut = len(prefix.rstrip(".")) + 1 if prefix else 0
        return {key[cut:]: self.get(key) for key in self.prefix(prefix)}

    def getListFromPrefixEachItemDict(  # noqa: N802 - the manual's name
        self,
        prefix: str,
        musthave: Iterable[str] = (),
        defaults: Mapping[str, Value] | None = None,
    ) -> list[dict[str, object]]:
        """The dicts below a prefix, each with the keys it must have and their defaults."""
        found = []
        for key in self.prefix(prefix):
            item: dict[str, object] = {**dict.fromkeys(musthave, ""), **self.get_dict(key)}
            for name, default in (defaults or {}).items():
                if item.get(name, "") == "":
                    item[name] = default
            found.append(item)
        return found

    getStr, getInt, getFloat, getBool = get_str, get_int, get_float, get_bool  # noqa: N815 - lineage
    getList, getDict = get_list, get_dict  # noqa: N815 - lineage
    applyOnContent = apply  # noqa: N815 - lineage
    applyTemplate = apply_template  # noqa: N815 - lineage


def _with_bool(value: Value) -> object:
    known = {"true": True, "false": False}
    return known.get(value.lower(), value) if isinstance(value, str) else value


def _natural(key: str) -> list[tuple[int, int, str]]:
    return [(0, int(one), one) if _is_number(one) else (1, 0, one) for one in key.split(".")]


def _is_number(label: str) -> bool:
    return re.fullmatch(r"[0-9]{1,18}", label) is not None
