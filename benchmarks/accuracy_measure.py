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
    """Losses by an implementation in a setting, one for each draw."""

    setting: Setting
    implementation: str
    losses: Sequence[float]
    exact: Sequence[float]
    reference: Sequence[float]
    """PyTorch's losses of the same draws; none if it was not measured."""

    @property
    def ours(self) -> bool:
        """Whether the losses are by ``kldiv_xp``."""
        return self.implementation.startswith(OURS)

    @property
    def error(self) -> float:
        """Root mean square of the errors, over that of the exact losses.

        Not that of each draw's relative error: where the terms cancel a loss may be next to nothing by chance, and
        that draw alone would decide.
        """
        return _share(_rms_error(self.losses, self.exact), _rms(self.exact))

    @property
    def ratio(self) -> float:
        """Root mean square of the errors, over that of PyTorch's; NaN if there are none of PyTorch."""
        if not self.reference:
            return math.nan
        ours, theirs = (_rms_error(losses, self.exact) for losses in (self.losses, self.reference))
        return 1.0 if ours == theirs else _share(ours, theirs)

    @property
    def median(self) -> float:
        """Median of the relative errors of the draws, without their signs."""
        return median(map(abs, self.relative_errors))

    @property
    def largest(self) -> float:
        """Largest relative error of a draw; NaN if one is."""
        return float(np.max(np.abs(self.relative_errors)))

    @property
    def relative_errors(self) -> list[float]:
        """Relative errors of the draws."""
        return [_share(loss - exact, abs(exact)) for loss, exact in zip(self.losses, self.exact, strict=True)]


@dataclass
class Results:
    """All losses, and what could not be measured."""

    draws: Mapping[int, int]
    """How many pairs of distributions of each size."""
    losses: dict[Setting, dict[str, list[float]]] = field(default_factory=dict)
    """By implementation, one for each draw."""
    exact: dict[Setting, list[float]] = field(default_factory=dict)
    not_run: dict[tuple[str, str], str] = field(default_factory=dict)
    """Reasons, by implementation and what was to be measured."""

    def rows(self) -> list[Row]:
        """A row for each implementation in each setting."""
        rows = []
        for setting, exact in self.exact.items():
            whole = {name: losses for name, losses in self.losses[setting].items() if len(losses) == len(exact)}
            rows += [Row(setting, name, losses, exact, whole.get(PYTORCH, [])) for name, losses in whole.items()]
        return rows

    def ours(self) -> list[Row]:
        """Those rows of ``kldiv_xp`` that can be held against PyTorch's."""
        return [row for row in self.rows() if row.ours and row.reference]

    def worse(self) -> list[Row]:
        """Ours where the error is more than twice PyTorch's; the worst first."""
        return sorted((row for row in self.ours() if row.ratio > 2), key=lambda row: -row.ratio)

    def better(self) -> list[Row]:
        """Ours where the error is less than PyTorch's."""
        return [row for row in self.ours() if row.ratio < 1]


def measure(results: Results, subjects: Mapping[Subject, int], progress: Callable[[int, str], None]) -> None:
    """Fill in the losses of every subject, each up to its largest size.

    ``progress`` is told how many elements were done since it was last told, and what begins.
    """
    prepared = {subject: _prepared(subject, results) for subject in subjects}
    done = 0
    for elements, draws in results.draws.items():
        for seed in range(draws):
            for difference, log_x, log_y in distributions(elements, seed):
                progress(done, f"{elements:,} elements, draw {seed + 1} of {draws}")
                done = elements
                for subject, losses in prepared.items():
                    if elements <= subjects[subject]:
                        x = rounded(log_x, subject.dtype)
                        y = rounded(log_y if subject.log_target else np.exp(log_y), subject.dtype)
                        _measure_draw(Setting(subject, elements, difference), losses, x, y, results)
    progress(done, "done")


def _prepared(subject: Subject, results: Results) -> dict[str, Loss]:
    """All implementations that can be had."""
    losses = {}
    for implementation in implementations():
        reason = implementation.not_run(subject.dtype)
        if reason is None:
            try:
                losses[implementation.name] = implementation.prepare(subject.dtype, subject.log_target)
            except Exception as error:  # it is installed, and cannot be imported here
                reason = _in_a_line(error)
        if reason is not None:
            results.not_run[implementation.name, str(subject)] = reason
    return losses


def _measure_draw(setting: Setting, losses: dict[str, Loss], x: Rounded, y: Rounded, results: Results) -> None:
    """Note the loss by each implementation; one that fails is measured no more."""
    results.exact.setdefault(setting, []).append(exact_loss(x, y, log_target=setting.subject.log_target))
    noted = results.losses.setdefault(setting, {})
    for name, loss in list(losses.items()):
        try:
            noted.setdefault(name, []).append(loss(x, y))
        except Exception as error:  # whatever it is, the others are measured
            del losses[name], noted[name]
            what = f"{setting.subject}, from {setting.elements:,} elements on"
            results.not_run[name, what] = _in_a_line(error)


def _in_a_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _rms_error(losses: Sequence[float], exact: Sequence[float]) -> float:
    """Root mean square of the errors; infinite if a loss is not a number."""
    error = _rms([loss - value for loss, value in zip(losses, exact, strict=True)])
    return math.inf if math.isnan(error) else error


def _rms(values: Sequence[float]) -> float:
    return math.sqrt(sum(value * value for value in values) / len(values))


def _share(error: float, of: float) -> float:
    """``error / of``; no error is none of anything, and any error of nothing is infinite."""
    if error == 0:
        return 0.0
    return error / of if of else error * math.inf
