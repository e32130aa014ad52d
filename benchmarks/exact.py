"""The exact loss of the inputs as given, for ten million elements in a second.

Of close distributions the terms ``p (log p - x)`` cancel, so that the rounding of a float64 logarithm may be much
of what is left. Here the logarithm has an absolute error of about 2**-76, and products and sums lose nothing beside it.
Only float64 is used, for not every machine has a longer type.
"""

import math
from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

BLOCK = 1 << 15
"""Elements that are computed at once: small enough for the cache."""
CELLS = 1 << 11
"""Mantissas are told apart by so many steps."""
ON_GRID = 2.0**42
"""The high part of a logarithm is a multiple of the inverse, so that sums of such parts are exact."""


def exact_loss(x: npt.NDArray[Any], y: npt.NDArray[Any], *, log_target: bool = False) -> float:
    """The ``"batchmean"`` of the losses of finite elements, right to nearly all digits of float64."""
    flat_x, flat_y = x.reshape(-1), y.reshape(-1)
    sums: list[float] = []
    for start in range(0, len(flat_x), BLOCK):
        a, b = (flat[start : start + BLOCK].astype(np.float64) for flat in (flat_x, flat_y))
        sums += _block(a, b, log_target)
    return math.fsum(sums) / len(x)


def _block(x: Floats, y: Floats, log_target: bool) -> tuple[float, float]:
    """Sum of the losses, as a high and a low part."""
    if log_target:
        p = np.exp(y)
        p_low = -p * sum(_log_minus(p, y))  # the logarithm of that exponential should be y
        high, low = _two_sum(y, -x)
    else:
        p, p_low = y, np.zeros_like(y)
        high, low = _log_minus(y, x)
    p_high, p_rest = _halves(p)
    first, rest = _halves(high)
    remainder = p_high * rest + (p_rest + p_low) * high + p * low
    return math.fsum((p_high * first).tolist()), math.fsum(remainder.tolist())


def _log_minus(y: Floats, x: Floats) -> tuple[Floats, Floats]:
    """``log y - x`` as a high and a low part; where ``y`` is zero, numbers of no meaning, but finite."""
    mantissa, exponent = np.frexp(y)
    cell = (mantissa * CELLS).astype(np.int64)
    inverse = _INVERSES[cell]
    # mantissa * inverse = 1 + r: both products are exact, for the inverse has 13 bits.
    upper, lower = _halves(mantissa)
    r, r_low = _two_sum(upper * inverse - 1.0, lower * inverse)
    series = np.zeros_like(r)
    for power in range(8, 1, -1):
        series = (series + (-1.0) ** (power + 1) / power) * r
    high, low = _two_sum(exponent * _LOG2[0] + _LOG_HIGH[cell], -x)
    high, more = _two_sum(high, r)
    return high, low + more + r_low + series * r + exponent * _LOG2[1] + _LOG_LOW[cell]


def _two_sum(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """The sum rounded, and what rounding lost (Knuth)."""
    total = a + b
    shadow = total - a
    return total, (a - (total - shadow)) + (b - shadow)


def _halves(a: Floats) -> tuple[Floats, Floats]:
    """The number to 24 bits, and the other 29: the product of two halves is exact, or nearly so."""
    high = a.astype(np.float32).astype(np.float64)
    return high, a - high


def _split(value: Decimal) -> tuple[float, float]:
    high = round(value * Decimal(ON_GRID)) / ON_GRID
    return high, float(value - Decimal(high))


def _tables() -> tuple[tuple[float, float], Floats, Floats, Floats]:
    """Logarithm of two; inverses of the middles of the cells, to 13 bits, and minus their logarithms."""
    inverses = np.ones(CELLS)  # no mantissa is in the lower half of the cells
    inverses[CELLS // 2 :] = np.round(2.0**12 * CELLS / (np.arange(CELLS // 2, CELLS) + 0.5)) / 2.0**12
    with localcontext(prec=50):
        logarithms = [_split(-Decimal(inverse).ln()) for inverse in inverses.tolist()]
        log2 = _split(Decimal(2).ln())
    high, low = np.asarray(logarithms).T.copy()
    return log2, inverses, high, low


_LOG2, _INVERSES, _LOG_HIGH, _LOG_LOW = _tables()
