"""Results of a run, as data and as JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np

from benchmarks.contender import FLOOR, OURS
from benchmarks.timing import Times
from benchmarks.workload import Workload


class Spread(NamedTuple):
    """Median and quartiles."""

    median: float
    lower: float
    upper: float

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.lower:.3g} to {self.upper:.3g})"


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles of some values."""
    return Spread(*np.quantile(values, (0.5, 0.25, 0.75)).tolist())


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Ratio of ours to theirs, taken round by round."""
    return spread([a / b for a, b in zip(ours, theirs, strict=True)])


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

    def ratio(self, ours: str, theirs: str) -> Spread | None:
        """Our time divided by theirs; None where one of them did not run."""
        seconds = self.times.seconds
        return ratio(seconds[ours], seconds[theirs]) if ours in seconds and theirs in seconds else None


@dataclass(frozen=True)
class Figures:
    """Figures of ours and of others that were measured in processes of their own."""

    what: str
    unit: str
    figures: Mapping[str, Sequence[float]]
    """By name, ours first: one figure for each repetition."""


@dataclass
class Results:
    """Everything that was measured, and what did not run, with the reason."""

    machine: Mapping[str, Any]
    options: Mapping[str, Any]
    threads: dict[str, str] = field(default_factory=dict)
    not_run: dict[str, str] = field(default_factory=dict)
    measured: list[Measured] = field(default_factory=list)
    processes: list[Figures] = field(default_factory=list)

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
