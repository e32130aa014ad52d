"""The ledger by itself: each statement is what the implementation gives, whatever the reference gives there."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from conformance import record
from conformance.divergences import exact_and_tolerance
from conformance.elements import Elements
from conformance.implementations import RECORDINGS, corpora, reference, reference_from_logits, scipy
from conformance.implementations.kldiv_xp import numpy as kldiv_xp_numpy
from conformance.judge import Verdict, judge
from conformance.ledger import DEVIATIONS, INEXACT, Deviation, Inexact
from conformance.ledger.entry import floating_arrays
from conformance.record import Case, Implementation, Outcome, Result, Values, kept
from conformance.recording import read_recording
from conformance.run import expected_outcome
from conformance.statement import errors_in, statement
from conformance.tolerance import tolerance

CORPUS = record.load_corpus()
LARGEST = 5_000


def _implementations() -> Iterator[Implementation]:
    recordings = (read_recording(path, *corpora()) for path in sorted(RECORDINGS.glob("*.npz")))
    yield from (recording for recording in recordings if recording.device == "cpu")  # others are of a sample
    yield from scipy.implementations()
    yield from kldiv_xp_numpy.implementations()


ALL = list(_implementations())
IMPLEMENTATIONS = {
    implementation.label: implementation for implementation in ALL if implementation.takes(CORPUS.cases[0])
}
FROM_LOGITS = [
    implementation for implementation in ALL if implementation.convention is None and implementation.divergences
]


FOREIGN = [implementation for implementation in IMPLEMENTATIONS.values() if implementation.convention is None]
# What PyTorch does, too, explains a difference from another one only.
REFERENCES = (reference(), IMPLEMENTATIONS["kldiv_xp numpy [oneflow]"])
STATED = {d.id: d for d in DEVIATIONS if d.instead and any(map(d.who, FOREIGN))}


CASES = [case for case in CORPUS.cases if floating_arrays(case) and case.input.values.size <= LARGEST]


def _errors_in(got: Values, wanted: Values, bound: Values) -> Values:
    with np.errstate(all="ignore"):
        return errors_in(got, wanted, bound)


class Stated:
    """What is stated of a quantity, for the elements that its result has."""

    def __init__(self, case: Case, quantity: str, implementation: Implementation, result: Result) -> None:
        self.elements = Elements.of(case)
        self._implementation, self._result = implementation, result
        with np.errstate(all="ignore"):
            self._statement = statement(self.elements, quantity, implementation)
            self.value = self.sample(self._statement.value).astype(result.values.dtype)
            self.tolerance = self.sample(tolerance(self.elements, quantity))
            self.bound = self.tolerance + self.sample(self._statement.slack)

    def sample(self, array: Values) -> Values:
        """What the result has of an array: all elements, or those that a recording keeps."""
        array = np.asarray(array)
        return array if array.shape == self._result.values.shape else array.ravel()[kept(array.size)]

    def errors(self) -> Values:
        """Differences from the result, in units of what is allowed."""
        return _errors_in(self._result.values, self.value, self.bound)

    def by_chance(self) -> Values:
        """Mask of the elements for which the implementation may give this or the formula."""
        mask = np.zeros(self.elements.x.shape, np.bool_)
        with np.errstate(all="ignore"):
            for entry in DEVIATIONS:
                if entry.by_chance and entry.who(self._implementation):
                    mask |= entry.where(self.elements)
        return np.asarray(mask.any()) if self._statement.value.shape != mask.shape else self.sample(mask)

    def covered(self, entry: Deviation) -> Values:
        """Mask of the elements for which an entry counts."""
        shape = self._result.values.shape
        if entry.reduced:
            return np.full(shape, self._statement.whole == entry.id)
        mask = self._statement.owners[entry.id]
        return np.asarray(mask.any()) if self._statement.value.shape != mask.shape else self.sample(mask)


@pytest.mark.parametrize("label", IMPLEMENTATIONS)
def test_the_ledger_states_what_an_implementation_gives(label: str) -> None:
    implementation, contradicted = IMPLEMENTATIONS[label], []
    for case in CASES:
        outcome = implementation.run(case)
        for quantity in case.quantities:
            result = outcome.quantity(quantity)
            if result is None:
                continue
            stated = Stated(case, quantity, implementation, result)
            wrong = ~(stated.errors() <= 1) & ~stated.by_chance()
            if wrong.any():
                at = tuple(int(i) for i in np.argwhere(wrong)[0])
                contradicted.append(f"{case.id}, {quantity} {at}: {result.values[at]}, stated {stated.value[at]}")
    assert contradicted == []


@pytest.mark.parametrize("entry", STATED.values(), ids=STATED)
def test_another_value_than_the_ledger_states_differs(entry: Deviation) -> None:
    tried = 0
    for case, quantity, implementation, against in _explained_by(entry):
        outcome, expected = implementation.run(case), expected_outcome(against, case)
        result, wanted = outcome.quantity(quantity), expected.quantity(quantity)
        assert result is not None
        assert wanted is not None
        stated = Stated(case, quantity, implementation, result)
        covered, like_reference = np.argwhere(stated.covered(entry)), stated.sample(wanted.values)
        for at in map(tuple, covered[:: max(1, len(covered) // 8)]):
            for other in _others(result.values[at], stated.bound[at]):
                if _errors_in(other, like_reference[at], stated.tolerance[at]) <= 1:
                    continue
                spoilt = result.values.copy()
                spoilt[at] = other
                changed = _with(outcome, quantity, replace(result, values=spoilt))
                verdicts = {c.quantity: c.verdict for c in judge(case, implementation, changed, against, expected)}
                assert verdicts[quantity] == Verdict.DIFFERS, (implementation.label, case.id, quantity, at, other)
                tried += 1
    assert tried


INEXACT_OF_FOREIGN = {e.id: e for e in INEXACT if any(map(e.who, [reference_from_logits(), *FROM_LOGITS]))}


@pytest.mark.parametrize("entry", INEXACT_OF_FOREIGN.values(), ids=INEXACT_OF_FOREIGN)
def test_another_value_than_the_ledger_states_of_a_divergence_differs(entry: Inexact) -> None:
    """Except the exact value."""
    against, tried = IMPLEMENTATIONS["kldiv_xp numpy [oneflow]"], 0
    for implementation in filter(entry.who, [reference_from_logits(), *FROM_LOGITS]):
        for case, quantity in islice(_inexact_by(entry, implementation, against), 2):
            outcome, expected = implementation.run(case), against.run(case)
            result = outcome.quantity(quantity)
            assert result is not None
            exact, bound = exact_and_tolerance(case, quantity)
            sampled = exact if exact.shape == result.values.shape else exact.ravel()[kept(exact.size)]
            with np.errstate(all="ignore"):
                finite = np.where(np.isfinite(result.values), result.values, sampled)
                spoilt = 1.3 * finite + 40 * np.nan_to_num(bound).max() + 1
            changed = _with(outcome, quantity, replace(result, values=spoilt.astype(result.values.dtype)))
            verdicts = {c.quantity: c.verdict for c in judge(case, implementation, changed, against, expected)}
            assert verdicts[quantity] == Verdict.DIFFERS, (implementation.label, case.id, quantity)
            tried += 1
    assert tried


def _inexact_by(entry: Inexact, implementation: Implementation, against: Implementation) -> Iterator[tuple[Case, str]]:
    """Comparisons from logits in which an entry explains a difference."""
    for case in corpora()[1].cases:
        if case.input.values.size <= LARGEST:
            for c in judge(case, implementation, implementation.run(case), against, expected_outcome(against, case)):
                if entry.id in c.ledger:
                    yield case, c.quantity


def _explained_by(entry: Deviation) -> Iterator[tuple[Case, str, Implementation, Implementation]]:
    """One case for each quantity in which an entry explains a difference; its evidence, if that is one."""
    evidence = entry.evidence.split(";")[0].split(" ")[0]
    # Of all sizes, since a sum is lost over many elements alone.
    cases = [*(case for case in CORPUS.cases if case.id == evidence), *CASES]
    for quantity in entry.quantities:
        # The gradient by one array that is both arguments has a part that is by the target.
        candidates = (
            (case, "input" if case.call == "one array" else quantity, implementation, against)
            for case in cases
            if quantity in case.quantities or case.call == "one array"
            for against in REFERENCES
            for implementation in filter(entry.who, FOREIGN)
        )
        yield from islice((candidate for candidate in candidates if _explains(entry, *candidate)), 1)


def _explains(
    entry: Deviation, case: Case, quantity: str, implementation: Implementation, against: Implementation
) -> bool:
    outcome, expected = implementation.run(case), expected_outcome(against, case)
    if outcome.quantity(quantity) is None or expected.quantity(quantity) is None:
        return False
    comparisons = judge(case, implementation, outcome, against, expected)
    return any(c.quantity == quantity and entry.id in c.ledger for c in comparisons)


def _with(outcome: Outcome, quantity: str, result: Result) -> Outcome:
    if quantity == "loss":
        return replace(outcome, loss=result)
    return replace(outcome, gradients={**outcome.gradients, quantity: result})


def _others(got: Values, bound: Values) -> Iterator[Values]:
    """Other values in an element's place: NaN or 0, another sign, and a tenth more."""
    values = [0.0] if np.isnan(got) else [np.nan, -got] if np.abs(got) > 2 * bound else [np.nan]
    if np.isfinite(got):
        values.append(float(got) + max(abs(float(got)) / 10, 4 * float(bound)))
    with np.errstate(all="ignore"):
        yield from (np.asarray(value).astype(got.dtype) for value in values)
