"""Which imports of a module's text run when it is imported."""

import ast
import sysconfig
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aysfs.references.python import MOST_IMPORTS, MOST_LEVEL, Import, imports

OF_PLAIN = Import(0, b"a", ())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"import a", [OF_PLAIN]),
        (b"import a as b # c", [OF_PLAIN]),
        (b"import a.b.c, d as e,f\n", [Import(0, one, ()) for one in (b"a.b.c", b"d", b"f")]),
        (b"import a, \\\n   b\n", [OF_PLAIN, Import(0, b"b", ())]),
        (b"import \\\n a\n", [OF_PLAIN]),
        (b"import a; from b import c; d()\n", [OF_PLAIN, Import(0, b"b", (b"c",))]),
        (b"import a;\timport b", [OF_PLAIN, Import(0, b"b", ())]),
        (b"from a import b, c as d\n", [Import(0, b"a", (b"b", b"c"))]),
        (b"from a import *\n", [Import(0, b"a", ())]),
        (b"from . import b", [Import(1, b"", (b"b",))]),
        (b"from .import b", [Import(1, b"", (b"b",))]),
        (b"from...a.b import c", [Import(3, b"a.b", (b"c",))]),
        (b"from . . a import c", [Import(2, b"a", (b"c",))]),
        (b"from a import(b)", [Import(0, b"a", (b"b",))]),
        (b"from important import important", [Import(0, b"important", (b"important",))]),
        (b"from a \\\n  import b", [Import(0, b"a", (b"b",))]),
        (b"from a import b, \\\n  c\nx", [Import(0, b"a", (b"b", b"c"))]),
        (
            b"from a import ( # noqa (b), x\n  c, # d, e\n\n  # f\n  g as h,\n)\nimport a",
            [Import(0, b"a", (b"c", b"g")), OF_PLAIN],
        ),
        (b"from a import (b,\nc); import a", [Import(0, b"a", (b"b", b"c")), OF_PLAIN]),
        ("from é import ü".encode(), [Import(0, "é".encode(), ("ü".encode(),))]),
        (b"\xef\xbb\xbfimport a", [OF_PLAIN]),
        (b"x = 1\r\nimport a\r\n", [OF_PLAIN]),
        (b"x = 1\rimport a\r", [OF_PLAIN]),
        (b"from a import (\r\n  b,\r\n  c\r\n)\r\n", [Import(0, b"a", (b"b", b"c"))]),
    ],
)
def test_an_import_is_read_as_it_may_be_written(text: bytes, expected: list[Import]) -> None:
    assert imports(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        b"try:\n    import a\nexcept ImportError:\n    pass",
        b"try:\n    pass\nfinally:\n\timport a",
        b"try: import a\nexcept ImportError: pass",
        b"if x:\n    pass\nelif y:\n    import a",
        b"if x:\n    pass\nelse:\n    import a",
        b"if not TYPE_CHECKING:\n    import a",
        b"if TYPE_CHECKING:\n    import b\nelse:\n    import a",
        b"if x:\n    def f():\n        import b\n    import a",
        b"if x:\n    if TYPE_CHECKING:\n        import b\n    if y:\n        import a",
        b"if x:\n# why\n\n    import a",
        b"with x:\n    import a",
        b"if (\n    x\n):\n    import a",
        b"if os.name != 'nt':\n    import a",
        b"def f():\n    import b\nimport a",
        b"class A:\n  import b\nimport a",
    ],
)
def test_what_runs_at_the_import_counts(text: bytes) -> None:
    assert imports(text) == [OF_PLAIN]


@pytest.mark.parametrize(
    "text",
    [
        b"def f():\n    import a",
        b"async def f():\n    if x:\n        import a",
        b"class A:\n    def f(self):\n        import a",
        b"if TYPE_CHECKING:\n    import a",
        b"if typing.TYPE_CHECKING:\n    from a import b\n    if x:\n        import c",
        b"if TYPE_CHECKING: import a",
        b"if __name__ == '__main__':\n    import a\n    import b",
        b"if False:\n    import a",
        b"if sys.platform == 'win32':\n    import a",
        b'if os.name == "nt":\n    import a',
        b"try:\n    def f():\n        import a\nfinally:\n    pass",
        b"# import a",
        b"x = 1 # import a",
        b"important = 1",
        b"from a",
        b"from import b",
        b"import",
        b"importlib.import_module('a')",
        b"from " + b"." * (MOST_LEVEL + 1) + b"a import b",
        b"",
    ],
)
def test_what_does_not_run_does_not_count(text: bytes) -> None:
    assert imports(text) == []


def outermost(body: list[ast.stmt]) -> list[Import]:
    """The imports that stand below nothing at all."""
    found = []
    for one in body:
        if isinstance(one, ast.Import):
            found += [Import(0, alias.name.encode(), ()) for alias in one.names]
        elif isinstance(one, ast.ImportFrom):
            names = tuple(alias.name.encode() for alias in one.names if alias.name != "*")
            found.append(Import(one.level, (one.module or "").encode(), names))
    return found


@pytest.mark.parametrize("package", ["asyncio", "concurrent", "email", "importlib", "json"])
def test_no_import_of_the_standard_library_is_missed(package: str) -> None:
    sources = sorted((Path(sysconfig.get_path("stdlib")) / package).rglob("*.py"))
    assert sources
    for path in sources:
        text = path.read_bytes()
        found = imports(text)
        wanted = outermost(ast.parse(text).body)
        assert [one for one in found if one in wanted] == wanted, path


HOSTILE = [
    *(b"if\n", b"if\n)if\n", b"import a;", b"import a,", b"from x import (\n", b"from . \\\n"),
    *(b"from \\\n", b"try: import a\n", b"if x:\n    import b\n    def f():\n", b"import \\\n"),
    *(b"from a import (b, # (c,\n", b"import " + b"a." * 1000, b"\r", b". ", b"from x import (#"),
]


@pytest.mark.parametrize("start", [b"import\n", b"if x:\n import\n", b"from x import ("])
def test_no_text_takes_longer_than_its_length(start: bytes) -> None:
    """A mebibyte of each takes milliseconds; what is not in proportion would take hours."""
    for part in HOSTILE:
        began = time.process_time()
        assert len(imports(start + part * ((1 << 20) // len(part)))) <= MOST_IMPORTS
        assert time.process_time() - began < 5, part


words = st.sampled_from(
    [
        *(b"import ", b"from ", b"a", b".", b",", b"(", b")", b"#", b"\\\n", b"\n", b"\r\n"),
        *(b"    ", b"\t", b";", b":", b"if ", b"try:", b"def f():", b"TYPE_CHECKING", b"as "),
        *(b"\xff", b"\xef\xbb\xbf", b"'''", b"*", b"\0"),
    ]
)


@given(st.lists(words, max_size=60).map(b"".join))
def test_any_text_gives_names_and_no_more(text: bytes) -> None:
    found = imports(text)
    assert len(found) <= MOST_IMPORTS
    for level, module, names in found:
        assert 0 <= level <= MOST_LEVEL
        assert module or level
        assert not {0x0A, 0x20, 0x2C, 0x2F} & set(b"".join((module, *names)))


identifiers = st.from_regex(r"[a-z_][a-z0-9_]{0,5}", fullmatch=True)
dotted = st.lists(identifiers, min_size=1, max_size=3).map(".".join)
spaces = st.sampled_from([" ", "\t", "  ", " \\\n "])


@st.composite
def statements(draw: st.DrawFn) -> str:
    """An import, written in any way that Python takes."""
    space = draw(spaces)
    if draw(st.booleans()):
        modules = draw(st.lists(dotted, min_size=1, max_size=3))
        return f"import{space}" + f",{space}".join(modules)
    level = draw(st.integers(0, 3))
    module = draw(dotted) if level == 0 or draw(st.booleans()) else ""
    names = draw(st.lists(identifiers, min_size=1, max_size=4))
    if draw(st.booleans()):
        names = [f"{name}{space}as x" for name in names]
    listed = f",{space}".join(names)
    if draw(st.booleans()):
        listed = "(\n" + ", # see (a), b\n  ".join(names) + draw(st.sampled_from([")", ",\n)"]))
    return f"from{space}{'.' * level}{module}{space}import{space}{listed}"


@given(st.lists(statements(), max_size=4), st.sampled_from(["\n", "\n\n", "; ", "  # c\n"]))
def test_imports_are_those_that_python_reads(texts: list[str], between: str) -> None:
    text = between.join(texts) + "\n"
    try:
        wanted = outermost(ast.parse(text).body)
    except SyntaxError:  # a keyword as a name
        return
    assert imports(text.encode()) == wanted
