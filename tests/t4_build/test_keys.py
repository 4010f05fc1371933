"""The grammar of service keys: every part optional, one spelling back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aysfs.build.keys import ServiceKey, parse_key
from aysfs.errors import BadName

PART = st.from_regex(r"[a-z0-9_][a-z0-9._-]{0,8}", fullmatch=True)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("redis", ServiceKey(name="redis", role="redis")),
        ("!main", ServiceKey(instance="main")),
        ("node.ssh!buildserver", ServiceKey(None, "node.ssh", "buildserver", "node")),
        ("Node.SSH!BuildServer", ServiceKey(None, "node.ssh", "buildserver", "node")),
        ("jumpscale|redis!main", ServiceKey("jumpscale", "redis", "main", "redis")),
        ("@node", ServiceKey(role="node")),
        ("!x@node", ServiceKey(instance="x", role="node")),
        ("a.b@c", ServiceKey(name="a.b", role="c")),
        ("d|n!i@r (1.0)", ServiceKey("d", "n", "i", "r", "1.0")),
        (" n(2) ", ServiceKey(name="n", role="n", version="2")),
        ("(2)", ServiceKey(version="2")),
    ],
)
def test_a_key_has_its_parts_in_lower_case(text: str, key: ServiceKey) -> None:
    assert parse_key(text) == key


@pytest.mark.parametrize(
    "text",
    ["", " ", "!", "@", "|a", "a|b|c", "a!b!c", "a@b@c", "a b", "a/b", "..", "a!../b", "a ()", "é"],
)
def test_what_is_no_key_is_refused_by_name(text: str) -> None:
    with pytest.raises(BadName, match="is no key of a service") as caught:
        parse_key(text)
    assert f"`{text}`" in str(caught.value)
    assert caught.value.hint is not None


def test_a_role_that_the_name_implies_is_not_written() -> None:
    assert str(parse_key("node.ssh!x@node")) == "node.ssh!x"
    assert str(parse_key("node.ssh!x@other")) == "node.ssh!x@other"


@given(
    *(st.none() | PART for _ in range(4)), st.none() | st.from_regex(r"[a-z0-9.]+", fullmatch=True)
)
def test_a_written_key_reads_back_as_itself(
    domain: str | None,
    name: str | None,
    instance: str | None,
    role: str | None,
    version: str | None,
) -> None:
    key = ServiceKey(domain, name, instance, role or (name and name.partition(".")[0]), version)
    if any(key) and (name or not domain):
        assert parse_key(str(key)) == key


@given(st.text())
def test_any_text_is_a_key_or_refused(text: str) -> None:
    try:
        key = parse_key(text)
    except BadName:
        return
    assert parse_key(str(key)) == key
