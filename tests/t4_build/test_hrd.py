"""HRD: what each spelling means, what is refused and where, names, questions, the old names."""

import contextlib
from pathlib import Path

import pytest

from aysfs.build.hrd import Ask, Hrd, Value
from aysfs.errors import BadHrd


def one(text: str) -> Value:
    """The value of the only key of a text."""
    hrd = Hrd.parse(text)
    (key,) = hrd.keys()
    return hrd.raw(key)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a = text", "text"),
        ("a=text", "text"),
        ("A  =\ttwo words ", "two words"),
        ("a =", ""),
        ("a = ''", ""),
        ("a = 1", 1),
        ("a = -17", -17),
        ("a = 1.5", 1.5),
        ("a = '1'", "1"),
        ("a = 007", "007"),
        ("a = 1.10", "1.10"),
        ("a = 10.0.0.1", "10.0.0.1"),
        ("a = 123456789012345678901", "123456789012345678901"),
        ("a = none", None),
        ("a = True", "True"),
        ("a = b = c", "b = c"),
        ("a = b", "b"),
        ("a = it's here", "it's here"),
        ("a = http://host:80/x", "http://host:80/x"),
        ('a = "5m"', "5m"),
        ("a = 'x, y: z'", "x, y: z"),
        (r"a = one\Ktwo\Dthree\Sfour\Qfive\Nsix\nseven", 'one,two:three four"five\nsix\nseven'),
        (r"a = \H\A\T\B", "#'\t\\"),
        ("a = x # a comment", "x"),
        ("a = http://x/#top", "http://x/"),
        ("a = 27017;28017", "27017;28017"),
        ("a = x,y", ["x", "y"]),
        ("a = 'x', 'y',", ["x", "y"]),
        ("a = 'x',", ["x"]),
        ("a = ,", []),
        ("a = 3306,,", [3306]),
        ("a = [8500,8302]", [8500, 8302]),
        ("a = :", {}),
        ("a = k:v", {"k": "v"}),
        ("a = k:v, l:1,", {"k": "v", "l": 1}),
        ("a = k:, l:'',", {"k": "", "l": ""}),
        ("a = url:http://x:1/y, s:'a,b',", {"url": "http://x:1/y", "s": "a,b"}),
        ("a = ports:[8500,8302], n:x", {"ports": [8500, 8302], "n": "x"}),
        ("a = c:bash -c 'x, y: z', d:1", {"c": "bash -c 'x, y: z'", "d": 1}),
    ],
)
def test_a_line_says_its_type(text: str, value: Value) -> None:
    assert one(text) == value
    assert type(one(text)) is type(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a =\n    x:1,\n    y:2,\n", {"x": 1, "y": 2}),
        ("a =\n    x:1,\n    y:2", {"x": 1, "y": 2}),
        ("a =\n\tx:1, y:2,\n", {"x": 1, "y": 2}),
        ("a =\n    x:1,   # why\n    # more\n    y:2,\n", {"x": 1, "y": 2}),
        ("a = x:1,\n    y:2,\n", {"x": 1, "y": 2}),
        ("a =\r\n    x:1,\r\n", {"x": 1}),
        ("a =\n    'x',\n    'y: z',\n", ["x", "y: z"]),
        ("a =\n    x\n    y: z,\n", "x\ny: z,"),
        ("a =\n    x\n", "x"),
        ("a =\n    'x'\n", "x"),
        ("a =\n    :\n", {}),
        ("a =\n    x:'/opt/x,\t\n    y:1,\n", {"x": "/opt/x", "y": 1}),
        ("a =\n    x:'/opt/x\n", "x:'/opt/x"),
        ("a =\n    x:'/opt'/x,\n", {"x": "/opt/x"}),
        ("a =\n    x:'/opt'/x',\n    y:1,\n", {"x": "/opt/x", "y": 1}),
        ("a =\n    x:3306,,\n", {"x": 3306}),
        ("a =\n    x:27017;28017,\n", {"x": "27017;28017"}),
    ],
)
def test_indented_lines_make_one_value(text: str, value: Value) -> None:
    assert one(text) == value


def test_a_block_ends_at_a_blank_line_or_at_the_margin() -> None:
    hrd = Hrd.parse("a =\n    x:1,\n\nb =\n    y,\nc = 1\n  d = 2\n")
    assert hrd.keys() == ["a", "b", "c", "d"]
    assert (hrd.raw("b"), hrd.raw("d")) == (["y"], 2)


def test_binary_blocks_are_bytes() -> None:
    hrd = Hrd.parse(
        b"a = bqp\n=00=C3 #\n#BINARYEND#########\nb = b\nx = \xff\n#BINARYEND#########\n"
    )
    assert hrd.raw("a") == b"\0\xc3 #"
    assert hrd.raw("b") == b"x = \xff"


def test_the_comment_at_the_head_is_kept_and_others_are_not() -> None:
    text = "# one\n#two\n\na = 1 # three\n# four\nb = 2\n"
    head = "# one\n#two\n\n"
    assert Hrd.parse(text).dump() == f"{head}{'a':30} = 1\n\n{'b':30} = 2\n"


def test_a_line_that_starts_with_an_at_is_passed_over() -> None:
    assert Hrd.parse("@x = 1\na = 2\n").keys() == ["a"]


def test_keys_are_lower_case_and_the_last_one_counts() -> None:
    hrd = Hrd.parse("Git.URL = x\ngit.url = y\n")
    assert hrd.keys() == ["git.url"]
    assert hrd.get_str("GIT.url") == "y"


@pytest.mark.parametrize(
    ("text", "line", "column", "reason"),
    [
        ("a = 1\nb = 'x", 2, 5, "the quote is not closed"),
        ("a = x:1, y:'z, w:2", 1, 12, "the quote is not closed"),
        ("a = x:1, url:'x, dest:'/opt', link:True", 1, 10, "a quote is not closed"),
        ("a =\n    x:'y, z:1,\n", 2, 7, "the quote is not closed"),
        ("a =\n    x:1,\n    oops,\n", 3, 5, "an item of a dict is `key:value`"),
        ("a = x:1, oops", 1, 10, "an item of a dict is `key:value`"),
        ("a =\n  x y:1,\n", 2, 3, "bad key of an item"),
        ("a = 1\n\nwhat is this\n", 3, 1, "neither `key = value` nor"),
        ("  = 1", 1, 3, "bad key ``"),
        ("a b = 1", 1, 1, "bad key `a b`"),
        ("a = \x07", 1, 5, "control character"),
        ("a = @ASK type:stone", 1, 5, "@ASK of no type that is known"),
        ("a = @ASK minvalue:x", 1, 5, "@ASK with no number"),
        ("a = @ASK regex:'('", 1, 5, "@ASK with a regex that is none"),
        ("a =\n    x,\n    y, @ask descr:z,\n", 3, 8, "@ASK cannot stand in a list"),
    ],
)
def test_what_is_refused_has_its_line_and_column(
    text: str, line: int, column: int, reason: str
) -> None:
    with pytest.raises(BadHrd) as caught:
        Hrd.parse(text, source="service.hrd")
    assert str(caught.value).startswith(f"service.hrd:{line}:{column}: {reason}")
    assert (caught.value.line, caught.value.column) == (line, column)


def test_bytes_that_are_no_text_are_refused_where_they_are() -> None:
    with pytest.raises(BadHrd, match=r"^hrd:2:6: not UTF-8$"):
        Hrd.parse(b"a = 1\nb = x\xff\n")


def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(BadHrd, match=r"service\.hrd: cannot be read: No such file"):
        Hrd.read(tmp_path / "service.hrd")


def test_a_refusal_of_a_secret_does_not_show_it() -> None:
    for text in ("p =\n    passwd:'x, y:hunter2\n", "p = a:1, hunter2", "hunter2"):
        with pytest.raises(BadHrd) as caught:
            Hrd.parse(text) if "passwd" not in text else Hrd.parse(text.replace("2\n", "2,\n"))
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("piece", ["'", "[", "[x,", "x:'", "'a'b", "\"'", "a'b ", "@ask", ", y:'"])
def test_a_hostile_line_is_read_or_refused_at_once(piece: str) -> None:
    for start in ("a = x", "a =\n    x:1,\n    y:"):
        with contextlib.suppress(BadHrd):
            Hrd.parse(start + piece * (300_000 // len(piece)) + "]x")


# --- typed reading -----------------------------------------------------------------------

SAMPLE = """
n = 22
f = 1.5
yes = True
no = 0
l = x, 1
d = link:False, ports:[1,2], s:'True story'
text = a, b
base = /opt
path = $(base)/bin/$(unknown.name)
both = p:$(path), q:[$(base)]
"""


def test_values_are_read_by_type() -> None:
    hrd = Hrd.parse(SAMPLE)
    assert hrd.get_int("n") == hrd.getInt("n") == 22
    assert hrd.get_str("n") == hrd.getStr("n") == "22"
    assert hrd.get_float("f") == hrd.getFloat("f") == 1.5
    assert hrd.get_bool("yes") is hrd.getBool("yes") is True
    assert hrd.get_bool("no") is False
    assert hrd.get_list("l") == hrd.getList("l") == ["x", 1]
    assert hrd.get_str("l") == "x, 1"
    assert hrd.get_list("base") == ["/opt"]
    assert hrd.get_dict("d") == {"link": False, "ports": [1, 2], "s": "True story"}
    assert hrd.get_str("d") == "link:False, ports:1, 2, s:True story"


def test_a_default_stands_in_only_where_nothing_is() -> None:
    hrd = Hrd.parse("n = 0\ns = ''\n")
    assert (hrd.get_int("n", 5), hrd.get_int("m", 5)) == (0, 5)
    assert (hrd.get_str("s", "x"), hrd.get_str("t", "")) == ("", "")
    assert hrd.get_list("m", []) == []
    assert hrd.get_dict("m", {}) == {}
    assert hrd.get_dict("s") == {}
    assert hrd.get_bool("m", False) is False


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        ("get_int", "is no whole number"),
        ("get_float", "is no number"),
        ("get_bool", "is neither true nor false"),
        ("get_dict", "is no dict"),
    ],
)
def test_a_value_of_another_type_is_refused_with_its_line(method: str, reason: str) -> None:
    hrd = Hrd.parse("\nx = maybe\n", source="f.hrd")
    with pytest.raises(BadHrd, match=rf"f\.hrd:2:1: `x` {reason}"):
        getattr(hrd, method)("x")
    with pytest.raises(BadHrd, match=r"f\.hrd: `y` is not given"):
        getattr(hrd, method)("y")


def test_names_are_replaced_from_the_file_then_the_parents_and_unknown_ones_stay() -> None:
    hrd = Hrd.parse(SAMPLE, parents=[Hrd({"base": "/x"}), Hrd({"system.paths.base": "/js"})])
    assert hrd.get("path") == "/opt/bin/$(unknown.name)"
    assert hrd.get("both") == {"p": "/opt/bin/$(unknown.name)", "q": ["/opt"]}
    assert hrd.raw("path") == "$(base)/bin/$(unknown.name)"
    assert hrd.apply("$(system.paths.base) $(BASE) $(n) $()") == "/js /opt 22 $()"
    assert hrd.applyOnContent("$(base)", {"Base": "/arg"}) == "/arg"


def test_names_that_need_each_other_stay_as_they_are() -> None:
    assert Hrd.parse("a = x$(b)\nb = y$(a)\n").get("a") == "xy$(a)"


def test_a_small_text_cannot_become_a_large_one() -> None:
    doubling = "".join(f"k{n} = $(k{n + 1})$(k{n + 1})\n" for n in range(60))
    for last in ("k60 = 'x'\n", "k60 = ''\n"):
        with pytest.raises(BadHrd, match="grows too large"):
            Hrd.parse(doubling + last).get("k0")


def test_numbered_groups_come_in_natural_order_whatever_the_gaps() -> None:
    hrd = Hrd.parse("g.10 = c\ng.2 = b\ng.1 = a\ngx.1 = no\ng.name = no\n")
    assert hrd.items("g") == [(1, "a"), (2, "b"), (10, "c")]
    assert hrd.prefix("g") == ["g.1", "g.2", "g.10", "g.name"]
    assert hrd.prefix("", depth=1) == ["g", "gx"]
    assert hrd.getListFromPrefix("g") == ["a", "b", "c", "no"]
    assert hrd.getDictFromPrefix("g.") == {"1": "a", "2": "b", "10": "c", "name": "no"}


def test_dicts_below_a_prefix_get_what_they_must_have() -> None:
    hrd = Hrd.parse("p.1 = name:x, prio:,\np.2 = name:y, prio:3,\n")
    found = hrd.getListFromPrefixEachItemDict("p", musthave=["cmd"], defaults={"prio": 5})
    assert found == [{"cmd": "", "name": "x", "prio": 5}, {"cmd": "", "name": "y", "prio": 3}]


# --- changing ----------------------------------------------------------------------------


def test_values_are_set_and_deleted() -> None:
    hrd = Hrd()
    hrd.set("A.b", True)
    hrd.set("c", ("x", 1))
    hrd.listAdd("c", "y")
    hrd.listAdd("c", "y")
    hrd.delete("nothing")
    assert hrd.dump() == f"{'a.b':30} = True\n\n{'c':30} =\n    x,\n    1,\n    y,\n"
    hrd.delete("A.B")
    assert not hrd.exists("a.b")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("a b", 1),
        ("", 1),
        ("a", {"b": {"c": 1}}),
        ("a", {"b c": 1}),
        ("a", [{"b": 1}]),
        ("a", [[["x"]]]),
        ("a", object()),
        ("a", "\udcff"),
        ("a", "\x1f"),
        ("a", [Ask("@ASK")]),
    ],
)
def test_what_the_format_cannot_hold_cannot_be_set(key: str, value: object) -> None:
    hrd = Hrd()
    with pytest.raises(BadHrd):
        hrd.set(key, value)
    assert hrd.keys() == []


def test_a_repr_shows_no_values() -> None:
    assert repr(Hrd({"password": "hunter2"})) == "<Hrd hrd: 1 keys>"


# --- questions ---------------------------------------------------------------------------


def test_a_question_has_its_tags() -> None:
    asked = one(
        "a = @ask name:port descr:'the__port' type:int default:22 retry:3 minValue:1 maxValue:9.5"
        " regex:'^[0-9]+' dropdownvals:'1, 2'"
    )
    assert isinstance(asked, Ask)
    assert (asked.name, asked.descr, asked.type, asked.default) == ("port", "the port", "int", "22")
    assert (asked.retry, asked.minimum, asked.maximum) == (3, 1, 9.5)
    assert (asked.regex, asked.choices) == ("^[0-9]+", ("1", "2"))


def test_tags_may_stand_on_lines_of_their_own() -> None:
    asked = one("a = @ASK,\n    descr:'x y',\n    type:int,\n")
    assert isinstance(asked, Ask)
    assert (asked.descr, asked.type) == ("x y", "int")


def test_arguments_answer_without_asking() -> None:
    def never(key: str, ask: Ask) -> str:
        raise AssertionError(key)

    hrd = Hrd.parse("a = @ASK\nb = @ASK default:x\nc = old\n")
    hrd.fill({"A": "1", "b": 2, "c": "new", "d": False}, never)
    assert [hrd.get(key) for key in "abcd"] == ["1", 2, "new", "False"]


def test_a_person_is_asked_until_the_answer_is_acceptable() -> None:
    answers = iter(["many", "0", "7"])
    hrd = Hrd.parse("a = x:@ASK type:int retry:3 minvalue:1, y:2\n")
    # The line is one question: its text has @ASK in it. In a block each item has its own.
    block = Hrd.parse("a =\n    y:2,\n    x:@ASK type:int retry:3 minvalue:1,\n")
    block.fill({}, lambda key, ask: next(answers))
    assert isinstance(hrd.raw("a"), Ask)
    assert block.get("a") == {"y": 2, "x": 7}


def test_without_a_person_the_default_counts_and_without_one_the_key_is_named() -> None:
    hrd = Hrd.parse("a = @ASK type:list default:'x,y'\n\nb = @ASK\n", source="i.hrd")
    with pytest.raises(BadHrd, match=r"i\.hrd:3:1: `b` needs an answer"):
        hrd.fill({})
    assert hrd.get("a") == ["x", "y"]
    with pytest.raises(BadHrd, match="is a question that nobody has answered"):
        hrd.get("b")


@pytest.mark.parametrize(
    ("tags", "answer", "value"),
    [
        ("type:int", "5", 5),
        ("type:float", "0.5", 0.5),
        ("type:bool", "1", "True"),
        ("type:list", "a, 1,", ["a", 1]),
        ("type:dict", "a:1, b:x", {"a": 1, "b": "x"}),
        ("type:dropdown dropdownvals:a,b", "b", "b"),
        ("type:multiline", "x\ny", "x\ny"),
        ("type:string regex:'^a+$'", "aaa", "aaa"),
    ],
)
def test_an_answer_has_the_type_that_was_asked_for(tags: str, answer: str, value: Value) -> None:
    hrd = Hrd.parse(f"a = @ASK {tags}")
    hrd.fill({}, lambda key, ask: answer)
    assert hrd.get("a") == value


@pytest.mark.parametrize(
    ("tags", "answer"),
    [
        ("type:int", "x"),
        ("type:int maxvalue:4", "5"),
        ("type:float", "nan"),
        ("type:bool", "perhaps"),
        ("dropdownvals:a,b", "c"),
        ("regex:'^a+$'", "b"),
    ],
)
def test_an_answer_that_is_not_acceptable_is_not_taken(tags: str, answer: str) -> None:
    hrd = Hrd.parse(f"a = @ASK {tags}")
    with pytest.raises(BadHrd, match="`a` needs an answer"):
        hrd.fill({}, lambda key, ask: answer)


def test_a_template_overrules_its_questions_fill_gaps_and_arguments_win() -> None:
    hrd = Hrd({"a": "mine", "b": "mine", "c": "mine"})
    template = Hrd.parse("a = theirs\nb = @ASK\nc = theirs\nd = @ASK\n")
    hrd.applyTemplate(template, {"c": "given"})
    assert [hrd.raw(key) for key in "abc"] == ["theirs", "mine", "given"]
    assert isinstance(hrd.raw("d"), Ask)
