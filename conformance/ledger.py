"""The known deviations from the reference, as data: who, under which condition, what instead, and why.

An entry explains a difference only where its condition holds, and only if the implementation gives what the entry says
that it gives. In a full run every entry must explain something.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import numpy as np
import numpy.typing as npt

from conformance.corpus import Case
from conformance.elements import Elements, Floats
from conformance.implementation import Implementation, Outcome
from conformance.implementations import jax
from conformance.implementations.closed_form import ClosedForm
from conformance.implementations.torch import TorchNN
from kldiv_xp._options import Reduction

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Deviation:
    """Elements for which an implementation gives something else than PyTorch's formula."""

    id: str
    who: Callable[[Implementation], bool]
    quantities: tuple[str, ...]
    where: Callable[[Elements], Mask]
    instead: Callable[[Elements], Floats | float] | None
    """What it gives there: the loss of the element, or the derivative of that. ``None`` for the formula, of what it
    ``sees``."""
    why: str
    evidence: str
    sees: Callable[[Elements], Elements] | None = None
    """What it takes the elements of the case for, everywhere and in all entries, if not for what they are."""


@dataclass(frozen=True)
class Refusal:
    """Calls that one side refuses and the other takes."""

    id: str
    who: Callable[[Implementation], bool]
    explains: Callable[[Case, Outcome], bool]
    why: str
    evidence: str


def promised_error(case: Case) -> str:
    """Kind of error that ``kldiv_xp`` promises for a call outside its interface; empty for one within it."""
    if not (case.input.is_array and case.target.is_array):
        return "TypeError"
    if any(operand.values.dtype.kind != "f" for operand in (case.input, case.target)):
        return "TypeError"
    fits = case.input.values.shape == case.target.values.shape and case.reduction in get_args(Reduction)
    return "" if fits else "ValueError"


def deviations_of(implementation: Implementation, quantity: str) -> list[Deviation]:
    """Entries about one quantity of an implementation; where two hold, the later one counts."""
    return [d for d in DEVIATIONS if quantity in d.quantities and d.who(implementation)]


def _convention(*names: str) -> Callable[[Implementation], bool]:
    return lambda implementation: implementation.convention in names


def _kldiv_xp(implementation: Implementation) -> bool:
    return implementation.convention is not None


def _closed_form(implementation: Implementation) -> bool:
    return isinstance(implementation, ClosedForm | jax.KLDivXP)


def _pytorch(implementation: Implementation) -> bool:
    return isinstance(implementation, TorchNN)


def _xla_on_cpu(implementation: Implementation) -> bool:
    return isinstance(implementation, jax.KLDivXP) and implementation.platform == "cpu"


def _jitted(implementation: Implementation) -> bool:
    return isinstance(implementation, jax.KLDivXP) and implementation.jit


def _jitted_expanded_formula(implementation: Implementation) -> bool:
    return _jitted(implementation) and implementation.convention == "torch"


def _zero(_: Elements) -> float:
    return 0.0


DEVIATIONS = (
    Deviation(
        "subnormals-are-zero",
        _xla_on_cpu,
        ("loss", "input", "target"),
        lambda e: e.subnormal(e.p) | e.subnormal(e.p * e.weight) | e.subnormal(e.formula("loss")),
        None,
        "XLA lets the CPU take subnormal numbers for zero, as arguments and as results; a target of zero is then judged"
        " by the convention",
        "edge/grid/float32/target/none at y = 1.4e-45; https://github.com/jax-ml/jax/issues/16200",
        sees=Elements.with_flush,
    ),
    Deviation(
        "contracted-product",
        _jitted_expanded_formula,
        ("loss",),
        lambda e: _probability(
            e, np.isfinite(e.y) & np.isposinf(e.rounded(e.y * e.log_p)) & np.isposinf(e.rounded(e.y * e.x))
        ),
        lambda _: -np.inf,
        "XLA fuses a product and a difference into one operation, so that y log y of a huge target does not overflow",
        "edge/grid/float32/target/none at y = 2.1e37, x = 1e4",
    ),
    Deviation(
        "factored-formula",
        _convention("oneflow", "limit"),
        ("loss",),
        lambda e: _probability(e, (e.y > 0) & _overflows(e)),
        lambda e: e.y * (e.log_p - e.x),
        "y (log y - x) is one product; PyTorch subtracts two, y log y - y x, which are both infinite for an infinite"
        " target, and may be for a huge one",
        "edge/grid/float32/target/none at y = inf, x = 0",
    ),
    Deviation(
        "masked-class",
        _convention("oneflow", "limit"),
        ("loss",),
        lambda e: _probability(e, (e.y == 0) & np.isinf(e.x)),
        _zero,
        "a class that the target excludes costs nothing, whatever the input says of it; PyTorch since 1.13 computes"
        " 0 * inf = NaN",
        "edge/grid/float32/target/none; https://github.com/pytorch/pytorch/issues/89558",
    ),
    Deviation(
        "nan-input-at-zero-target",
        _convention("oneflow"),
        ("loss",),
        lambda e: _probability(e, (e.y == 0) & np.isnan(e.x)),
        _zero,
        "OneFlow and PyTorch up to 1.12 give 0 for every zero target, whatever the input",
        "edge/grid/float32/target/none at y = 0, x = nan",
    ),
    Deviation(
        "negative-target",
        _convention("oneflow"),
        ("loss", "input", "target"),
        lambda e: _probability(e, e.y < 0),
        _zero,
        "OneFlow and PyTorch up to 1.12 give 0 for a negative target, as the documentation's example shows; a constant"
        " has the gradient 0",
        "documentation/float32/target/none",
    ),
    Deviation(
        "closed-form-at-infinity",
        _closed_form,
        ("target",),
        lambda e: _probability(e, np.isposinf(e.y) | ((e.y == 0) & np.isinf(e.x))),
        lambda e: e.log_p + 1 - e.x,
        "where the loss is infinite or NaN, the closed form is infinite, too; PyTorch multiplies 0 by infinity",
        "edge/grid/float32/target/none at y = inf, x = 0",
    ),
    Deviation(
        "float16-batchmean-overflows",
        _pytorch,
        ("loss",),
        lambda e: np.full(e.x.shape, e.dtype == "float16" and e.reduction == "batchmean" and _sum_overflows(e)),
        lambda e: np.copysign(np.inf, e.formula("loss").sum()),
        "PyTorch rounds the sum to float16 before it divides by the length of the batch, and the sum may be too large",
        "random/12500x80/recipe/float16/target/batchmean",
    ),
    Deviation(
        "lost-one",
        _pytorch,
        ("target",),
        lambda e: _probability(e, (e.y > 0) & (e.y * e.weight < e.tiny)),
        lambda e: e.log_p + e.rounded(e.y * e.rounded(e.weight)) / e.y / e.weight - e.x,
        "log y + 1 - x is computed as (g log y) + (g y) / y - g x, with the gradient g of the sum: where g y"
        " underflows, up to all of the 1 is lost. In float16 that is so for ordinary numbers",
        "close/1e-2/float16/target/mean",
    ),
    Deviation(
        "zero-target-gradient",
        _kldiv_xp,
        ("target",),
        lambda e: _probability(e, (e.y == 0) & np.isfinite(e.x)),
        _zero,
        "the gradient is finite wherever the loss is; PyTorch differentiates xlogy(y, y) at 0 to NaN",
        "real/temperature-0.25/float32/target/none; https://github.com/google-deepmind/optax/pull/1786",
    ),
    Deviation(
        "zero-target-gradient-of-a-masked-class",
        _convention("oneflow", "limit"),
        ("target",),
        lambda e: _probability(e, (e.y == 0) & np.isinf(e.x)),
        _zero,
        "the loss is 0 there, and so is its gradient",
        "edge/grid/float32/target/none at y = 0, x = -inf",
    ),
    Deviation(
        "nan-input-gradient-at-zero-target",
        _convention("oneflow"),
        ("target",),
        lambda e: _probability(e, (e.y == 0) & np.isnan(e.x)),
        _zero,
        "the loss is 0 there, and so is its gradient",
        "edge/grid/float32/target/none at y = 0, x = nan",
    ),
    Deviation(
        "log-of-zero",
        _convention("limit"),
        ("loss", "target"),
        lambda e: e.log_target & (e.y == -np.inf) & ~np.isnan(e.x),
        _zero,
        "a log target of -inf is a probability of 0 and costs nothing; PyTorch computes 0 * inf = NaN",
        "real/temperature-0.25/float32/log-of-zeros/log_target/batchmean",
    ),
)

REFUSALS = (
    Refusal(
        "no-broadcasting",
        _kldiv_xp,
        lambda case, outcome: (
            case.input.is_array
            and case.target.is_array
            and case.input.values.shape != case.target.values.shape
            and outcome.error is not None  # and, as of every refusal, of the promised kind
        ),
        "shapes must be equal: (N, 1) against (N,) is a classic bug, which PyTorch only warns of",
        "refused/column-against-row/target/mean",
    ),
    Refusal(
        "numbers-become-arrays",
        _jitted,
        lambda case, outcome: isinstance(case.input.values, float) and outcome.loss is not None,
        "jax.jit hands the function an array for every number, so that there is nothing left to refuse",
        "refused/number/target/mean",
    ),
)


def _probability(e: Elements, mask: Mask) -> Mask:
    among_probabilities: Mask = mask & np.asarray(not e.log_target)
    return among_probabilities


def _overflows(e: Elements) -> Mask:
    y_log_y, y_x = e.rounded(e.y * e.log_p), e.rounded(e.y * e.x)
    overflows: Mask = np.isinf(y_log_y) | (np.isfinite(e.x) & np.isinf(y_x))
    return overflows


def _sum_overflows(e: Elements) -> bool:
    total = e.formula("loss").sum()
    return bool(np.isfinite(total) and np.isinf(e.rounded(total)))
