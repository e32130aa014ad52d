"""The verdict on an outcome: whether it agrees with the reference and, if not, whether the ledger says why."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

import numpy as np

from conformance.corpus import Case, Values
from conformance.elements import Elements, Floats
from conformance.implementation import Implementation, Outcome, Result
from conformance.ledger import REFUSALS, Deviation, Mask, deviations_of

K = 8
"""Rounding errors of one element, in units of its magnitude times the machine epsilon, both sides taken together.

The logarithm or the exponential is off by up to 4 units in the last place in the worst of the libraries (NumPy states
4 for float32), by 1 in PyTorch; a subtraction, a product and a rounding to the final dtype add 1/2 each, on both sides.
That makes 4 + 1 + 6/2 = 8. The same 8 holds for every implementation, dtype, quantity and reduction.
"""


class Verdict(StrEnum):
    """What the suite says of one quantity of one case."""

    AGREES = "agrees"
    DEVIATES = "deviates"
    DIFFERS = "differs"
    UNSUPPORTED = "unsupported"
    NOT_RUN = "not run"


@dataclass(frozen=True)
class Comparison:
    """Verdict on the loss or a gradient, or on a refusal (of quantity ``"loss"``)."""

    case: str
    group: str
    quantity: str
    verdict: Verdict
    error: float = 0.0
    """Largest error in units of the tolerance, over the elements that agree."""
    ledger: tuple[str, ...] = ()
    detail: str = ""
    elements: int = 0
    identical: int = 0
    """Elements that are the same to the last bit, NaN for NaN."""


def judge(
    case: Case, implementation: Implementation, outcome: Outcome, reference: Implementation, expected: Outcome
) -> Iterator[Comparison]:
    """Verdicts on the quantities of a case; ``expected`` is the outcome of the reference."""
    if outcome.unsupported:
        for quantity in ("loss", *case.gradients):
            yield Comparison(case.id, case.group, quantity, Verdict.UNSUPPORTED, detail=outcome.unsupported)
    elif outcome.error or expected.error:
        yield _judge_refusal(case, implementation, outcome, expected)
    else:
        with np.errstate(all="ignore"):
            for quantity in ("loss", *case.gradients):
                yield _judge_quantity(case, quantity, implementation, outcome, reference, expected)


def _judge_refusal(case: Case, implementation: Implementation, outcome: Outcome, expected: Outcome) -> Comparison:
    detail = f"{outcome.error or 'a result'}; reference: {expected.error or 'a result'}"
    if outcome.error and expected.error:
        return Comparison(case.id, case.group, "loss", Verdict.AGREES, detail=detail)
    for refusal in REFUSALS:
        if refusal.who(implementation) and refusal.explains(case, outcome):
            return Comparison(case.id, case.group, "loss", Verdict.DEVIATES, ledger=(refusal.id,), detail=detail)
    return Comparison(case.id, case.group, "loss", Verdict.DIFFERS, detail=detail)


def _judge_quantity(
    case: Case,
    quantity: str,
    implementation: Implementation,
    outcome: Outcome,
    reference: Implementation,
    expected: Outcome,
) -> Comparison:
    got, wanted = outcome.quantity(quantity), expected.quantity(quantity)
    if got is None or wanted is None:
        return Comparison(case.id, case.group, quantity, Verdict.DIFFERS, detail="one of the two gave none")
    if (got.dtype, got.values.shape) != (wanted.dtype, wanted.values.shape):
        detail = f"{got.dtype}{got.values.shape}; reference: {wanted.dtype}{wanted.values.shape}"
        return Comparison(case.id, case.group, quantity, Verdict.DIFFERS, detail=detail)
    elements = Elements.of(case)
    bound = tolerance(case, elements, quantity)
    errors = _errors(got.values, wanted.values, bound)
    identical = int(np.count_nonzero(_same(got.values, wanted.values)))
    comparison = partial(Comparison, case.id, case.group, quantity, elements=errors.size, identical=identical)
    differing = errors > 1
    largest = float(np.max(errors, where=~differing, initial=0))
    if not differing.any():
        return comparison(Verdict.AGREES, largest)
    unexplained, ledger = differing, dict[str, None]()
    for side, result in ((implementation, got), (reference, wanted)):
        explained, ids = _explain(case, quantity, elements, deviations_of(side, quantity), result, bound, differing)
        unexplained = unexplained & ~explained
        ledger.update(dict.fromkeys(ids))
    if not unexplained.any():
        return comparison(Verdict.DEVIATES, largest, tuple(ledger))
    return comparison(Verdict.DIFFERS, largest, detail=_describe(elements, unexplained, got, wanted))


def tolerance(case: Case, elements: Elements, quantity: str) -> Floats:
    """Largest difference that rounding can make, for every element of a quantity.

    An element is a probability ``p`` times its terms, ``|log p| + |x| + 1``. It suffers ``K`` roundings, each of them
    relative (the machine epsilon times ``p``) or, should it underflow, absolute (the smallest subnormal number). A sum
    suffers the sum of what its elements do. A gradient is multiplied by one over the reduction's divisor, which is
    rounded, too.
    """
    eps, smallest, divisor = elements.eps, elements.smallest, max(elements.divisor, 1)
    has_p = quantity != "target" or case.log_target
    p = np.nan_to_num(np.abs(elements.p), posinf=0.0) if has_p else np.ones_like(elements.p)
    terms = np.ones_like(elements.x) if quantity == "input" else elements.terms
    each = (eps * p + smallest) * terms
    if quantity != "loss":
        return K * (each / divisor + smallest * (p * terms + 1))
    if case.reduction == "none":
        return K * (each + smallest)
    return K * np.asarray((each + smallest).sum() / divisor + smallest)


def _errors(got: Values, wanted: Values, bound: Floats) -> Floats:
    """Differences in units of the tolerance; infinite where only one is NaN or infinite, or their signs differ."""
    got, wanted = got.astype(np.float64), wanted.astype(np.float64)
    finite = np.isfinite(got) & np.isfinite(wanted)
    return np.where(_same(got, wanted), 0.0, np.where(finite, np.abs(got - wanted) / bound, np.inf))


def _same(a: Values, b: Values) -> Mask:
    same: Mask = (a == b) | (np.isnan(a) & np.isnan(b))
    return same


def _explain(
    case: Case,
    quantity: str,
    elements: Elements,
    deviations: list[Deviation],
    result: Result,
    bound: Floats,
    differing: Mask,
) -> tuple[Mask, list[str]]:
    """Where one side gives what its ledger entries say, and which entries those are.

    An entry whose statement is within half the tolerance of the formula explains nothing.
    """
    seen = elements
    for deviation in deviations:
        seen = deviation.sees(seen) if deviation.sees else seen
    formula, stated, masks = elements.formula(quantity), seen.formula(quantity), []
    for deviation in deviations:
        masks.append(deviation.where(elements if deviation.sees else seen))
        if deviation.instead:
            stated = np.where(masks[-1], deviation.instead(seen), stated)
    if quantity == "loss" and case.reduction != "none":
        changed = ~_same(stated, formula)
        formula, stated = (np.asarray(values.sum() / np.float64(elements.divisor)) for values in (formula, stated))
    else:
        changed = differing
        weight = 1.0 if quantity == "loss" else elements.weight
        formula, stated = formula * weight, seen.flushed(stated * weight)
    explained = (_errors(result.values, _rounded(stated, result), bound) <= 1) & (_errors(stated, formula, bound) > 0.5)
    ids = [d.id for d, mask in zip(deviations, masks, strict=True) if (mask & changed & explained).any()]
    return explained, ids


def _rounded(values: Floats, like: Result) -> Values:
    """Values in the dtype of a result: infinite where they are too large for it."""
    return np.asarray(values).astype(like.values.dtype)


def _describe(elements: Elements, where: Mask, got: Result, wanted: Result) -> str:
    if where.ndim == 0:
        return f"{got.values}; reference: {wanted.values}"
    first = tuple(int(i) for i in np.argwhere(where)[0])
    return (
        f"{np.count_nonzero(where)} elements, first {first}: {got.values[first]}; reference: {wanted.values[first]}"
        f" (target {elements.y[first]:g}, input {elements.x[first]:g})"
    )
