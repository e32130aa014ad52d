"""The verdict on an outcome: whether it agrees with the reference and, if not, whether the ledger says why."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

import numpy as np

from conformance.corpus import Case, Values
from conformance.elements import Elements, Floats
from conformance.implementation import Implementation, Outcome, Result
from conformance.ledger import REFUSALS, Mask, deviations_of, promised_error
from conformance.tolerance import tolerance


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
    kind = (outcome.error or "").partition(":")[0]
    if implementation.convention is not None and outcome.error and kind != promised_error(case):
        return Comparison(case.id, case.group, "loss", Verdict.DIFFERS, detail=detail)
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
    bound = tolerance(elements, quantity)
    errors = _errors(got.values, wanted.values, bound)
    identical = int(np.count_nonzero(_same(got.values, wanted.values)))
    comparison = partial(Comparison, case.id, case.group, quantity, elements=errors.size, identical=identical)
    differing = errors > 1
    largest = float(np.max(errors, where=~differing, initial=0))
    if not differing.any():
        return comparison(Verdict.AGREES, largest)
    ours = _statement(elements, quantity, implementation)
    theirs = _statement(elements, quantity, reference)
    explained = (
        (_errors(got.values, _rounded(ours.values, got), bound) <= 1)
        & (_errors(wanted.values, _rounded(theirs.values, wanted), bound) <= 1)
        # Two statements within half the tolerance of each other explain no difference of more than the tolerance.
        & (_errors(ours.values, theirs.values, bound) > 0.5)
    )
    unexplained = differing & ~explained
    entries = (*ours.entries(differing), *theirs.entries(differing))
    if entries and not unexplained.any():
        return comparison(Verdict.DEVIATES, largest, entries)
    return comparison(Verdict.DIFFERS, largest, detail=_describe(elements, unexplained, got, wanted))


def _errors(got: Values, wanted: Values, bound: Floats) -> Floats:
    """Differences in units of the tolerance; infinite where only one is NaN or infinite, or their signs differ."""
    got, wanted = got.astype(np.float64), wanted.astype(np.float64)
    finite = np.isfinite(got) & np.isfinite(wanted)
    return np.where(_same(got, wanted), 0.0, np.where(finite, np.abs(got - wanted) / bound, np.inf))


def _same(a: Values, b: Values) -> Mask:
    same: Mask = (a == b) | (np.isnan(a) & np.isnan(b))
    return same


@dataclass(frozen=True)
class _Statement:
    """What an implementation should give for a quantity: the formula, but for its deviations."""

    values: Floats
    owners: Mapping[str, Mask]
    """Ledger entries, with the elements for which their statement counts."""

    def entries(self, differing: Mask) -> list[str]:
        """Ledger entries that have a part in what differs."""
        # A sum differs as a whole, its elements cannot be told apart.
        return [entry for entry, mask in self.owners.items() if (mask & differing).any()]


def _statement(elements: Elements, quantity: str, implementation: Implementation) -> _Statement:
    deviations = deviations_of(implementation, quantity)
    seen = elements
    for deviation in deviations:
        seen = deviation.sees(seen) if deviation.sees else seen
    values, owners = seen.formula(quantity), dict[str, Mask]()
    for deviation in deviations:
        mask = deviation.where(elements if deviation.sees else seen)
        if deviation.instead:
            values = np.where(mask, deviation.instead(seen), values)
            owners = {entry: others & ~mask for entry, others in owners.items()}
        owners[deviation.id] = mask
    formula = elements.formula(quantity)
    if quantity != "loss" or elements.reduction == "none":
        weight = 1.0 if quantity == "loss" else elements.weight
        values, formula = seen.flushed(values * weight), formula * weight
    # An entry that says what the formula says anyway has no part in any difference.
    changed = ~_same(values, formula)
    owners = {entry: mask & changed for entry, mask in owners.items()}
    if quantity == "loss" and elements.reduction != "none":
        values = np.asarray(values.sum() / np.float64(elements.divisor))
    return _Statement(values, owners)


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
