"""What the divergences between softmaxes and their gradients are, to fifty digits.

The values come from the definitions in the documentation, evaluated by mpmath on the logits as given. Nothing here
knows of the code under test.
"""

from typing import Any

import mpmath
import numpy as np
from mpmath import mp, mpf

from tests.backends import Exact

mp.dps = 50

Row = list[mpf]


def rows(x: Exact, y: Exact, beta: float, temperature: float) -> Exact:
    """Divergence of each row, whose classes are along the last axis; rounded to float64."""
    pairs = zip(x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1]), strict=True)
    return np.asarray([float(divergence(*pair, beta, temperature)) for pair in pairs]).reshape(x.shape[:-1])


def gradients(x: Exact, y: Exact, beta: float, temperature: float) -> tuple[Exact, Exact]:
    """Derivatives of the divergences of the rows by both arrays of logits; rounded to float64."""
    by_x: list[list[float]] = []
    by_y: list[list[float]] = []
    for pair in zip(x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1]), strict=True):
        for result, derivatives in zip((by_x, by_y), _derivatives(*pair, beta, temperature), strict=True):
            result.append([float(number) for number in derivatives])
    return np.asarray(by_x).reshape(x.shape), np.asarray(by_y).reshape(y.shape)


def divergence(x: Any, y: Any, beta: float, temperature: float) -> mpf:
    """Divergence of one row of logits."""
    q, p = softmax(x, temperature), softmax(y, temperature)
    if beta == 0:
        return kl(p, q)
    if beta == 1:
        return kl(q, p)
    m = _mixture(p, q, beta)
    return mpf(beta) * kl(p, m) + (1 - mpf(beta)) * kl(q, m)


def softmax(x: Any, temperature: float) -> Row:
    """Probabilities; NaN for a row whose classes are all impossible, or with a logit of NaN or infinity."""
    x = [mpf(float(logit)) / mpf(temperature) for logit in x]
    if any(mpmath.isnan(logit) or logit == mpf("inf") for logit in x) or all(logit == mpf("-inf") for logit in x):
        return [mpf("nan")] * len(x)
    top = max(x)
    exponentials = [mpmath.exp(logit - top) for logit in x]
    total = sum(exponentials)
    return [each / total for each in exponentials]


def kl(p: Row, q: Row) -> mpf:
    """``KL(p || q)``: a class with ``p = 0`` adds nothing, one with ``q = 0`` alone makes it infinite."""
    if any(mpmath.isnan(each) for each in (*p, *q)):
        return mpf("nan")
    if any(a > 0 and b == 0 for a, b in zip(p, q, strict=True)):
        return mpf("inf")
    return mpmath.fsum(a * mpmath.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def _derivatives(x: Any, y: Any, beta: float, temperature: float) -> tuple[Row, Row]:
    q, p = softmax(x, temperature), softmax(y, temperature)
    if beta == 0:
        return _difference(p, q, temperature), _weighted(p, q, mpf(1), temperature)
    if beta == 1:
        return _weighted(q, p, mpf(1), temperature), _difference(q, p, temperature)
    m = _mixture(p, q, beta)
    return _weighted(q, m, 1 - mpf(beta), temperature), _weighted(p, m, mpf(beta), temperature)


def _difference(p: Row, q: Row, temperature: float) -> Row:
    return [(b - a) / mpf(temperature) for a, b in zip(p, q, strict=True)]


def _weighted(p: Row, m: Row, share: mpf, temperature: float) -> Row:
    of_row = kl(p, m)
    if not mpmath.isfinite(of_row):
        return [mpf("nan")] * len(p)
    return [
        share * a * (mpmath.log(a / b) - of_row) / mpf(temperature) if a > 0 else mpf(0)
        for a, b in zip(p, m, strict=True)
    ]


def _mixture(p: Row, q: Row, beta: float) -> Row:
    return [mpf(beta) * a + (1 - mpf(beta)) * b for a, b in zip(p, q, strict=True)]
