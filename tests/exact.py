"""What the loss and its gradient are, to fifty digits; and how far from that a floating-point result may be.

The values come from the formula in the documentation, evaluated by mpmath on the numbers as given, and from the table
in the documentation where the formula breaks down. Nothing here knows of the code under test.
"""

import importlib
import math
from collections.abc import Iterable
from typing import Any

import mpmath
import numpy as np
from mpmath import mp, mpf

from conformance.tolerance import K
from tests.backends import Exact, divisor, dtype_name, numbers, underflow

mp.dps = 50

NAN, INF = mpf("nan"), mpf("inf")

RESULT_DTYPES = {
    "float16": (2.0**-10, 2.0**-24),
    "bfloat16": (2.0**-7, 2.0**-133),
    "float32": (2.0**-23, 2.0**-149),
    "float64": (2.0**-52, 2.0**-1074),
}
"""Spacing of the numbers at 1, and smallest positive number."""


def loss(x: float, y: float, *, log_target: bool = False, convention: str = "oneflow") -> mpf:
    """Exact loss of one element: the table of the documentation, and the formula elsewhere."""
    if math.isnan(y):
        return NAN
    if log_target:
        if y == -math.inf:
            return mpf(0) if convention == "limit" and not math.isnan(x) else NAN
        return mpmath.exp(y) * (mpf(y) - x)
    if y < 0:
        return mpf(0) if convention == "oneflow" else NAN
    if y == 0:
        counts_as_zero = {"oneflow": True, "torch": math.isfinite(x), "limit": not math.isnan(x)}
        return mpf(0) if counts_as_zero[convention] else NAN
    if convention == "torch":
        return mpf(y) * mpmath.log(y) - mpf(y) * x
    return mpf(y) * (mpmath.log(y) - x)


def derivative(x: float, y: float, argnum: int, *, log_target: bool = False, convention: str = "oneflow") -> mpf:
    """Exact derivative of the loss of one element; 0 where the convention counts the element as zero.

    By central differences of the formula with a step so small, at a precision so high, that fifty digits are right.
    """
    if (not log_target and y <= 0) or (log_target and y == -math.inf):
        value = loss(x, y, log_target=log_target, convention=convention)
        return value if mpmath.isnan(value) else mpf(0)

    def along(argument: mpf) -> mpf:
        a, b = (argument, mpf(y)) if argnum == 0 else (mpf(x), argument)
        return mpmath.exp(b) * (b - a) if log_target else b * (mpmath.log(b) - a)

    at = mpf((x, y)[argnum])
    with mp.workdps(160):
        step = (at if at and not log_target else mpf(1)) * mpf(10) ** -60
        return (along(at + step) - along(at - step)) / (2 * step)


def losses(x: Exact, y: Exact, *, log_target: bool = False, convention: str = "oneflow") -> list[mpf]:
    """Exact losses of all elements, flattened."""
    return [loss(a, b, log_target=log_target, convention=convention) for a, b in _pairs(x, y)]


def derivatives(x: Exact, y: Exact, argnum: int, *, log_target: bool = False, convention: str = "oneflow") -> list[mpf]:
    """Exact derivatives of the losses of all elements, flattened."""
    return [derivative(a, b, argnum, log_target=log_target, convention=convention) for a, b in _pairs(x, y)]


def reduced(elements: list[mpf], shape: tuple[int, ...], reduction: str) -> list[mpf]:
    """Exact reduction of the losses of all elements; a list of one, or of all with ``"none"``."""
    if reduction == "none":
        return elements
    over = divisor(shape, reduction)
    return [mpmath.fsum(elements) / over if over else NAN]


def tolerances(x: Exact, y: Exact, xp: Any, dtype: str, *, log_target: bool = False) -> list[mpf]:
    """How far the computed loss of each element may be from the exact one.

    ``k eps p (|log p| + |x| + 1)``; and where numbers are so small that they have an absolute precision only, that
    precision of ``p`` in place of ``eps p``. float16 and bfloat16 are computed in float32.
    """
    computing = "float64" if dtype == "float64" else "float32"
    eps, smallest = RESULT_DTYPES[computing][0], underflow(xp, computing)
    return [
        K * (eps * p + smallest) * (abs(log_p) + abs(mpf(a)) + 1)
        for a, p, log_p in ((a, *_p_and_log_p(b, log_target)) for a, b in _pairs(x, y))
    ]


def derivative_tolerances(
    x: Exact, y: Exact, argnum: int, xp: Any, dtype: str, *, log_target: bool = False
) -> list[mpf]:
    """How far the computed derivative of each element may be from the exact one, derived as for the loss."""
    computing = "float64" if dtype == "float64" else "float32"
    eps, smallest = RESULT_DTYPES[computing][0], underflow(xp, computing)
    result = []
    for a, b in _pairs(x, y):
        p, log_p = _p_and_log_p(b, log_target)
        terms = mpf(1) if argnum == 0 else abs(log_p) + abs(mpf(a)) + 1
        scale = p if argnum == 0 or log_target else mpf(1)
        result.append(K * (eps * scale + smallest) * terms)
    return result


def gradients_agree(one: Any, other: Any, x: Any, y: Any, argnum: int, log_target: bool, dtype: str) -> None:
    """Fail unless two gradients are the same within twice the tolerance of each."""
    xp = importlib.import_module(type(x).__module__)
    values = derivative_tolerances(numbers(x), numbers(y), argnum, xp, dtype, log_target=log_target)
    within = np.asarray([float(value) for value in values]).reshape(x.shape)
    assert np.all(np.abs(numbers(one) - numbers(other)) <= 2 * within)


def assert_within(actual: Any, exact: list[mpf], tolerance: list[mpf], dtype: str) -> None:
    """Fail unless ``actual`` is of ``dtype`` and each number in it is the exact one, within its tolerance.

    A result that is narrower than what it was computed in is rounded once more. NaN and infinity must match exactly.
    """
    assert dtype_name(actual) == dtype
    eps, smallest = RESULT_DTYPES[dtype]
    once_more = dtype in ("float16", "bfloat16")
    values = numbers(actual).ravel()
    assert len(values) == len(exact) == len(tolerance)
    for index, (value, wanted, within) in enumerate(zip(values.tolist(), exact, tolerance, strict=True)):
        if not mpmath.isfinite(wanted):
            assert _same(value, wanted), f"element {index} is {value}, must be {wanted}"
        else:
            within += (eps * abs(wanted) + smallest) / 2 if once_more else 0
            error = abs(mpf(value) - wanted)
            assert error <= within, f"element {index} is {value}, must be {mpmath.nstr(wanted, 20)} ± {float(within)}"


def total(tolerance: list[mpf], shape: tuple[int, ...], reduction: str) -> list[mpf]:
    """Tolerance of the reduction: that of a sum is the sum of those of its terms."""
    return reduced(tolerance, shape, reduction)


def _pairs(x: Exact, y: Exact) -> Iterable[tuple[float, float]]:
    return zip(np.asarray(x).ravel().tolist(), np.asarray(y).ravel().tolist(), strict=True)


def _p_and_log_p(y: float, log_target: bool) -> tuple[mpf, mpf]:
    if log_target:
        return (mpmath.exp(y), mpf(y)) if math.isfinite(y) else (mpf(0), mpf(0))
    return (mpf(y), mpmath.log(y)) if 0 < y < math.inf else (mpf(0), mpf(0))


def _same(value: float, wanted: mpf) -> bool:
    return math.isnan(value) if mpmath.isnan(wanted) else value == float(wanted)
