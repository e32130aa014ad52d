"""Where ``torch.nn.KLDivLoss`` departs from its own formula."""

import numpy as np

from conformance.ledger.entry import (
    Deviation,
    Refusal,
    among_probabilities,
    floating_arrays,
    gives_what_was_asked,
    sum_overflows,
    zero,
)
from conformance.ledger.formulas import pytorch, pytorch_until_1_12
from conformance.record import Case, Implementation


def _pytorch(implementation: Implementation) -> bool:
    return pytorch(implementation) and not pytorch_until_1_12(implementation)


def _scales_before_dividing(implementation: Implementation) -> bool:
    return _pytorch(implementation) or implementation.name == "optax.losses.kl_divergence"


def _arrays_but_not_floating(case: Case) -> bool:
    return case.input.is_array and case.target.is_array and not floating_arrays(case)


DEVIATIONS = (
    Deviation(
        "float16-batchmean-overflows",
        _pytorch,
        ("loss",),
        lambda e: np.asarray(e.dtype == "float16" and e.reduction == "batchmean" and sum_overflows(e)),
        lambda e: float(np.copysign(np.inf, e.formula("loss").sum())),
        "PyTorch rounds the sum to float16 before it divides by the length of the batch, and the sum may overflow",
        "random/12500x80/recipe/float16/target/batchmean",
        reduced=True,
    ),
    Deviation(
        "lost-one",
        _scales_before_dividing,
        ("target",),
        lambda e: among_probabilities(e, (e.y > 0) & (np.abs(e.y * e.weight) < e.tiny)),
        lambda e: e.log_p + e.per_weight(e.rounded(e.y * e.rounded(e.weight)) / e.y) - e.x,
        "PyTorch and Optax compute log y + 1 - x as (g log y) + (g y) / y - g x, with the gradient g of the sum. Where"
        " g y underflows, the term 1 loses digits, or is lost. In float16 this affects ordinary numbers",
        "close/1e-2/float16/target/mean",
    ),
    Deviation(
        "zero-target-gradient-masked",
        pytorch_until_1_12,
        ("target",),
        lambda e: among_probabilities(e, e.y == 0),
        zero,
        "PyTorch up to 1.12 gave 0 for the derivative by a zero target, for every input; now it gives NaN",
        "real/temperature-0.25/float32/target/none; https://github.com/pytorch/pytorch/issues/89558",
    ),
)

REFUSALS = (
    Refusal(
        "integral-and-complex-arrays-taken",
        pytorch_until_1_12,
        lambda case, outcome: _arrays_but_not_floating(case) and gives_what_was_asked(case, outcome),
        "PyTorch up to 1.12 computed the loss of integer, boolean and complex arrays",
        "refused/int32-target/target/mean",
    ),
    Refusal(
        "input-kept-for-backward",
        pytorch_until_1_12,
        lambda case, outcome: case.call == "changed after" and "inplace operation" in str(outcome.error),
        "PyTorch up to 1.12 saved the input for the backward pass, so the input must not be overwritten before,"
        " although the derivative by the input needs only the target",
        "calls/6x10/changed-after/target/sum",
    ),
    Refusal(
        "mixed-dtypes-not-differentiated",
        pytorch_until_1_12,
        lambda case, outcome: outcome.error is not None and case.input.dtype != case.target.dtype,
        "PyTorch up to 1.12 computed the loss for two dtypes, but raised for its gradient",
        "random/5x3/even/float32+float64/target/sum",
    ),
)
