"""Ratios of paired measurements, and their spread."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Ratio:
    """Median of the ratios of each round, their quartiles and extremes."""

    median: float
    lower: float
    upper: float
    least: float
    most: float
    rounds: int

    def __str__(self) -> str:
        return f"{number(self.median)} ({number(self.lower)} to {number(self.upper)})"


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """Ratio of our time to theirs, round by round."""
    values = [a / b for a, b in zip(ours, theirs, strict=True)]
    lower, median, upper = quartiles(values)
    return Ratio(median, lower, upper, min(values), max(values), len(values))


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return lower, median, upper


def number(value: float) -> str:
    """Number with three significant digits, without an exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3g}"
