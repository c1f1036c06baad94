"""Reading the text of a spec: JSON, YAML without its traps, and nothing that surprises."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.errors import SpecInvalid
from services.training.spec.reading import MAX_CHARACTERS, MAX_DEPTH, MAX_YAML_NODES, loads
from tests.properties import examples


def refused(text: str | bytes, *, yaml: bool = True) -> str:
    """The one sentence with which a text is refused."""
    with pytest.raises(SpecInvalid) as caught:
        loads(text, yaml=yaml)
    (problem,) = caught.value.problems
    assert problem.pointer == ""
    problem.detail.encode()
    return problem.detail


def read(value: str) -> object:
    """What a plain YAML value is read as."""
    return loads(f"key: {value}")["key"]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        ("-2.5e+3", -2500.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("+12", 12),
        ("-7", -7),
        ("0.0", 0.0),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
    ],
)
def test_numbers_truths_and_nothing_are_read_as_they_look(written: str, meant: object) -> None:
    value = read(written)
    assert value == meant
    assert type(value) is type(meant)


def test_a_number_with_a_leading_zero_is_decimal() -> None:
    assert read("010") == 10


@pytest.mark.parametrize(
    "word",
    ["no", "yes", "on", "off", "y", "n", "NO", "1:30", "12:30:45", "2026-11-23", "1_000", "0x1f", "0o17", "=", "e3"],
)
def test_what_yaml_of_old_turned_into_something_else_stays_a_word(word: str) -> None:
    assert read(word) == word


def test_quotes_keep_numbers_words() -> None:
    assert (read("'1e-3'"), read('"true"')) == ("1e-3", "true")


def test_infinite_numbers_are_read_for_the_spec_to_refuse() -> None:
    assert (read(".inf"), read("-.INF")) == (math.inf, -math.inf)
    assert math.isnan(float(str(read(".nan"))))


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_words_for_numbers_that_json_has_not_are_refused(word: str) -> None:
    assert "must be finite" in refused(f'{{"key": {word}}}')


def test_json_may_come_as_text_or_bytes_with_or_without_a_mark() -> None:
    text = json.dumps({"name": "Grüße", "data": {"dataset": "d"}}, ensure_ascii=False)
    assert loads(text) == loads(text.encode()) == loads(text.encode("utf-8-sig")) == json.loads(text)


def test_yaml_in_braces_is_read_too() -> None:
    assert loads("{architecture: {cell: gru}, data: {dataset: d}}")["architecture"] == {"cell": "gru"}


def test_yaml_is_not_read_where_only_json_is_asked_for() -> None:
    assert "this is not JSON" in refused("a: 1", yaml=False)
    assert "line 1, column 2" in refused("{a: 1}", yaml=False)
    assert loads('{"a": 1}', yaml=False) == {"a": 1}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "data:\n  synthetic: {samples: 8\n\n\n",
            "line 2, column 14: the text ends, and the { of this place is not clos",
        ),
        ("training: [1,\n2,\n", "line 1, column 11: the text ends, and the [ of this place is not closed: add ]"),
        ('name: "tiny\n', 'line 1, column 7: the text ends, and the " of this place is not closed: add "'),
        ('{"data": {"synthetic": {}},\n"a": {"b": 1}\n\n', "line 1, column 1: the text ends, and the { of this place"),
        ("a: [2}\nc: 1\n", "line 1, column 6: this is not YAML"),
        ("a: {b: [1]}\nc: [2\n", "line 2, column 4: the text ends, and the [ of this place"),
    ],
)
def test_what_is_not_closed_is_told_where_it_begins(text: str, told: str) -> None:
    assert told in refused(text)


def test_json_that_ends_too_soon_is_told_at_its_last_line() -> None:
    assert "line 1, column 8: this is not JSON" in refused('{"a": 1\n\n', yaml=False)
    assert "and the text ends" in refused('{"a": 1\n\n', yaml=False)


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', "a: 1\na: 2", '{"b": {"a": 1, "a": 1}}', "b: {a: 1, 'a': 1}"])
def test_a_key_that_stands_twice_is_refused(text: str) -> None:
    assert refused(text) == "the key `a` stands twice in the same mapping; keep one"


def test_an_alias_is_refused_so_that_a_small_text_stays_small() -> None:
    bomb = "a: &a [x, x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(20)
    )
    assert "line 2: YAML aliases" in refused(bomb)
    assert "aliases" in refused("a: &a\n  <<: *a")


@pytest.mark.parametrize(
    "value",
    [
        "!!python/object/apply:os.system [id]",
        "!!bool maybe",
        "!!float ''",
        "!!timestamp soon",
        "!!binary aGk=",
        "!!set {a}",
        "!mine x",
        "!<tag:x> y",
    ],
)
def test_a_tag_is_refused_whatever_it_would_make(value: str) -> None:
    assert "line 1: YAML tags" in refused(f"key: {value}")


def test_a_merge_key_is_a_key_like_any_other() -> None:
    assert loads("<<: {a: 1}") == {"<<": {"a": 1}}


@pytest.mark.parametrize("text", ["1: a", "true: a", "~: a", "? {a: 1}\n: b", "? [a]\n: b", "{1: a}"])
def test_a_key_is_a_word(text: str) -> None:
    assert "line 1: a key must be a word" in refused(text)


@pytest.mark.parametrize(
    ("text", "kind"),
    [("", "nothing"), ("# only words", "nothing"), ("[]", "a list"), ("- a", "a list"), ("3", "a number"),
     ("hello", "a text"), ("true", "true or false")],
)  # fmt: skip
def test_a_spec_is_a_mapping(text: str, kind: str) -> None:
    assert refused(text).endswith(f"this is {kind}")


def test_json_that_is_no_mapping_is_refused_where_only_json_is_asked_for() -> None:
    assert refused("[1]", yaml=False).endswith("this is a list")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"name: \xff", "not UTF-8: byte 6"),
        ("name: a\0b", "NUL"),
        ("a: [1\nb: 2", "line 2"),
        ("a: 1\n---\nb: 2", "another document"),
        ("a:\tb", "line 1, column 3"),
        ("\x07", "not YAML"),
        ("a: '\ud800'", "not YAML"),
        ('{"a": 1', "line 1"),
    ],
)
def test_a_text_that_cannot_be_read_says_where(text: str | bytes, words: str) -> None:
    assert words in refused(text)


@pytest.mark.parametrize("opening", ["[", "{", "a: [", "- ", '{"a": ', "[{"])
def test_a_text_ten_thousand_deep_is_refused_at_once(opening: str) -> None:
    began = time.monotonic()
    assert "nested" in refused(opening * 10_000)
    assert time.monotonic() - began < 5


def test_a_text_as_deep_as_is_allowed_is_read() -> None:
    inner = "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1)
    assert loads(f'{{"a": {inner}}}') == loads(f"a: {inner}")


@pytest.mark.parametrize("number", ["9" * 41, "-" + "9" * 5000])
def test_a_whole_number_of_countless_digits_is_refused(number: str) -> None:
    assert "digits is out of range" in refused(f"a: {number}")
    assert "digits is out of range" in refused(f'{{"a": {number}}}')


def test_a_long_text_is_refused_before_it_is_read() -> None:
    assert f"at most {MAX_CHARACTERS:,} are taken" in refused("a: [" + "1," * MAX_CHARACTERS + "]")
    assert f"at most {MAX_CHARACTERS:,} are taken" in refused('{"a": "' + "x" * MAX_CHARACTERS + '"}', yaml=False)


@pytest.mark.parametrize("text", ["a: [" + "1," * 100_000 + "]", '{"a": [' + "1," * 100_000 + "]"])
def test_many_values_in_yaml_are_refused_before_they_cost_much(text: str) -> None:
    began = time.monotonic()
    assert f"more than {MAX_YAML_NODES:,} keys and values" in refused(text)
    assert time.monotonic() - began < 10


@examples(150)
@given(
    st.text(st.characters())
    | st.binary()
    | st.text(st.sampled_from("{}[]:,- \n\"'!&*<>|?#%@`~01e.\tabtruefalsn"), max_size=60)
    | st.builds("a: {}".format, st.text(st.sampled_from("!&*|>%@-?:,[]{}#~'\" \n01e.aintflo"), max_size=30))
)
def test_whatever_text_is_sent_is_a_mapping_or_one_problem(sent: str | bytes) -> None:
    try:
        document = loads(sent)
    except SpecInvalid as error:
        str(error).encode()
    else:
        assert isinstance(document, dict)


def test_the_documents_say_how_long_a_text_may_be() -> None:
    for page in ("spec.md", "http.md"):
        text = " ".join((Path(__file__).parents[3] / "docs" / page).read_text().split())
        assert f"at most {MAX_CHARACTERS:,} characters" in text
        assert f"at most {MAX_YAML_NODES:,} keys and values" in text
