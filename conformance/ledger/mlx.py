"""Where MLX departs from PyTorch's formula: by its exponential and its sums."""

from dataclasses import fields
from functools import cached_property

import numpy as np

from conformance.elements import Elements, Floats
from conformance.ledger.entry import Deviation, Mask, Refusal, named, running_total, sum_overflows
from conformance.tolerance import K

_mlx = named("mlx.nn.losses.kl_div_loss")

_EPS = float(np.finfo(np.float32).eps)
_LARGEST = 88.0
_SMALLEST = -126.5 * np.log(2)
"""Below, the power of two that scales the exponential underflows."""
_SCALE_ERROR = abs(float(np.float32(1.442695)) * np.log(2) - 1)
"""Relative error of the constant 1 / ln 2 that MLX multiplies by."""


class _Seen(Elements):
    """Elements with the exponential as MLX computes it."""

    @cached_property
    def p(self) -> Floats:
        """Probability of the target, in float32 for every dtype."""
        y = self.y.astype(np.float32)
        exponential = np.where(y > _LARGEST, np.inf, np.where(y < _SMALLEST, 0.0, np.exp(y)))
        return exponential.astype(np.float32).astype(np.float64)


def _seen(e: Elements) -> Elements:
    return _Seen(**{field.name: getattr(e, field.name) for field in fields(e)})


def _beyond_float32(e: Elements) -> Mask:
    beyond: Mask = (e.y > _LARGEST) | (e.y < _SMALLEST) | np.asarray(e.dtype == "float64")
    return beyond


def _as_fine_as_float32(e: Elements) -> Mask:
    return np.full(e.y.shape, e.dtype in ("float32", "float64"))


def _roundings(e: Elements) -> Floats:
    """Errors of the exponential: of its scaled and rounded argument, and three roundings of the polynomial."""
    relative = np.abs(e.y) * (_EPS / 2 + _SCALE_ERROR) + 3 * _EPS
    return np.where((e.p > 0) & np.isfinite(e.p), e.p * relative, 0.0)


def _roundings_of_terms(e: Elements) -> Floats:
    return np.where(np.isfinite(e.y - e.x), _roundings(e) * (np.abs(e.y - e.x) + 1), 0.0)


DEVIATIONS = (
    Deviation(
        "float32-exponential",
        _mlx,
        ("loss", "input", "target"),
        _beyond_float32,
        None,
        "wrong: MLX computes the exponential of every dtype in float32; it is infinite above 88 and 0 below -87.7. A"
        " float64 loss has the precision and the range of float32",
        "close/1e-3/float64/log_target/none; https://github.com/ml-explore/mlx/issues/4158",
        sees=_seen,
    ),
    Deviation(
        "inexact-exponential",
        _mlx,
        ("loss", "target"),
        _as_fine_as_float32,
        None,
        "the exponential is a polynomial, whose error grows with the argument: 9 roundings at -22",
        "real/temperature-0.25/float32/log_target/none; https://github.com/ml-explore/mlx/issues/1341",
        roundings=_roundings_of_terms,
    ),
    Deviation(
        "inexact-exponential-by-input",
        _mlx,
        ("input",),
        _as_fine_as_float32,
        None,
        "the derivative uses the same exponential",
        "real/temperature-1/float32/log-of-zeros/log_target/none; https://github.com/ml-explore/mlx/issues/1341",
        roundings=_roundings,
    ),
    Deviation(
        "running-total",
        _mlx,
        ("loss",),
        # The error of a total of fewer elements is within the tolerance.
        lambda e: np.asarray(e.dtype == "float32" and e.reduction in ("sum", "mean") and e.x.size > 2 * K),
        lambda e: running_total(e.formula("loss"), 1, e.dtype) / e.divisor,
        "wrong by 3e-5 for a hundred thousand float32 elements: the sum is a running total in float32 (on x86)",
        "random/100x1000/recipe/float32/log_target/sum; https://github.com/ml-explore/mlx/issues/4379",
        reduced=True,
    ),
    Deviation(
        "float16-mean-overflows",
        _mlx,
        ("loss",),
        lambda e: np.asarray(
            e.dtype == "float16" and e.reduction in ("mean", "batchmean") and sum_overflows(e, "float16")
        ),
        lambda e: float(np.copysign(np.inf, e.formula("loss").sum())),
        "MLX rounds the sum to float16 before it divides by the number of elements or rows, and the sum may overflow",
        "random/12500x80/recipe/float16/log_target/mean",
        reduced=True,
    ),
)

REFUSALS: tuple[Refusal, ...] = ()
