"""The divergences from logits in the suite: their corpus, their exact values, and the faults that it catches."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conformance.build_corpus import build_logits, save
from conformance.divergences import Divergences
from conformance.faulty_divergences import FAULTS, FaultyDivergence
from conformance.implementations import reference
from conformance.implementations.composition import Composition
from conformance.judge import Verdict, judge
from conformance.record import LOGITS, Case, load_corpus
from conformance.run import expected_outcome
from tests import exact_from_logits as exact

CASES = load_corpus(LOGITS).cases
SMALL = [case for case in CASES if case.input.values.size <= 40 and case.reduction == "none"]


def test_the_committed_corpus_is_what_its_program_builds(tmp_path: Path) -> None:
    save(tmp_path / "logits.npz", build_logits())
    with np.load(tmp_path / "logits.npz") as new, np.load(LOGITS) as committed:
        assert set(new.files) == set(committed.files)
        for name in committed.files:
            assert new[name].tobytes() == committed[name].tobytes(), name


@pytest.mark.parametrize("case", SMALL[::7], ids=lambda case: case.id)
def test_the_values_that_decide_are_those_of_mpmath(case: Case) -> None:
    assert case.logits is not None
    axis = case.logits.axis
    x, y = (np.moveaxis(o.values.astype(np.float64), axis, -1) for o in (case.input, case.target))
    of = Divergences.of(case)
    rows = exact.rows(x, y, case.logits.beta, case.logits.temperature)
    np.testing.assert_allclose(of.exact("loss"), rows, rtol=1e-13, atol=1e-300)
    for quantity, wanted in zip(
        ("input", "target"), exact.gradients(x, y, case.logits.beta, case.logits.temperature), strict=True
    ):
        if quantity in case.gradients:
            got = np.moveaxis(of.exact(quantity), axis, -1)
            defined = np.isfinite(rows)
            np.testing.assert_allclose(got[defined], wanted[defined], rtol=1e-12, atol=1e-17)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_caught(fault: str) -> None:
    assert _differing(FaultyDivergence(fault))


def test_the_composition_agrees_with_itself() -> None:
    verdicts = Counter(_verdicts(Composition()))
    assert set(verdicts) <= {Verdict.AGREES, Verdict.UNSUPPORTED}
    assert verdicts[Verdict.AGREES] > len(CASES)


def _differing(implementation: Any) -> bool:
    return any(verdict == Verdict.DIFFERS for verdict in _verdicts(implementation))


def _verdicts(implementation: Any) -> Any:
    for case in CASES:
        if case.input.values.size > 2000:
            continue
        outcome = implementation.run(case)
        expected = expected_outcome(reference(), case)
        for comparison in judge(case, implementation, outcome, Composition(), expected):
            yield comparison.verdict
