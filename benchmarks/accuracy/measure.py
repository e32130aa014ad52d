"""Errors of all implementations, draw by draw."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.accuracy.inputs import distributions, exact_loss, rounded
from benchmarks.accuracy.losses import OURS, PYTORCH, Loss, implementations
from benchmarks.contender import reason
from benchmarks.processes import say


@dataclass(frozen=True)
class Row:
    """Losses by an implementation in a setting, one for each draw."""

    subject: str
    """Dtype, and ``log_target`` after it if so."""
    elements: int
    difference: str
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
        """Root mean square of the errors, over that of the exact losses."""
        # Not that of the relative errors: where the terms cancel, a draw with a loss of next to nothing would decide.
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
    """A row for each implementation in each setting, and what did not run, with the reason."""

    draws: Mapping[int, int]
    """Number of pairs of distributions of each size."""
    rows: list[Row] = field(default_factory=list)
    not_run: dict[str, str] = field(default_factory=dict)


def measure(draws: Mapping[int, int], subjects: Mapping[str, int]) -> Results:
    """Rows of every subject, each up to its largest size. An implementation that fails is measured no more."""
    results = Results(draws)
    prepared = {subject: _prepared(subject, results) for subject in subjects}
    found: dict[tuple[str, int, str], tuple[list[float], dict[str, list[float]]]] = {}
    for elements, seed in ((n, seed) for n, number in draws.items() for seed in range(number)):
        say(f"{elements:,} elements, draw {seed + 1} of {draws[elements]}")
        for difference, log_x, log_y in distributions(elements, seed):
            for subject in (subject for subject, largest in subjects.items() if elements <= largest):
                dtype, _, log_target = subject.partition(", ")
                x, y = (rounded(a, dtype) for a in (log_x, log_y if log_target else np.exp(log_y)))
                exact, losses = found.setdefault((subject, elements, difference), ([], {}))
                exact.append(exact_loss(x, y, log_target=bool(log_target)))
                for name, loss in list(prepared[subject].items()):
                    try:
                        losses.setdefault(name, []).append(loss(x, y))
                    except Exception as error:
                        del prepared[subject][name], losses[name]
                        results.not_run[f"{name}, {subject}, from {elements:,} elements on"] = reason(error)
    for setting, (exact, losses) in found.items():
        results.rows += [Row(*setting, name, values, exact, losses.get(PYTORCH, [])) for name, values in losses.items()]
    return results


def _prepared(subject: str, results: Results) -> dict[str, Loss]:
    """All implementations that can run."""
    losses = {}
    dtype, _, log_target = subject.partition(", ")
    for name, dtypes, prepare in implementations():
        try:
            if dtype not in dtypes.split():
                raise TypeError(f"no {dtype}")
            losses[name] = prepare(dtype, bool(log_target))
        except Exception as error:
            results.not_run[f"{name}, {subject}"] = reason(error)
    return losses


def _rms(losses: Sequence[float], exact: Sequence[float]) -> float:
    """Root mean square of the errors; infinite if a loss is not a number."""
    error = math.sqrt(sum((loss - value) ** 2 for loss, value in zip(losses, exact, strict=True)) / len(exact))
    return math.inf if math.isnan(error) else error


def _share(error: float, of: float) -> float:
    """``error / of``; no error is none of anything, and any error of nothing is infinite."""
    return 0.0 if error == 0 else error / of if of else error * math.inf
