from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from loopline import text
from loopline.types import Dataset


def test_a_data_set_of_texts_is_told_in_characters() -> None:
    found = Dataset("ds_1", samples=5160, features=1, min_length=2, max_length=11, target="classes", target_dim=2)
    assert text.understood(found) == "5,160 sequences of 2 to 11 steps, 1 feature, 2 classes"
    found = replace(found, schema={"layout": "text"})
    assert text.understood(found) == "5,160 texts of 2 to 11 characters, 2 classes"


def test_a_long_name_keeps_its_start_and_its_end() -> None:
    assert text.shortened("vowels[lr=0.0003]", 17) == "vowels[lr=0.0003]"
    assert text.shortened("vowels[lr=0.0003]", 16) == "vowels[l…0.0003]"
    assert text.shortened("two\nlines", 9) == "two lines"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "-"),
        (0.0, "0 s"),
        (0.416, "0.42 s"),
        (9.94, "9.9 s"),
        (12.4, "12 s"),
        (60, "1 min"),
        (185, "3 min 5 s"),
        (7440, "2 h 4 min"),
        (3600, "1 h"),
        (180000, "2 d 2 h"),
    ],
)
def test_a_duration_reads_with_its_units(seconds: float | None, words: str) -> None:
    assert text.duration(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (None, "-"),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (1234, "1.23 kB"),
        (123_456_789, "123 MB"),
        (5e12, "5 TB"),
    ],
)
def test_a_size_reads_with_its_units(count: float | None, words: str) -> None:
    assert text.size(count) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [(None, "-"), (0.0, "0"), (0.5, "0.5000"), (2.19722, "2.1972"), (1e-5, "1e-05"), (12345.6, "1.23e+04"), (3, "3")],
)
def test_a_metric_reads_to_four_digits(value: float | None, words: str) -> None:
    assert text.number(value) == words


def test_a_sparkline_falls_as_the_loss_does_and_leaves_gaps_where_nothing_was_finite() -> None:
    assert text.sparkline([8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0], 8) == "█▇▆▅▄▃▂▁"
    assert text.sparkline([2.0, None, 1.0], 10) == "█ ▁"
    assert text.sparkline([1.0, 1.0], 10) == "▁▁"


def test_a_sparkline_is_never_wider_than_asked_for() -> None:
    assert len(text.sparkline([float(value) for value in range(1000)], 30)) == 30
    assert text.sparkline([], 30) == text.sparkline([None], 30) == text.sparkline([1.0], 0) == ""


def test_a_time_is_told_by_how_long_ago_it_was() -> None:
    now = datetime(2026, 1, 2, tzinfo=UTC)
    assert text.ago(now - timedelta(seconds=2), now) == "just now"
    assert text.ago(now - timedelta(seconds=42), now) == "42 s ago"
    assert text.ago(now - timedelta(minutes=59), now) == "59 min ago"
    assert text.ago(now - timedelta(days=3, hours=2), now) == "3 d ago"
    assert text.ago(None) == "-"
