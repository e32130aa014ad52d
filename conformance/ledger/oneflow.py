"""Where OneFlow departs from PyTorch's formula, apart from the deviations that it shares with old PyTorch."""

import numpy as np

from conformance.elements import Elements, Floats
from conformance.ledger.entry import Deviation, Refusal, among_log_probabilities, among_probabilities
from conformance.ledger.formulas import mindspore, oneflow, paddle

_SMALLEST_IN_LOGARITHM = 1e-20


def _float32(values: Floats) -> Floats:
    return values.astype(np.float32).astype(np.float64)


def _float32_logarithm(e: Elements) -> Floats:
    """Rounding error of a float32 logarithm, for float64 cases."""
    logarithm = np.abs(np.log(_float32(np.maximum(e.y, _SMALLEST_IN_LOGARITHM))))
    return np.where(e.dtype == "float64", np.abs(e.y) * logarithm * np.finfo(np.float32).eps, 0.0)


DEVIATIONS = (
    Deviation(
        "float32-logarithm",
        oneflow,
        ("loss",),
        lambda e: among_probabilities(e, (e.y > 0) & np.asarray(e.dtype == "float64")),
        lambda e: e.y * (np.log(_float32(e.y)) - e.x),
        "wrong: OneFlow converts a float64 target to float32, and computes the logarithm in float32. The error is up to"
        " 1e-7 of y log y, and the loss is infinite for targets above 3.4e38",
        "close/1e-6/float64/target/none",
        roundings=_float32_logarithm,
    ),
    Deviation(
        "clamped-logarithm",
        oneflow,
        ("loss",),
        lambda e: among_probabilities(e, (e.y > 0) & (e.y < _SMALLEST_IN_LOGARITHM)),
        lambda e: e.y * (np.log(_SMALLEST_IN_LOGARITHM) - e.x),
        "wrong: for targets below 1e-20 OneFlow uses the logarithm of 1e-20",
        "edge/grid/float32/target/none at y = 1e-30",
        roundings=_float32_logarithm,
    ),
    Deviation(
        "infinite-gradient-at-zero-target",
        oneflow,
        ("target",),
        lambda e: among_probabilities(e, e.y == 0),
        lambda e: e.log_p + 1 - e.x,
        "wrong: the loss is 0 there, but its gradient is that of y log y, -inf; PyTorch gives NaN",
        "real/temperature-0.25/float32/target/none",
    ),
    Deviation(
        "factored-gradient-of-a-difference",
        oneflow,
        ("target",),
        lambda e: among_log_probabilities(e, np.isinf(e.p) & (e.y == e.x)),
        lambda e: e.p * (e.y - e.x + 1),
        "PyTorch up to 1.12 computed p (log p + 1 - x); OneFlow adds the 1 last, and does not lose it for a huge input",
        "edge/grid/float32/log_target/none at y = x = 2.1e37",
    ),
    Deviation(
        "mean-of-nothing",
        oneflow,
        ("loss",),
        lambda e: np.asarray(e.x.size == 0 and e.reduction == "mean"),
        lambda _: 0.0,
        "the mean over no elements is 0; PyTorch computes 0 / 0 = NaN",
        "random/0x4/even/float32/target/mean",
        reduced=True,
    ),
)

REFUSALS = (
    Refusal(
        "mixed-dtypes-refused",
        lambda implementation: any(who(implementation) for who in (oneflow, paddle, mindspore)),
        lambda case, outcome: outcome.error is not None and case.input.dtype != case.target.dtype,
        "both arrays must have the same dtype, except that Paddle promotes float32 with float64; PyTorch promotes all",
        "random/5x3/even/float32+float64/target/sum",
    ),
    Refusal(
        "batchmean-of-a-0-d-array-refused",
        lambda implementation: oneflow(implementation) or mindspore(implementation),
        lambda case, outcome: (
            outcome.error is not None and case.reduction == "batchmean" and case.input.values.shape == ()
        ),
        "a 0-d array has no batch; PyTorch gives the sum",
        "random/0-d/even/float32/target/batchmean",
    ),
)
