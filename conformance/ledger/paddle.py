"""Where Paddle departs from PyTorch's formula, apart from what it shares with OneFlow and old PyTorch."""

import numpy as np

from conformance.elements import Elements
from conformance.ledger.entry import Deviation, Refusal, gives_what_was_asked, running_total, zero
from conformance.ledger.formulas import paddle
from conformance.tolerance import K

_BYTES_AT_ONCE = 32
"""Vector width of Paddle on the CPU of the recording."""

_REDUCTIONS = ("none", "mean", "sum", "batchmean")


def _lanes(e: Elements) -> int:
    return _BYTES_AT_ONCE // np.dtype(e.dtype).itemsize


DEVIATIONS = (
    Deviation(
        "no-gradient-by-label",
        paddle,
        ("target",),
        lambda e: np.full(e.y.shape, True),
        zero,
        "wrong: Paddle gives no gradient by the target, and raises no error. If one array is both arguments, its"
        " gradient is the one by the input alone",
        "calls/6x10/one-array/target/sum; https://github.com/PaddlePaddle/PaddleOCR/pull/5643",
    ),
    Deviation(
        "mean-of-a-running-total",
        paddle,
        ("loss",),
        # The error of a total of fewer elements is within the tolerance.
        lambda e: np.asarray(e.reduction == "mean" and e.x.size > 2 * K * _lanes(e)),
        lambda e: running_total(e.formula("loss"), _lanes(e), e.dtype) / e.divisor,
        "wrong by 3e-5 for a million float32 elements: the mean uses a running total in the dtype of the arrays, in"
        " each lane of a vector; sum and batchmean add pairwise",
        "random/1000x1000/recipe/float32/log_target/mean",
        reduced=True,
    ),
)

REFUSALS = (
    Refusal(
        "unknown-reduction-taken",
        paddle,
        lambda case, outcome: case.reduction not in _REDUCTIONS and gives_what_was_asked(case, outcome),
        'wrong: an unknown reduction counts as "none", and the loss is an array',
        "refused/unknown-reduction/log_target/average",
    ),
)
