"""Errors of all implementations, draw by draw, and what is said of them."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from benchmarks.accuracy_inputs import Rounded, distributions, rounded
from benchmarks.accuracy_losses import OURS, PYTORCH, Loss, implementations
from benchmarks.exact import exact_loss


@dataclass(frozen=True)
class Subject:
    """What the inputs are, whatever their size."""

    dtype: str
    log_target: bool = False

    def __str__(self) -> str:
        return f"{self.dtype}, log_target" if self.log_target else self.dtype


@dataclass(frozen=True)
class Setting:
    """What the inputs are, but for the seed that they are drawn with."""

    subject: Subject
    elements: int
    difference: str


@dataclass(frozen=True)
class Row:
    """Relative errors of an implementation in a setting, one for each draw."""

    setting: Setting
    implementation: str
    errors: Sequence[float]
    reference: Sequence[float]
    """Those of PyTorch on the same draws; none if it was not measured."""

    @property
    def ours(self) -> bool:
        """Whether it is ``kldiv_xp`` that erred."""
        return self.implementation.startswith(OURS)

    @property
    def rms(self) -> float:
        """Root mean square of the errors."""
        return root_mean_square(self.errors)

    @property
    def median(self) -> float:
        """Median of the sizes of the errors."""
        return median(map(abs, self.errors))

    @property
    def largest(self) -> float:
        """Size of the largest error; NaN if one is."""
        return float(np.max(np.abs(self.errors)))

    @property
    def reference_rms(self) -> float:
        """Root mean square of PyTorch's errors; NaN if there are none."""
        return root_mean_square(self.reference)

    @property
    def ratio(self) -> float:
        """Root mean square of the errors over that of PyTorch's."""
        if self.rms == self.reference_rms:  # both may be zero, or infinite
            return 1.0
        return self.rms / self.reference_rms if self.reference_rms else math.inf


@dataclass
class Results:
    """All errors, and what could not be measured."""

    draws: Mapping[int, int]
    """How many pairs of distributions of each size."""
    errors: dict[Setting, dict[str, list[float]]] = field(default_factory=dict)
    """By implementation, one for each draw."""
    not_run: dict[tuple[str, str], str] = field(default_factory=dict)
    """Reasons, by implementation and what was to be measured."""

    def rows(self) -> list[Row]:
        """A row for each implementation in each setting."""
        return [
            Row(setting, implementation, its, errors.get(PYTORCH, []))
            for setting, errors in self.errors.items()
            for implementation, its in errors.items()
        ]

    def ours(self) -> list[Row]:
        """Those rows of ``kldiv_xp`` that can be held against PyTorch's."""
        return [row for row in self.rows() if row.ours and row.reference]

    def worse(self) -> list[Row]:
        """Ours where the error is more than twice PyTorch's, or is NaN where PyTorch's is not; the worst first."""
        rows = [row for row in self.ours() if row.ratio > 2 or math.isnan(row.rms) > math.isnan(row.reference_rms)]
        return sorted(rows, key=lambda row: -row.ratio)

    def better(self) -> list[Row]:
        """Ours where the error is less than PyTorch's, or is a number where PyTorch's is not."""
        return [row for row in self.ours() if row.ratio < 1 or math.isnan(row.rms) < math.isnan(row.reference_rms)]


def measure(results: Results, subjects: Mapping[Subject, int], progress: Callable[[int, str], None]) -> None:
    """Fill in the errors in every subject, each up to its largest size.

    ``progress`` is told how many elements were done since it was last told, and what begins.
    """
    done = 0
    for elements, draws in results.draws.items():
        losses = {s: _prepared(s, results) for s, largest in subjects.items() if elements <= largest}
        for seed in range(draws):
            for difference, log_x, log_y in distributions(elements, seed):
                progress(done, f"{elements:,} elements, draw {seed + 1} of {draws}")
                done = elements
                for subject, of_subject in losses.items():
                    x = rounded(log_x, subject.dtype)
                    y = rounded(log_y if subject.log_target else np.exp(log_y), subject.dtype)
                    _measure_draw(Setting(subject, elements, difference), of_subject, x, y, results)
    progress(done, "")


def relative_error(value: float, exact: float) -> float:
    """Relative error of a loss, with its sign; of a loss that is exactly zero, zero or infinity."""
    error = value - exact
    if error == 0:
        return 0.0
    return error / abs(exact) if exact else error * math.inf


def root_mean_square(errors: Sequence[float]) -> float:
    """Root of the mean of the squares; NaN of no errors."""
    return math.sqrt(sum(error * error for error in errors) / len(errors)) if errors else math.nan


def _prepared(subject: Subject, results: Results) -> dict[str, Loss]:
    """All implementations that can be had."""
    losses = {}
    for implementation in implementations():
        reason = implementation.not_run(subject.dtype)
        if reason is None:
            losses[implementation.name] = implementation.prepare(subject.dtype, subject.log_target)
        else:
            results.not_run[implementation.name, str(subject)] = reason
    return losses


def _measure_draw(setting: Setting, losses: dict[str, Loss], x: Rounded, y: Rounded, results: Results) -> None:
    exact = exact_loss(x, y, log_target=setting.subject.log_target)
    of_setting = results.errors.setdefault(setting, {})
    for name, loss in list(losses.items()):
        try:
            value = loss(x, y)
        except Exception as error:  # whatever it is, the others are measured
            del losses[name]
            of_setting.pop(name, None)
            what = f"{setting.subject}, {setting.elements:,} elements"
            results.not_run[name, what] = f"{type(error).__name__}: {error}".splitlines()[0]
        else:
            of_setting.setdefault(name, []).append(relative_error(value, exact))
