"""The suite sees how a loss is called: it catches the faults that users reported of other losses."""

import pytest

from conformance.faults import FAULTS, NO_FAULT, Fault, caught_by
from conformance.record import CALLS, LAYOUTS, load_corpus

CASES = [case for case in load_corpus().cases if case.group == "calls"]


def test_a_loss_without_a_fault_passes() -> None:
    assert [case.id for case in caught_by(NO_FAULT, CASES)] == []


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.what.replace(" ", "-"))
def test_a_fault_is_caught_by_the_cases_that_are_made_for_it(fault: Fault) -> None:
    cases = [case for case in CASES if fault.caught_by in case.id]
    assert cases
    assert next(caught_by(fault, cases), None) is not None


def test_the_corpus_has_every_call_and_every_layout() -> None:
    assert {case.call for case in CASES} == set(CALLS)
    assert {layout for case in CASES for layout in case.layouts} == set(LAYOUTS) - {"contiguous"}
    assert {case.gradients for case in CASES} == {(), ("input",), ("target",), ("input", "target")}
