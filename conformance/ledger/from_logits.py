"""Where the composition of PyTorch's functions is NaN or inexact, and divergences from logits are exact."""

import numpy as np

from conformance.divergences import Divergences, rounded_once
from conformance.elements import Floats
from conformance.ledger.entry import Inexact, Mask, Promotion
from conformance.record import Case, Implementation


def _composition(implementation: Implementation) -> bool:
    of_softmaxes = ("torch.nn.KLDivLoss of softmaxes", "optax.losses.kl_divergence of softmaxes")
    return implementation.name in of_softmaxes or implementation.library == "modelopt"


def _multiplies_masked_rows(implementation: Implementation) -> bool:
    return _composition(implementation) or implementation.library in ("keras", "liger_kernel", "torchtune", "trl")


def _of_log_targets(implementation: Implementation) -> bool:
    return implementation.library in ("liger_kernel", "trl")


def _in_float32(implementation: Implementation) -> bool:
    return implementation.library in ("liger_kernel", "torchtune")


def _rel_entr(implementation: Implementation) -> bool:
    return implementation.name == "scipy.special.rel_entr of softmaxes"


def _exported(implementation: Implementation) -> bool:
    return implementation.name == "kldiv_xp torch.export"


def _underflows(of: Divergences, quantity: str) -> Mask:
    return of.of_rows(of.underflows, quantity)


def _impossible_weights(of: Divergences, quantity: str) -> Mask:
    """Rows with a class of a logit of -inf; for the loss, of a distribution that weights logarithms."""
    if quantity != "loss":
        return of.impossible(quantity)
    weighting = {0.0: [of.y], 1.0: [of.x]}.get(of.options.beta, [of.x, of.y])
    return of.of_rows(np.any([(logits == -np.inf).any(axis=-1) for logits in weighting], axis=0), quantity)


def _mean_of_no_rows(of: Divergences, quantity: str) -> Mask:
    return np.asarray(quantity == "loss" and of.case.divisor == 0)


def _float64(of: Divergences, quantity: str) -> Mask:
    return of.everywhere(quantity, when=of.case.input.dtype == "float64")


def of_float32(of: Divergences, quantity: str) -> Floats:
    """Rounding errors of float32, where the reference has those of float64."""
    return of.in_dtype("float32").tolerance(quantity, derived=quantity != "loss")


def promised_bound(implementation: Implementation, case: Case, quantity: str, dtype: str) -> Floats | None:
    """Bound on the error of ``kldiv_xp`` for 16 bits, which it computes in float32; ``None`` where it has no other.

    The tolerance is of a composition in 16 bits: it exceeds most divergences, and even 0 would agree.
    """
    if implementation.convention is None or not Divergences.of(case).is_coarse:
        return None
    return rounded_once(case, quantity, dtype, derived=_exported(implementation))


def _gradients(of: Divergences, quantity: str) -> Mask:
    return of.everywhere(quantity, when=quantity != "loss")


INEXACT = (
    Inexact(
        id="impossible-class-from-logits",
        who=_composition,
        where=Divergences.impossible,
        instead=np.nan,
        why="a class with a logit of -inf has no part in the divergence; PyTorch's composition multiplies its"
        " probability of 0 by an infinite logarithm",
        evidence="logits/impossible-in-both/float32/beta-0/none",
    ),
    Inexact(
        id="row-that-does-not-count",
        who=_multiplies_masked_rows,
        where=lambda of, quantity: _gradients(of, quantity) & of.left_out(quantity),
        instead=np.nan,
        why="a row that is masked has gradients of 0, whatever it holds; PyTorch multiplies its upstream gradient of 0"
        " by NaN",
        evidence="logits/where-rows/NaN/beta-0/mean",
    ),
    Inexact(
        id="probability-of-zero",
        who=_composition,
        where=_underflows,
        instead=np.nan,
        why="the gradient is computed from the logits; in PyTorch's composition a probability underflows, in float16"
        " for ordinary logits, and the derivative by it is the logarithm of 0",
        evidence="logits/random/5x3/axis--1/float16/beta-0/none",
    ),
    Inexact(
        id="mixture-of-zero",
        who=_rel_entr,
        where=lambda of, quantity: of.of_rows(of.mixture_vanishes, quantity),
        instead=np.inf,
        why="wrong: the probability of the student, or of the mixture, underflows, in float16 for ordinary logits, and"
        " the relative entropy to a probability of 0 is infinite",
        evidence="logits/random/5x3/axis--1/float16/beta-0/none",
    ),
    Inexact(
        id="probability-that-rounds-to-zero",
        who=_rel_entr,
        where=_underflows,
        instead=Divergences.loss_in_own_dtypes,
        why="a probability that underflows is 0, and its class adds nothing",
        evidence="logits/random/5x3/axis--1/float16/beta-0/none",
    ),
    Inexact(
        id="subnormals-are-zero-from-logits",
        who=lambda implementation: implementation.library == "jax",
        where=Divergences.subnormal,
        roundings=lambda of, quantity: of.tolerance(quantity, flushed=True),
        why="XLA on the CPU flushes subnormal arguments and results to zero",
        evidence="found/15/beta-0/mean; https://github.com/jax-ml/jax/issues/16200",
    ),
    Inexact(
        id="impossible-class-of-log-targets",
        who=_of_log_targets,
        where=_impossible_weights,
        instead=np.nan,
        why="wrong: TRL and Liger Kernel compute exp(t) (t - s), in which a class with a logit of -inf is 0 times"
        " infinity, even if it is possible on the other side, where PyTorch's composition is finite",
        evidence="logits/impossible-in-the-target-alone/float32/beta-0/none",
    ),
    Inexact(
        id="mean-of-no-rows",
        who=_of_log_targets,
        where=_mean_of_no_rows,
        instead=0.0,
        why="TRL divides by one row at least, and Liger Kernel divides before it sums: the mean over no rows is 0; the"
        " composition divides 0 by 0",
        evidence="logits/where-nothing/numbers/beta-0/mean",
    ),
    Inexact(
        id="computed-in-float32",
        who=_in_float32,
        where=_float64,
        roundings=of_float32,
        why="torchtune and Liger Kernel convert all logits, or their logarithms of probabilities, to float32",
        evidence="logits/random/5x3/axis--1/float64/beta-1/mean",
    ),
    Inexact(
        id="derived-gradient-from-logits",
        who=_exported,
        where=_gradients,
        roundings=lambda of, quantity: of.tolerance(quantity, derived=True),
        why="an exported program has no closed form; PyTorch derives its gradient, in which terms cancel that have the"
        " probability of the other distribution",
        evidence="logits/random/4x8/axis-1/float64/beta-0.1/mean",
    ),
    Inexact(
        id="derived-gradient-of-an-infinite-loss",
        who=_exported,
        where=lambda of, quantity: of.of_rows(of.infinite, quantity),
        instead=Divergences.without_impossible,
        why="PyTorch derives the gradient of an exported program, in which an infinite loss is a constant",
        evidence="logits/impossible-in-either/float64/beta-0/mean",
    ),
)

PROMOTIONS = (
    Promotion(
        "dtype-of-the-student",
        lambda implementation: implementation.library == "liger_kernel",
        lambda case, quantity: case.input.dtype if quantity == "loss" else None,
        "Liger Kernel gives its loss the dtype of the student's logits, even of coarser ones; PyTorch promotes both",
        "logits/random/4x8/float32-float64/beta-0/mean",
    ),
)
