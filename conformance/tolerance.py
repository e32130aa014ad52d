"""The tolerance of a comparison: derived from the roundings of the formula, and the same for everyone."""

from dataclasses import replace

import numpy as np

from conformance.elements import LARGEST, Elements, Floats
from conformance.record import Values

K = 8
"""Rounding errors of one element, in units of its size times the machine epsilon, both sides taken together.

The logarithm or the exponential is off by up to 4 units in the last place in the worst of the libraries (NumPy states
4 for float32), by 1 in PyTorch; a subtraction, a product and a rounding to the final dtype add 1/2 each, on both sides.
That makes 4 + 1 + 6/2 = 8. The same 8 holds for every implementation, dtype, quantity and reduction.
"""


def tolerance(elements: Elements, quantity: str) -> Floats:
    """Largest difference that rounding can make, for every element of a quantity.

    An element is a probability ``p`` times its terms, ``|log p| + |x| + 1``. It suffers ``K`` roundings, each of them
    relative (the machine epsilon times ``p``) or, should it underflow, absolute (the smallest subnormal number). A sum
    suffers the sum of what its elements do. A gradient is multiplied by its weight, the upstream gradient over the
    reduction's divisor, which is rounded, too. The gradient by one array that is both arguments is a sum of two.
    """
    if quantity == "input" and elements.one_array:
        apart = replace(elements, one_array=False)
        return tolerance(apart, "input") + tolerance(apart, "target")
    smallest, divisor = elements.smallest, max(elements.divisor, 1)
    has_p = quantity != "target" or elements.log_target
    p = np.nan_to_num(np.abs(elements.p), posinf=0.0) if has_p else np.ones_like(elements.p)
    terms = np.ones_like(elements.x) if quantity == "input" else elements.terms
    each = (elements.eps * p + smallest) * terms
    if quantity != "loss":
        largest = np.maximum(np.abs(elements.cotangent), 1)  # by which what has underflowed may be multiplied
        return K * (each * np.abs(elements.weight) + smallest * (p * terms + largest))
    if elements.reduction == "none":
        return K * (each + smallest)
    return K * np.asarray((each + smallest).sum() / divisor + smallest)


def rounding_decides(elements: Elements, got: Values, wanted: Values) -> bool:
    """Whether one sum is infinite and the other NaN because rounding decides if an element overflows.

    It meets an infinity of the other sign then, and their sum is NaN.
    """
    if np.isnan(got) == np.isnan(wanted) or not (np.isinf(got) or np.isinf(wanted)):
        return False
    sign = np.sign(wanted if np.isnan(got) else got)
    half = 0.5 * elements.p * (elements.log_p - elements.x)  # of elements that may overflow
    bound = 0.5 * tolerance(replace(elements, reduction="none", divisor=1), "loss")
    limit = 0.5 * min(LARGEST[elements.computing_dtype], LARGEST[elements.promoted_dtype])
    at_limit = np.abs(np.abs(half) - limit) <= bound
    beyond = (np.abs(half) > limit) & ~at_limit
    of_other_sign = np.sign(half) == -sign
    may_be_infinite = ((at_limit | beyond) & ~of_other_sign & ~np.isnan(half)).any()
    decides = may_be_infinite and (at_limit & of_other_sign).any() and not (beyond & of_other_sign).any()
    return bool(decides and not np.isnan(half).any())
