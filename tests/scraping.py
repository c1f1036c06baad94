"""How tests read /metrics."""

from __future__ import annotations

import math
import time

import httpx
from prometheus_client.parser import text_string_to_metric_families

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Scrape:
    """What one scrape said."""

    def __init__(self, text: str) -> None:
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self.samples: Samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families.values()
            for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float | None:
        """The value of the series with exactly these labels (a worker's `pid` aside), None when there is none."""
        found = [
            value
            for (sample, have), value in self.samples.items()
            if sample == name and {key: text for key, text in have if key != "pid"} == labels
        ]
        assert len(found) <= 1, (name, labels, found)
        return found[0] if found else None

    def total(self, name: str, **labels: str) -> float:
        """The sum of all series that have these labels and perhaps more."""
        return math.fsum(
            value
            for (sample, have), value in self.samples.items()
            if sample == name and set(labels.items()) <= set(have)
        )


def scrape(port: int) -> Scrape:
    answer = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=20)
    assert answer.status_code == 200, answer.text
    return Scrape(answer.text)


def scrape_when_up(port: int, seconds: float = 20) -> Scrape:
    deadline = time.monotonic() + seconds
    while True:
        try:
            return scrape(port)
        except httpx.ConnectError:
            assert time.monotonic() < deadline, f"nobody listens on port {port}"
            time.sleep(0.02)
