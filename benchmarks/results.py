"""Results of a run, as data and as JSON."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from benchmarks.contender import FLOOR, OURS
from benchmarks.timing import Times
from benchmarks.workload import Workload


class Ratio(NamedTuple):
    """Median and quartiles of the ratios of the rounds."""

    median: float
    lower: float
    upper: float

    def __str__(self) -> str:
        return f"{number(self.median)} ({number(self.lower)} to {number(self.upper)})"


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """Ratio of ours to theirs, taken round by round."""
    lower, median, upper = quartiles([a / b for a, b in zip(ours, theirs, strict=True)])
    return Ratio(median, lower, upper)


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile."""
    lower, median, upper = statistics.quantiles(values, method="inclusive") if len(values) > 1 else [*values] * 3
    return lower, median, upper


def number(value: float) -> str:
    """Number with three significant digits, without an exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3g}"


@dataclass(frozen=True)
class Measured:
    """The contenders of one group over one workload."""

    group: str
    workload: Workload
    times: Times

    @property
    def ours(self) -> list[str]:
        """Our loss and its variants that ran."""
        return [name for name in self.times.seconds if name.startswith(OURS)]

    @property
    def peers(self) -> list[str]:
        """Peers that ran."""
        return [name for name in self.times.seconds if not name.startswith((OURS, FLOOR))]

    def ratio(self, ours: str, theirs: str) -> Ratio | None:
        """Our time divided by theirs; None where one of them did not run."""
        seconds = self.times.seconds
        return ratio(seconds[ours], seconds[theirs]) if ours in seconds and theirs in seconds else None


@dataclass(frozen=True)
class Entry:
    """A figure of ours beside one of a peer's, measured in processes of their own."""

    name: str
    against: str
    unit: str
    ours: Sequence[float] = ()
    """One figure for each repetition."""
    theirs: Sequence[float] = ()
    not_run: str | None = None


@dataclass
class Results:
    """Everything that was measured, and what did not run, with the reason."""

    machine: Mapping[str, Any]
    options: Mapping[str, Any]
    threads: dict[str, str] = field(default_factory=dict)
    not_run: dict[str, str] = field(default_factory=dict)
    measured: list[Measured] = field(default_factory=list)
    memory: list[Entry] = field(default_factory=list)
    imports: list[Entry] = field(default_factory=list)

    def to_json(self) -> str:
        """All fields, and the ratios of each measurement."""
        report = asdict(self)
        for measured, found in zip(self.measured, report["measured"], strict=True):
            found["ratios"] = [
                {"ours": ours, "theirs": theirs, **ratio._asdict()}
                for ours in measured.ours
                for theirs in (*measured.peers, FLOOR)
                if (ratio := measured.ratio(ours, theirs))
            ]
        return json.dumps(report, indent=1) + "\n"
