"""Deviations of the implementations whose formula differs from that of PyTorch since 1.13."""

import re

import numpy as np

from conformance.ledger.entry import (
    Deviation,
    Refusal,
    among_log_probabilities,
    among_probabilities,
    computed,
    named,
    products_out_of_range,
    zero,
)
from conformance.record import Implementation

pytorch = named("torch.nn.KLDivLoss")
"""Whether this is ``torch.nn.KLDivLoss``, of any version."""


def pytorch_until_1_12(implementation: Implementation) -> bool:
    """Whether this is ``torch.nn.KLDivLoss`` before 1.13, which had another formula."""
    version = re.match(r"1\.(\d+)\b", implementation.version())
    return pytorch(implementation) and version is not None and int(version[1]) < 13


def oneflow(implementation: Implementation) -> bool:
    """Whether this is OneFlow itself."""
    return implementation.library == "oneflow"


def paddle(implementation: Implementation) -> bool:
    """Whether this is PaddlePaddle."""
    return implementation.library == "paddle"


def mindspore(implementation: Implementation) -> bool:
    """Whether this is MindSpore."""
    return implementation.library == "mindspore"


def zero_unless_positive(implementation: Implementation) -> bool:
    """Whether the loss is 0 unless the target is positive."""
    foreign = oneflow(implementation) or paddle(implementation) or pytorch_until_1_12(implementation)
    return foreign or implementation.convention == "oneflow"


def factored_formula(implementation: Implementation) -> bool:
    """Whether the loss is one product."""
    return implementation.convention == "limit" or zero_unless_positive(implementation)


def _product(implementation: Implementation) -> bool:
    one_product = implementation.name in ("optax.losses.kl_divergence", "scipy.special.rel_entr")
    return one_product or mindspore(implementation) or factored_formula(implementation)


def _foreign_and_zero_unless_positive(implementation: Implementation) -> bool:
    foreign = implementation.convention is None and not paddle(implementation)  # which keeps NaN
    return foreign and zero_unless_positive(implementation)


def _equal_shapes_only(implementation: Implementation) -> bool:
    foreign = oneflow(implementation) or paddle(implementation) or mindspore(implementation)
    return foreign or implementation.convention is not None


DEVIATIONS = (
    Deviation(
        "factored-formula",
        _product,
        ("loss",),
        lambda e: among_probabilities(e, (e.y > 0) & products_out_of_range(e)),
        lambda e: computed(e, e.y * (e.log_p - e.x)),
        "y (log y - x) is one product. PyTorch subtracts two, y log y - y x. Both are infinite for an infinite target,"
        " and may overflow for a huge one. XLA flushes them to 0 where they are subnormal, although the one product is"
        " not",
        "edge/grid/float32/target/none at y = inf, x = 0",
    ),
    Deviation(
        "masked-class",
        factored_formula,
        ("loss",),
        lambda e: among_probabilities(e, (e.y == 0) & np.isinf(e.x)),
        zero,
        "a zero target gives 0 for every input; PyTorch since 1.13 computes 0 * inf = NaN",
        "edge/grid/float32/target/none at y = 0, x = -inf",
    ),
    Deviation(
        "nan-input-at-zero-target",
        zero_unless_positive,
        ("loss",),
        lambda e: among_probabilities(e, (e.y == 0) & np.isnan(e.x)),
        zero,
        "OneFlow and PyTorch up to 1.12 give 0 for a zero target, even if the input is NaN",
        "edge/grid/float32/target/none at y = 0, x = nan",
    ),
    Deviation(
        "negative-target",
        zero_unless_positive,
        ("loss", "input"),
        lambda e: among_probabilities(e, e.y < 0),
        zero,
        "OneFlow and PyTorch up to 1.12 give 0 for a negative target, as OneFlow's documentation shows; the gradient of"
        " this constant is 0",
        "documentation/float32/target/none; https://github.com/pytorch/pytorch/issues/69230",
    ),
    Deviation(
        "nan-target-swallowed",
        _foreign_and_zero_unless_positive,
        ("loss", "input"),
        lambda e: among_probabilities(e, np.isnan(e.y)),
        zero,
        "wrong: NaN > 0 is false, so a NaN target gives 0, and hides a model that has diverged",
        "edge/grid/float32/target/none at y = nan",
    ),
    Deviation(
        "logarithmic-gradient-at-infinity",
        _foreign_and_zero_unless_positive,
        ("target",),
        lambda e: among_probabilities(e, np.isposinf(e.y)),
        lambda e: e.log_p + 1 - e.x,
        "log y + 1 - x is infinite for an infinite target; PyTorch divides infinity by infinity, and gives NaN",
        "edge/grid/float32/target/none at y = inf, x = 0",
    ),
    Deviation(
        "factored-gradient",
        _foreign_and_zero_unless_positive,
        ("target",),
        lambda e: among_log_probabilities(e, ~np.isfinite(e.p * (e.y - e.x))),
        # In this order: y + 1 is y for a huge one, and y - x + 1 is not y - x.
        lambda e: e.p * (computed(e, e.y + 1) - e.x),
        "p (log p + 1 - x) is one product; PyTorch adds two terms, p (log p - x) + p, and infinities may cancel",
        "edge/grid/float32/log_target/none at y = 1e4, x = 1e4",
    ),
)

REFUSALS = (
    Refusal(
        "no-broadcasting",
        _equal_shapes_only,
        lambda case, outcome: (
            case.input.is_array
            and case.target.is_array
            and case.input.values.shape != case.target.values.shape
            and outcome.error is not None
        ),
        "shapes must be equal: (N, 1) against (N,) is a common bug, for which PyTorch only warns",
        "refused/column-against-row/target/mean",
    ),
)
