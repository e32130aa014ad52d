"""Where the composition of PyTorch's functions is NaN or inexact, and divergences from logits are exact."""

import numpy as np

from conformance.divergences import Divergences
from conformance.ledger.entry import Inexact, Mask
from conformance.record import Implementation


def _has_divergences(implementation: Implementation) -> bool:
    return implementation.divergences


def _underflows(of: Divergences, quantity: str) -> Mask:
    return of.of_rows(of.underflows, quantity)


def _gradients(of: Divergences, quantity: str) -> Mask:
    return of.of_rows(np.full(of.counts.shape, quantity != "loss"), quantity)


INEXACT = (
    Inexact(
        id="impossible-class-from-logits",
        who=_has_divergences,
        where=Divergences.impossible,
        instead=np.nan,
        why="a class with a logit of -inf has no part in the divergence; PyTorch's composition multiplies its"
        " probability of 0 by an infinite logarithm",
        evidence="logits/impossible-in-both/float32/beta-0/none",
    ),
    Inexact(
        id="row-that-does-not-count",
        who=_has_divergences,
        where=Divergences.left_out,
        instead=np.nan,
        why="a row that is masked has gradients of 0, whatever it holds; PyTorch multiplies its upstream gradient of 0"
        " by NaN",
        evidence="logits/where-rows/NaN/beta-0/mean",
    ),
    Inexact(
        id="probability-of-zero-in-16-bits",
        who=_has_divergences,
        where=_underflows,
        instead=np.nan,
        why="the gradient is computed from the logits; in PyTorch's composition a probability underflows in float16,"
        " and the derivative by it is the logarithm of 0",
        evidence="logits/random/5x3/axis--1/float16/beta-0/none",
    ),
    Inexact(
        id="derived-gradient-from-logits",
        who=lambda implementation: implementation.name == "kldiv_xp torch.export",
        where=_gradients,
        of_reference=False,
        roundings=lambda of, quantity: of.tolerance(quantity, derived=True),
        why="an exported program has no closed form; PyTorch derives its gradient, in which terms cancel that have the"
        " probability of the other distribution",
        evidence="logits/random/4x8/axis-1/float64/beta-0.1/mean",
    ),
    Inexact(
        id="derived-gradient-of-an-infinite-loss",
        who=lambda implementation: implementation.name == "kldiv_xp torch.export",
        where=lambda of, quantity: of.of_rows(of.infinite, quantity),
        of_reference=False,
        instead=Divergences.without_impossible,
        why="PyTorch derives the gradient of an exported program, in which an infinite loss is a constant",
        evidence="logits/impossible-in-either/float64/beta-0/mean",
    ),
)
