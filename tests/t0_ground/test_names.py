"""The grammar of service names: what is a name, and every way not to be one."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aysfs.errors import BadName
from aysfs.names import DEFAULT_DOMAIN, ServiceName, parse_name

PART = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True)
# A domain that ends in `_` would move the split: `a_` and `x` are read back as `a` and `_x`.
DOMAIN = PART.filter(lambda text: "__" not in text and not text.endswith("_"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("redis", ServiceName(DEFAULT_DOMAIN, "redis")),
        ("jumpscale__base", ServiceName("jumpscale", "base")),
        ("redis@v1.0", ServiceName(DEFAULT_DOMAIN, "redis", "v1.0")),
        ("a__b@c", ServiceName("a", "b", "c")),
        ("0", ServiceName(DEFAULT_DOMAIN, "0")),
        ("a.b-c_d__e_f.g", ServiceName("a.b-c_d", "e_f.g")),
        ("a__b__c", ServiceName("a", "b__c")),
    ],
)
def test_a_name_is_domain_name_and_tag(text: str, expected: ServiceName) -> None:
    assert parse_name(text) == expected


def test_a_full_name_splits_at_its_first_double_underscore() -> None:
    assert parse_name("a__b__c__d") == ServiceName("a", "b__c__d")


def test_a_bare_name_is_the_given_default_domains() -> None:
    assert str(parse_name("redis", "acme")) == "acme__redis"
    assert str(parse_name("jumpscale__redis", "acme")) == "jumpscale__redis"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "bad name ``"),
        ("X", "bad name `X`"),
        (".hidden", "bad name `.hidden`"),
        ("-option", "bad name `-option`"),
        ("_a", "bad name `_a`"),
        ("a b", "bad name `a b`"),
        ("a\n", "bad name `a\n`"),
        ("a/b", "bad name `a/b`"),
        ("..", "bad name `..`"),
        ("\N{LATIN SMALL LETTER E WITH ACUTE}", "bad name"),
        ("a\N{ARABIC-INDIC DIGIT ONE}", "bad name"),
        ("a__", "bad name ``"),
        ("__a", "bad domain ``"),
        ("A__a", "bad domain `A`"),
        ("a___b", "bad name `_b`"),
        ("a@", "bad tag ``"),
        ("a@B", "bad tag `B`"),
        ("a@b@c", "bad tag `b@c`"),
        ("@v1", "bad name ``"),
    ],
)
def test_what_is_no_name_is_refused_with_the_part_that_is_wrong(text: str, what: str) -> None:
    with pytest.raises(BadName, match=re.escape(what)) as caught:
        parse_name(text)
    assert f"`{text}`" in str(caught.value)
    assert caught.value.hint is not None


@given(domain=DOMAIN, name=PART, tag=st.none() | PART)
def test_a_written_name_reads_back_as_itself(domain: str, name: str, tag: str | None) -> None:
    service = ServiceName(domain, name, tag)
    assert parse_name(str(service)) == service


@given(st.text())
def test_any_text_is_a_name_of_the_grammar_or_refused(text: str) -> None:
    try:
        service = parse_name(text)
    except BadName:
        return
    assert "__" not in service.domain
    for part in (service.domain, service.name, service.tag or "0"):
        assert re.fullmatch(r"[a-z0-9][a-z0-9._-]*", part)
    assert "/" not in str(service)
    assert parse_name(str(service)) == service
