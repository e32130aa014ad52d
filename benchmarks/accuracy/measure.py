"""Errors of all implementations, draw by draw, and what is said of them."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from benchmarks.accuracy.inputs import Array, distributions, exact_loss, rounded
from benchmarks.accuracy.losses import OURS, PYTORCH, Loss, implementations
from benchmarks.contender import reason


class Subject(NamedTuple):
    """Kind of inputs, whatever their size."""

    dtype: str
    log_target: bool = False

    def __str__(self) -> str:
        return f"{self.dtype}, log_target" if self.log_target else self.dtype


class Setting(NamedTuple):
    """What the inputs are, except for the seed of the draw."""

    subject: Subject
    elements: int
    difference: str


@dataclass(frozen=True)
class Row:
    """Losses by an implementation in a setting, one for each draw."""

    setting: Setting
    implementation: str
    losses: Sequence[float]
    exact: Sequence[float]
    reference: Sequence[float]
    """PyTorch's losses of the same draws; empty if it did not run."""

    @property
    def ours(self) -> bool:
        """Whether it is a row of ``kldiv_xp`` that can be compared with PyTorch."""
        return self.implementation.startswith(OURS) and bool(self.reference)

    @property
    def error(self) -> float:
        """Root mean square of the errors, over that of the exact losses.

        Not that of each draw's relative error: where the terms cancel a loss may be next to nothing by chance, and
        that draw alone would decide.
        """
        return _share(_rms(self.losses, self.exact), _rms(self.exact, [0.0] * len(self.exact)))

    @property
    def ratio(self) -> float:
        """Root mean square of the errors, over that of PyTorch's; NaN if PyTorch did not run."""
        if not self.reference:
            return math.nan
        ours, theirs = _rms(self.losses, self.exact), _rms(self.reference, self.exact)
        return 1.0 if ours == theirs else _share(ours, theirs)


@dataclass
class Results:
    """All losses, and what could not be measured."""

    draws: Mapping[int, int]
    """Number of pairs of distributions of each size."""
    losses: dict[Setting, dict[str, list[float]]] = field(default_factory=dict)
    """By implementation, one for each draw."""
    exact: dict[Setting, list[float]] = field(default_factory=dict)
    not_run: dict[tuple[str, str], str] = field(default_factory=dict)
    """Reasons, by implementation and subject."""

    def rows(self) -> list[Row]:
        """A row for each implementation in each setting."""
        return [
            Row(setting, name, losses, self.exact[setting], by_name.get(PYTORCH, []))
            for setting, by_name in self.losses.items()
            for name, losses in by_name.items()
        ]


def measure(results: Results, subjects: Mapping[Subject, int], say: Callable[[str], None]) -> None:
    """Fill in the losses of every subject, each up to its largest size."""
    prepared = {subject: _prepared(subject, results) for subject in subjects}
    for elements, draws in results.draws.items():
        for seed in range(draws):
            say(f"{elements:,} elements, draw {seed + 1} of {draws}")
            for difference, log_x, log_y in distributions(elements, seed):
                for subject, losses in prepared.items():
                    if elements <= subjects[subject]:
                        x = rounded(log_x, subject.dtype)
                        y = rounded(log_y if subject.log_target else np.exp(log_y), subject.dtype)
                        _measure_draw(Setting(subject, elements, difference), losses, x, y, results)


def _prepared(subject: Subject, results: Results) -> dict[str, Loss]:
    """All implementations that can run."""
    losses = {}
    for name, dtypes, prepare in implementations():
        try:
            if subject.dtype not in dtypes.split():
                raise TypeError(f"no {subject.dtype}")
            losses[name] = prepare(*subject)
        except Exception as error:
            results.not_run[name, str(subject)] = reason(error)
    return losses


def _measure_draw(setting: Setting, losses: dict[str, Loss], x: Array, y: Array, results: Results) -> None:
    """Note the loss by each implementation. One that fails is measured no more."""
    results.exact.setdefault(setting, []).append(exact_loss(x, y, log_target=setting.subject.log_target))
    noted = results.losses.setdefault(setting, {})
    for name, loss in list(losses.items()):
        try:
            noted.setdefault(name, []).append(loss(x, y))
        except Exception as error:
            del losses[name], noted[name]
            results.not_run[name, f"{setting.subject}, from {setting.elements:,} elements on"] = reason(error)


def _rms(losses: Sequence[float], exact: Sequence[float]) -> float:
    """Root mean square of the errors; infinite if a loss is not a number."""
    error = math.sqrt(sum((loss - value) ** 2 for loss, value in zip(losses, exact, strict=True)) / len(exact))
    return math.inf if math.isnan(error) else error


def _share(error: float, of: float) -> float:
    """``error / of``; no error is none of anything, and any error of nothing is infinite."""
    if error == 0:
        return 0.0
    return error / of if of else error * math.inf
