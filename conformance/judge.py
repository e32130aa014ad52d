"""The verdict on an outcome: whether it agrees with the reference, and if not, whether the ledger explains it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any

import numpy as np

from conformance.divergences import Divergences, exact_and_tolerance
from conformance.elements import Elements, Floats, rounded_to
from conformance.ledger import INEXACT, PROMOTIONS, REFUSALS, Inexact, Mask, promised_bound, promised_error
from conformance.ledger.entry import floating_arrays
from conformance.record import Case, Implementation, Outcome, Result, Values, kept, size_of
from conformance.statement import entries_between, errors_in, same, statement
from conformance.tolerance import rounding_decides, tolerance


class Verdict(StrEnum):
    """The result of comparing one quantity of one case."""

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
    """Number of elements with the same bits; NaN equals NaN."""


def judge(
    case: Case, implementation: Implementation, outcome: Outcome, reference: Implementation, expected: Outcome
) -> Iterator[Comparison]:
    """Verdicts on the quantities of a case; ``expected`` is the outcome of the reference."""
    if outcome.changed:
        detail = f"the call wrote to the {' and the '.join(outcome.changed)}"
        yield Comparison(case.id, case.group, "loss", Verdict.DIFFERS, detail=detail)
        return
    if (outcome.error or expected.error) and not (_nothing_to_judge(outcome) or _nothing_to_judge(expected)):
        yield _judge_refusal(case, implementation, outcome, reference, expected)
        return
    with np.errstate(all="ignore"):
        for quantity in case.quantities:
            got, wanted = outcome.quantity(quantity), expected.quantity(quantity)
            if got is None and outcome.unsupported:
                yield Comparison(case.id, case.group, quantity, Verdict.UNSUPPORTED, detail=outcome.unsupported)
            elif wanted is None and expected.unsupported:
                detail = f"{reference.label}: {expected.unsupported}"
                yield Comparison(case.id, case.group, quantity, Verdict.UNSUPPORTED, detail=detail)
            elif got is None or wanted is None:
                yield Comparison(case.id, case.group, quantity, Verdict.DIFFERS, detail="only one has this result")
            else:
                yield _judge_quantity(case, quantity, implementation, got, reference, wanted)


def _nothing_to_judge(outcome: Outcome) -> bool:
    return outcome.unsupported is not None and outcome.loss is None


_BROKEN = ("NameError", "UnboundLocalError", "ImportError", "ModuleNotFoundError")
"""Errors of a broken program, which are not refusals."""


def _judge_refusal(
    case: Case, implementation: Implementation, outcome: Outcome, reference: Implementation, expected: Outcome
) -> Comparison:
    detail = f"{outcome.error or 'a result'}; reference: {expected.error or 'a result'}"
    kind = (outcome.error or "").partition(":")[0]
    if implementation.convention is not None and outcome.error and kind != promised_error(case):
        return Comparison(case.id, case.group, "loss", Verdict.DIFFERS, detail=detail)
    if outcome.error and expected.error and kind not in _BROKEN:
        return Comparison(case.id, case.group, "loss", Verdict.AGREES, detail=detail)
    for who, what in ((implementation, outcome), (reference, expected)):
        for refusal in REFUSALS:
            if refusal.who(who) and refusal.explains(case, what):
                return Comparison(case.id, case.group, "loss", Verdict.DEVIATES, ledger=(refusal.id,), detail=detail)
    return Comparison(case.id, case.group, "loss", Verdict.DIFFERS, detail=detail)


def _judge_quantity(
    case: Case,
    quantity: str,
    implementation: Implementation,
    got: Result,
    reference: Implementation,
    wanted: Result,
) -> Comparison:
    promotions = _promotions(case, quantity, ((implementation, got), (reference, wanted)))
    if got.shape != wanted.shape or (got.dtype != wanted.dtype and not promotions):
        detail = f"{got.dtype}{got.shape}; reference: {wanted.dtype}{wanted.shape}"
        return Comparison(case.id, case.group, quantity, Verdict.DIFFERS, detail=detail)
    if not floating_arrays(case):
        # A call that should raise has no formula, and no tolerance.
        alike = np.array_equal(got.values, wanted.values, equal_nan=True)
        verdict, detail = (Verdict.AGREES, "") if alike else (Verdict.DIFFERS, "another value")
        return Comparison(case.id, case.group, quantity, verdict, detail=detail)
    if case.logits is not None:
        return _judge_divergence(case, quantity, (implementation, got), (reference, wanted), promotions)
    elements = Elements.of(case)
    sample = _sample(got, wanted)
    values, wanted_values = sample(got.values), sample(wanted.values)
    bound = sample(tolerance(elements, quantity))
    errors = errors_in(values, wanted_values, bound, max(elements.divisor, 1) if quantity == "loss" else 1)
    identical = int(np.count_nonzero(same(values, wanted_values)))
    comparison = partial(Comparison, case.id, case.group, quantity, elements=errors.size, identical=identical)
    if quantity == "loss" and case.reduction != "none" and rounding_decides(elements, values, wanted_values):
        errors = np.zeros_like(errors)
    differing = errors > 1
    largest = float(np.max(errors, where=~differing, initial=0))
    if not differing.any():
        return comparison(Verdict.DEVIATES if promotions else Verdict.AGREES, largest, promotions)
    ours, theirs = (statement(elements, quantity, side) for side in (implementation, reference))
    stated, slack = sample(ours.value), sample(ours.slack)
    stated_of_reference, slack_of_reference = sample(theirs.value), sample(theirs.slack)
    explained = (
        (errors_in(values, _rounded(stated, got), bound + slack) <= 1)
        & (errors_in(wanted_values, _rounded(stated_of_reference, wanted), bound + slack_of_reference) <= 1)
        # Two statements that differ by less than half the tolerance cannot explain a difference above the tolerance.
        & (errors_in(stated, stated_of_reference, bound) + (slack + slack_of_reference) / bound > 0.5)
    )
    unexplained = differing & ~explained
    entries = entries_between(ours, theirs, lambda mask: bool((sample(mask) & differing).any()))
    if entries and not unexplained.any():
        return comparison(Verdict.DEVIATES, largest, promotions + entries)
    return comparison(Verdict.DIFFERS, largest, detail=_describe(elements, unexplained, values, wanted_values, sample))


def _judge_divergence(
    case: Case,
    quantity: str,
    ours: tuple[Implementation, Result],
    theirs: tuple[Implementation, Result],
    promotions: tuple[str, ...],
) -> Comparison:
    """Verdict on a quantity of a divergence from logits; sides that differ must be exact, or as the ledger states.

    A side that promises less error than the tolerance must keep its promise, even where it agrees with the other.
    """
    got, wanted = ours[1], theirs[1]
    sample = _sample(got, wanted)
    values, wanted_values = sample(got.values), sample(wanted.values)
    exact, bound = map(sample, exact_and_tolerance(case, quantity))
    errors = errors_in(values, wanted_values, bound)
    identical = int(np.count_nonzero(same(values, wanted_values)))
    comparison = partial(Comparison, case.id, case.group, quantity, elements=errors.size, identical=identical)
    of, entries = Divergences.of(case), dict[str, Mask]()
    promised = promised_bound(ours[0], case, quantity, got.dtype)
    bounds = bound if promised is None else np.minimum(bound, sample(promised)), bound
    broken = np.asarray(promised is not None) & (errors_in(values, _rounded(exact, got), bounds[0]) > 1)
    differing = (errors > 1) | broken
    largest = float(np.max(errors, where=~differing, initial=0))
    if not differing.any():
        return comparison(Verdict.DEVIATES if promotions else Verdict.AGREES, largest, promotions)
    explained, stated = np.full(exact.shape, True), np.full(exact.shape, False)
    for (who, result), allowed in zip((ours, theirs), bounds, strict=True):
        as_stated = np.full(exact.shape, False)
        for entry in INEXACT:
            if entry.who(who):
                entries[entry.id] = _as_stated(entry, of, quantity, result, sample)
                as_stated |= entries[entry.id]
        is_exact = errors_in(sample(result.values), _rounded(exact, result), allowed) <= 1
        explained &= is_exact | as_stated
        stated |= as_stated
    unexplained = differing & ~(explained & stated)
    if not unexplained.any():
        used = tuple(entry for entry, mask in entries.items() if (mask & differing).any())
        return comparison(Verdict.DEVIATES, largest, promotions + used)
    first = tuple(int(i) for i in np.argwhere(unexplained)[0])
    detail = f"{np.count_nonzero(unexplained)} of {unexplained.size} elements, first {first}: {values[first]}"
    detail += f"; reference: {wanted_values[first]}, exact: {exact[first]:.9g}, tolerance: {bounds[0][first]:.2g}"
    return comparison(Verdict.DIFFERS, largest, detail=detail)


def _as_stated(entry: Inexact, of: Divergences, quantity: str, result: Result, sample: Callable[[Any], Any]) -> Mask:
    """Elements of a result for which an entry applies, and that have the value that it states."""
    exact, bound = exact_and_tolerance(of.case, quantity)
    value = exact if entry.instead is None else entry.instead
    value = np.broadcast_to(value(of, quantity) if callable(value) else value, exact.shape)
    slack = bound if entry.roundings is None else bound + entry.roundings(of, quantity)
    errors = errors_in(sample(result.values), _rounded(sample(value), result), sample(slack))
    as_stated: Mask = sample(entry.where(of, quantity)) & (errors <= 1)
    return as_stated


def _promotions(case: Case, quantity: str, sides: tuple[tuple[Implementation, Result], ...]) -> tuple[str, ...]:
    """Ledger entries that explain why two results have different dtypes."""
    if len({result.dtype for _, result in sides}) == 1:
        return ()
    return tuple(
        entry.id
        for who, result in sides
        for entry in PROMOTIONS
        if entry.who(who) and entry.gives(case, quantity) == result.dtype
    )


def _sample(*results: Result) -> Callable[[Any], Any]:
    """A function that selects the elements that all results have: all, or those that a recording keeps."""
    if all(result.values.shape == result.shape for result in results):
        return lambda array: array
    indices = kept(size_of(results[0].shape))

    def sample(array: Any) -> Any:
        return array.ravel()[indices] if array.size > indices.size else array

    return sample


def _rounded(values: Floats, like: Result) -> Values:
    """Values in the dtype of a result; infinite where they overflow."""
    rounded = rounded_to(values, "bfloat16") if like.dtype == "bfloat16" else np.asarray(values)
    return rounded.astype(like.values.dtype)


def _describe(elements: Elements, where: Mask, got: Values, wanted: Values, sample: Callable[[Any], Any]) -> str:
    if where.ndim == 0:
        return f"{got}; reference: {wanted}"
    first = tuple(int(i) for i in np.argwhere(where)[0])
    count = f"{np.count_nonzero(where)} of {where.size} elements"
    operands = ""
    if sample(elements.y).shape == where.shape:
        operands = f" (target {sample(elements.y)[first]:g}, input {sample(elements.x)[first]:g})"
    return f"{count}, first {first}: {got[first]}; reference: {wanted[first]}{operands}"
