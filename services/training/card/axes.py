"""Axes of a chart: from values to pixels, and the round numbers on them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """From values to pixels: `at` one end and `to` the other."""

    low: float
    high: float
    at: float
    to: float
    log: bool = False

    def place(self, value: float) -> float:
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, low))
        return round(self.at + (value - low) / (high - low) * (self.to - self.at), 1)


def span(values: Sequence[float], margin: float = 0.0) -> tuple[float, float]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    if not high - low > 1e-9 * max(abs(low), abs(high)):
        pad = abs(low) * 0.1 or 1.0
        return low - pad, high + pad
    pad = margin * (high - low)
    return (0.0 if 0.0 <= low < 0.3 * high and margin else low - pad), high + pad


def log_span(values: Sequence[float]) -> tuple[float, float]:
    there = [value for value in values if value > 0]
    low, high = min(there, default=1.0), max(there, default=10.0)
    return low / 1.2, high * 1.2


def ticks(low: float, high: float, *, whole: bool = False) -> Iterator[tuple[float, str]]:
    """About five round numbers between two others, and how each is written."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(each * power for each in (1.0, 2.0, 5.0, 10.0) if each * power >= rough * 0.999)
    if whole:
        step = max(1.0, step)
    first = math.ceil(low / step - 1e-9)
    for number in range(first, math.floor(high / step + 1e-9) + 1):
        yield number * step, f"{number * step:.6g}".replace("e+0", "e").replace("e-0", "e-")


def log_ticks(low: float, high: float) -> Iterator[tuple[float, str]]:
    digits = (1.0, 2.0, 5.0) if high / low < 500 else (1.0,)
    skip = max(1, round(math.log10(high / low) / 6))
    for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1, skip):
        for digit in digits:
            value = digit * 10.0**power
            if low <= value <= high:
                yield value, f"{value:g}".replace("e+0", "e").replace("e-0", "e-")
