"""Where Optax departs from PyTorch's formula, apart from the deviations of XLA."""

import numpy as np

from conformance.ledger.entry import Deviation, Refusal, among_log_probabilities, among_probabilities, named

_with_log_targets = named("optax.losses.kl_divergence_with_log_targets")


DEVIATIONS = (
    Deviation(
        "lost-one",
        named("optax.losses.kl_divergence"),
        ("target",),
        lambda e: among_probabilities(e, (e.y > 0) & (np.abs(e.y * e.weight) < e.tiny)),
        lambda e: e.log_p + e.per_weight(e.rounded(e.y * e.rounded(e.weight)) / e.y) - e.x,
        "Optax computes log y + 1 - x as (g log y) + (g y) / y - g x, with the gradient g of the sum. Where g y"
        " underflows, the term 1 loses digits, or is lost. In float16 this affects ordinary numbers",
        "close/1e-2/float16/target/mean",
    ),
    Deviation(
        "lost-exponential",
        _with_log_targets,
        ("target",),
        lambda e: among_log_probabilities(e, e.subnormal(e.p * e.weight)),
        lambda e: e.p * (e.y - e.x),
        "Optax computes p (y - x) + p as p (g (y - x)) + g p, with the gradient g of the sum; XLA flushes a subnormal g"
        " p to 0",
        "real/temperature-0.25/float32/log_target/mean; https://github.com/jax-ml/jax/issues/16200",
    ),
)

REFUSALS = (
    Refusal(
        "numbers-taken",
        named("optax.losses.kl_divergence"),
        lambda case, outcome: isinstance(case.input.values, float) and outcome.loss is not None,
        "Optax accepts Python numbers as 0-d arrays",
        "refused/number/target/mean",
    ),
)
