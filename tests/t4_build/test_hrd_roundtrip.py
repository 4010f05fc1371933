"""Any bytes are HRD or a BadHrd with its place; what is HRD is written so that it reads back."""

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aysfs.build.hrd import Hrd
from aysfs.errors import BadHrd

RECIPES = sorted((Path(__file__).parent / "recipes").glob("*.hrd"))
CASES = 3000
FRAGMENTS = [
    *(b"'", b'"', b",", b":", b"=", b"#", b"\n", b"\r\n", b"\n\n", b"\n    ", b"\t", b"[", b"]"),
    *(b"@ASK", b"@ASK,\n", b"$(git.url)", b"$(", b"\\K", b"\\B", b"\\", b"\xff", b"\xc3\xa9"),
    *(b"= b\n", b"= bqp\n", b"#BINARYEND#########\n", b"none", b"1.50", b"[a,b],", b"x:y,"),
]  # fmt: skip


def check(data: bytes) -> bool:
    """Whether the bytes are HRD. Raises for everything that must not happen."""
    try:
        hrd = Hrd.parse(data, source="fuzz")
    except BadHrd as refused:
        refusal = refused
    else:
        text = hrd.dump()
        again = Hrd.parse(text, source="again")
        assert again == hrd
        assert again.header == hrd.header
        assert again.dump() == text
        return True
    assert refusal.source == "fuzz"
    assert 1 <= refusal.line <= data.count(b"\n") + 1
    assert 1 <= refusal.column <= len(data.split(b"\n")[refusal.line - 1]) + 1
    assert refusal.reason.isprintable()
    return False


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_real_recipe_survives_writing_and_reading(path: Path) -> None:
    assert check(path.read_bytes())


def test_the_canonical_text_is_pinned() -> None:
    recipes = Path(__file__).parent / "recipes"
    assert Hrd.read(recipes / "others.hrd").dump() == (recipes / "others.dump").read_text()


def mutate(source: random.Random, data: bytes, other: bytes) -> bytes:
    """One to four small damages."""
    changed = bytearray(data)
    for _ in range(source.randint(1, 4)):
        at = source.randrange(len(changed) + 1)
        match source.randrange(5):
            case 0:
                changed[at : at + 1] = bytes((source.randrange(256),))
            case 1:
                del changed[at : at + source.randint(1, 20)]
            case 2:
                changed[at:at] = source.choice(FRAGMENTS)
            case 3:
                start = source.randrange(len(other))
                changed[at:at] = other[start : start + source.randint(1, 80)]
            case _:
                lines = changed.splitlines(keepends=True)
                source.shuffle(lines)
                changed = bytearray(b"".join(lines[: source.randint(1, 20)]))
    return bytes(changed)


def test_damaged_recipes_are_read_or_refused() -> None:
    source = random.Random(20151204)
    recipes = [path.read_bytes() for path in RECIPES]
    accepted = sum(
        check(mutate(source, source.choice(recipes), source.choice(recipes))) for _ in range(CASES)
    )
    assert 50 < accepted < CASES - 50, "the damages say nothing when all or none are refused"


def test_every_cut_of_a_recipe_is_read_or_refused() -> None:
    for path in RECIPES:
        data = path.read_bytes()
        for length in range(len(data)):
            check(data[:length])


@given(st.binary())
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for text in (data, b"a = " + data, b"a =\n    " + data, b"a =\n    x:1,\n    y:" + data):
        check(text)


@given(st.lists(st.sampled_from(FRAGMENTS) | st.binary(max_size=3), max_size=12))
def test_any_fragments_are_read_or_refused(fragments: list[bytes]) -> None:
    data = b"".join(fragments)
    check(data)
    check(b"a = x" + data)


texts = st.one_of(
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20),
    st.lists(st.sampled_from([*"\\KDSQNHABTR',:# \n[]@$()b=;", "bqp", "none", "1"])).map("".join),
    st.sampled_from(["b", "bqp", ":", ",", "@ASK", "none", "1", "1.5", "True", "x,\ny", " ", "\\"]),
)
scalars = st.one_of(texts, st.integers(), st.floats(allow_nan=False), st.none(), st.booleans())
leaves = scalars | st.lists(scalars, max_size=3)
keys = st.from_regex(r"[a-z0-9_][a-z0-9_.-]{0,8}", fullmatch=True)
item_keys = st.from_regex(r"[A-Za-z0-9_./$()][A-Za-z0-9_./$()+-]{0,8}", fullmatch=True)
values = st.one_of(
    scalars, st.binary(), st.lists(leaves, max_size=4), st.dictionaries(item_keys, leaves)
)


@given(st.dictionaries(keys, values))
def test_whatever_can_be_set_survives_writing_and_reading(given_values: dict[str, object]) -> None:
    hrd = Hrd(given_values)
    text = hrd.dump()
    assert Hrd.parse(text) == hrd
    assert Hrd.parse(text).dump() == text
