"""The divergences between softmaxes, and their derivatives, in array API calls.

``x`` are the student's logits, with the distribution ``q``; ``y`` are the teacher's, with ``p``. There are two
formulas: ``KL(p || q)``, which is ``beta = 0``, and the Jensen-Shannon divergence. ``beta = 1`` is the first, with
student and teacher exchanged.

Both sum terms that are never negative, so that nothing cancels when the distributions are close: with
``r = log(p / q)``, a class adds ``p r - p + q``, which changes no sum, because ``p`` and ``q`` have the same sum. An
error in the logarithm of a sum is an error in all ``r`` of a row. In these terms it matters in second order only.
"""

from typing import Any, NamedTuple

Array = Any
Namespace = Any

NEAR = 0.125
"""Bound of ``abs(r)`` below which terms take a series."""
FAR = 80.0
"""Bound of ``abs(r)`` above which ``p`` or ``q`` is negligible beside the other."""
IMPOSSIBLE = -1e30
"""Replaces a logit of -inf in ``r``, which is then a number."""
_LAST = 10
"""Last power of the series, whose relative error is below 1e-15."""


class Softmaxes(NamedTuple):
    """Two distributions, and the logarithm of their ratio, which is huge but finite for impossible classes."""

    p: Array
    q: Array
    r: Array


def shifted(x: Array, top: Array, temperature: float) -> Array:
    """Logits below their maximum ``top``, divided by the temperature."""
    return (x - top) / temperature


def softmaxes(x: Array, y: Array, difference: Array, log_sum_x: Array, log_sum_y: Array, xp: Namespace) -> Softmaxes:
    """Distributions of shifted logits, from the logarithms of the sums of their exponentials.

    ``difference`` is ``y - x``, with logits of at least ``IMPOSSIBLE``. It has no rounding error if they are close.
    """
    return Softmaxes(xp.exp(y - log_sum_y), xp.exp(x - log_sum_x), difference - (log_sum_y - log_sum_x))


def divergence_terms(of: Softmaxes, beta: float, xp: Namespace) -> Array:
    """Term of each class; their sum is the divergence."""
    p, q, r = of
    near = xp.abs(r) < NEAR
    if beta == 0.0:
        far = xp.where(r > -0.5 * IMPOSSIBLE, xp.inf, p * r + (q - p))
        return xp.where(near, p * _excess(xp.where(near, r, 0.0)), far)
    by_p, by_q = scores(of, beta, xp)
    small_p, small_q = (xp.where(near, score, 0.0) for score in (by_p, by_q))  # powers of others would overflow
    p, q = beta * p, (1.0 - beta) * q
    return xp.where(near, p * _excess(small_p) + q * _excess(small_q), p * by_p + q * by_q)


def divergence_terms_of_wide(of: Softmaxes, beta: float, xp: Namespace) -> Array:
    """The same in float64, with fewer operations. Of float64 logits, digits are lost in very close distributions."""
    p, q, r = of
    if beta == 0.0:
        terms = xp.where(r < -FAR, q, p * (r + xp.expm1(-r)))
        return xp.where(r > -0.5 * IMPOSSIBLE, xp.inf, terms)
    by_p, by_q = scores(of, beta, xp)
    return (beta * p) * by_p + ((1.0 - beta) * q) * by_q


def scores(of: Softmaxes, beta: float, xp: Namespace) -> tuple[Array, Array]:
    """``log(p / m)`` and ``log(q / m)``, with the mixture ``m = beta p + (1 - beta) q``."""
    # Above FAR, log(p / m) is constant; below -FAR, log(q / m) is. The exponential must not overflow there.
    low = xp.where(of.r < -FAR, -FAR, of.r)
    clipped = xp.where(low > FAR, FAR, low)
    by_p = -xp.log1p((1.0 - beta) * xp.expm1(-clipped))
    return by_p + (of.r - low), by_p - low


def difference(of: Softmaxes, xp: Namespace) -> Array:
    """``q - p``, the derivative of ``KL(p || q)`` by the student's logits, without a difference of close numbers.

    Not by the hyperbolic tangent alone: where it is near 1, autodiff computes its derivative as ``1 - tanh(r)**2``.
    """
    p, q, r = of
    near = xp.abs(r) < 1.0
    return xp.where(near, (p + q) * xp.tanh(-0.5 * xp.where(near, r, 0.0)), q - p)


def _excess(r: Array) -> Array:
    """``exp(-r) - 1 + r`` for small ``r``."""
    series = 1.0 - r / _LAST
    for power in range(_LAST - 1, 2, -1):
        series = 1.0 - r / power * series
    return 0.5 * r * r * series
