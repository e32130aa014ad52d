"""Where MindSpore departs from PyTorch's formula on the CPU."""

import numpy as np

from conformance.elements import Elements, Floats
from conformance.ledger.entry import Deviation, Mask, Refusal, among_probabilities, running_total, zero
from conformance.ledger.formulas import mindspore
from conformance.tolerance import K


def _product(e: Elements) -> Floats:
    product: Floats = e.y * (e.log_p - e.x)
    return product


def _loss(e: Elements) -> Floats:
    """Its loss of every element, with 0 in place of NaN."""
    return np.where(np.isnan(_product(e)), 0.0, _product(e))


def _subnormal(e: Elements) -> Mask:
    mask: Mask = e.subnormal(e.y) | e.subnormal(e.y * e.weight) | e.subnormal(_product(e))
    return mask


def _divided_in_float16(e: Elements) -> float:
    return float(e.rounded(_loss(e).sum()) / e.rounded(e.divisor))


def _too_large_for_float16(e: Elements) -> bool:
    if e.dtype != "float16" or e.reduction not in ("mean", "batchmean"):
        return False
    total = _loss(e).sum()
    return bool((np.isfinite(total) and np.isinf(e.rounded(total))) or np.isinf(e.rounded(e.divisor)))


DEVIATIONS = (
    Deviation(
        "subnormals-are-zero-to-workers",
        mindspore,
        ("loss", "input"),
        lambda e: among_probabilities(e, _subnormal(e)),
        None,
        "the threads of MindSpore's pool flush subnormal arguments and results to zero; the calling thread does not."
        " MindSpore chooses between them by timing its first calls",
        "random/16x10/sparse/float32/target/none",
        sees=Elements.with_flush,
        by_chance=True,
    ),
    Deviation(
        "nan-loss-is-zero",
        mindspore,
        ("loss",),
        lambda e: among_probabilities(e, np.isnan(_product(e))),
        zero,
        "wrong: MindSpore replaces a NaN loss by 0. This is right for zero targets, but hides NaN inputs, NaN targets,"
        " negative targets and inf - inf",
        "edge/grid/float32/target/none at y = 1, x = nan",
    ),
    Deviation(
        "no-gradient-by-target",
        mindspore,
        ("target",),
        lambda e: among_probabilities(e, np.full(e.y.shape, True)),
        zero,
        "wrong: MindSpore does not differentiate by the target, and returns 0 without an error",
        "documentation/float32/target/none",
    ),
    Deviation(
        "float64-running-total",
        mindspore,
        ("loss",),
        # The error of a total of fewer elements is within the tolerance.
        lambda e: np.asarray(e.dtype == "float64" and e.reduction != "none" and e.x.size > 2 * K),
        lambda e: running_total(_loss(e), 1, e.dtype) / e.divisor,
        "the sum of a float64 loss is one running total, with a relative error of 1e-13 for a million elements; the sum"
        " of a float32 loss is more accurate",
        "random/1000x1000/recipe/float64/target/sum",
        reduced=True,
    ),
    Deviation(
        "float16-division-overflows",
        mindspore,
        ("loss",),
        lambda e: np.asarray(_too_large_for_float16(e)),
        _divided_in_float16,
        "wrong: the sum and the number of elements are rounded to float16 before the division. The mean of more than"
        " 65,519 elements is 0 or NaN, and the mean is infinite if the sum overflows",
        "random/100x1000/recipe/float16/target/mean",
        reduced=True,
    ),
)

REFUSALS: tuple[Refusal, ...] = ()
