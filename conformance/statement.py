"""What an implementation should give for a quantity: PyTorch's formula, with the deviations of the ledger."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from conformance.elements import Elements, Floats
from conformance.ledger import Deviation, Mask, deviations_of
from conformance.record import Implementation, Values


@dataclass(frozen=True)
class Statement:
    """The expected values of an implementation: for the elements of a quantity, and for the quantity itself."""

    elements: Floats
    roundings: Floats
    """Allowed error of ``elements`` beyond the tolerance, for roundings that the formula does not have."""
    owners: Mapping[str, Mask]
    """Ledger entries, with the elements that they determine."""
    value: Floats
    """Expected value: the elements, or their sum divided by the divisor."""
    slack: Floats
    """Allowed error of ``value`` beyond the tolerance."""
    whole: str | None = None
    """Ledger entry about the reduced loss as a whole, if one applies."""


def statement(elements: Elements, quantity: str, implementation: Implementation) -> Statement:
    """The statement for an implementation, by the formula and the ledger."""
    if quantity == "input" and elements.one_array:
        apart = replace(elements, one_array=False)
        by_both = (statement(apart, argument, implementation) for argument in ("input", "target"))
        return _sum(*by_both)
    deviations = deviations_of(implementation, quantity)
    seen = elements
    for deviation in deviations:
        seen = deviation.sees(seen) if deviation.sees else seen
    values, owners = seen.formula(quantity), dict[str, Mask]()
    roundings = np.zeros_like(values)
    for deviation in (deviation for deviation in deviations if not deviation.reduced):
        mask = deviation.where(elements if deviation.sees else seen)
        if deviation.instead:
            values = np.where(mask, deviation.instead(seen), values)
            roundings = np.where(mask, 0.0, roundings)
            owners = {entry: others & ~mask for entry, others in owners.items()}
        if deviation.roundings:
            more = deviation.roundings(seen)
            roundings = roundings + np.where(mask & np.isfinite(more), more, 0.0)
        owners[deviation.id] = mask
    if quantity == "loss" and elements.reduction != "none":
        return _reduced(values, roundings, owners, seen, [deviation for deviation in deviations if deviation.reduced])
    weight = 1.0 if quantity == "loss" else elements.weight
    dtypes = {"input": seen.input_dtype, "target": seen.target_dtype}
    values = seen.flushed(values * weight, dtypes.get(quantity, seen.promoted_dtype))
    roundings = roundings * np.abs(weight)
    return Statement(values, roundings, owners, values, roundings)


def _sum(a: Statement, b: Statement) -> Statement:
    """Statement about the gradient by one array that is both arguments."""
    nowhere = np.zeros(np.shape(a.elements), np.bool_)
    owners = {entry: a.owners.get(entry, nowhere) | b.owners.get(entry, nowhere) for entry in {**a.owners, **b.owners}}
    return Statement(
        a.elements + b.elements,
        a.roundings + b.roundings,
        owners,
        a.value + b.value,
        a.slack + b.slack,
    )


def _reduced(
    values: Floats, roundings: Floats, owners: Mapping[str, Mask], seen: Elements, deviations: list[Deviation]
) -> Statement:
    value = np.asarray(values.sum() / np.float64(seen.divisor))
    slack = np.asarray(roundings.sum() / np.float64(max(seen.divisor, 1)))
    whole = None
    for deviation in deviations:
        # A NaN or an infinity among the elements decides what the sum is.
        if deviation.instead and np.isfinite(values).all() and deviation.where(seen):
            value, slack, whole = np.asarray(deviation.instead(seen)), np.zeros_like(slack), deviation.id
    return Statement(values, roundings, owners, value, slack, whole)


def entries_between(ours: Statement, theirs: Statement, matters: Callable[[Mask], bool]) -> tuple[str, ...]:
    """Ledger entries that make two statements differ, for elements for which it ``matters``."""
    apart = ~same(ours.elements, theirs.elements) | (ours.roundings + theirs.roundings > 0)
    entries: dict[str, None] = {}
    for side in (ours, theirs):
        entries.update((entry, None) for entry, mask in side.owners.items() if matters(mask & apart))
        entries.update({side.whole: None} if side.whole else {})
    return tuple(entries)


def errors_in(got: Values, wanted: Values, bound: Floats, divisor: float = 1.0) -> Floats:
    """Differences in units of a bound; infinite where only one is NaN or infinite, or their signs differ.

    An infinity differs from a finite number by as much as that differs from the largest number of the dtype, over the
    divisor of a mean: within the bound, rounding decides whether the sum overflows.
    """
    equal = same(got, wanted)
    if equal.all():
        return np.zeros(equal.shape)
    largest = np.finfo(got.dtype).max / divisor if got.dtype.kind == "f" else np.inf
    got, wanted = got.astype(np.float64), wanted.astype(np.float64)
    finite = [np.where(np.isinf(values), np.copysign(largest, values), values) for values in (got, wanted)]
    difference = np.abs(finite[0] - finite[1])
    comparable = np.isfinite(got) | np.isfinite(wanted)
    comparable &= ~np.isnan(got) & ~np.isnan(wanted) & np.isfinite(difference)
    overflows = np.isinf(got) | np.isinf(wanted)
    errors = np.where(comparable, difference / bound, np.inf)
    return np.where(equal, 0.0, np.where(overflows & (errors > 1), np.inf, errors))


def same(a: Values, b: Values) -> Mask:
    """Where two arrays are equal; NaN equals NaN."""
    equal: Mask = (a == b) | (np.isnan(a) & np.isnan(b))
    return equal
