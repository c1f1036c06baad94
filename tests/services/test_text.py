"""What nobody sees in a text: refused in names, shown as escapes, and left out of all that the command prints."""

from __future__ import annotations

import re
import sys

import loopline.text
import pytest

from services.text import HIDDEN, PLAIN, is_plain, visible


@pytest.mark.parametrize(
    "word", ["vowels", "a b", "größe", "語", "می\u200cخواهم", "👨\u200d👩\u200d👧", "a\u00a0b", ""]
)
def test_words_are_plain(word: str) -> None:
    assert is_plain(word)
    assert visible(word) == word


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("a\x1b]0;b\x07", r"a\x1b]0;b\x07"),
        ("\x9b31m", r"\x9b31m"),
        ("x\u202ey", r"x\u202ey"),
        ("\u2066\u2069", r"\u2066\u2069"),
        ("a\u2028b", r"a\u2028b"),
        ("a\u200bb", r"a\u200bb"),
        ("\ud800", r"\ud800"),
        ("\ttab", r"\ttab"),
    ],
)
def test_what_is_hidden_is_found_and_shown(word: str, shown: str) -> None:
    assert not is_plain(word)
    assert visible(word) == shown


def test_a_newline_is_not_plain_and_stays_one_where_it_is_shown() -> None:
    assert not is_plain("a\n")
    assert visible("a\nb") == "a\nb"


def test_the_pattern_of_the_documents_says_the_same() -> None:
    for code in range(sys.maxunicode + 1):
        letter = chr(code)
        if not 0xD800 <= code < 0xE000:
            assert (re.fullmatch(PLAIN.strip("^$"), letter) is not None) == is_plain(letter), hex(code)


def test_the_command_leaves_out_all_that_no_name_may_hold() -> None:
    refused, left_out = re.compile(f"[{HIDDEN}]"), re.compile(f"[{loopline.text.UNSEEN}]")
    letters = [chr(code) for code in range(sys.maxunicode + 1)]
    assert [hex(ord(letter)) for letter in letters if refused.match(letter) and not left_out.match(letter)] == []
