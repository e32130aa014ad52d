"""The suite itself: it catches what is wrong, lets pass what is right, and refuses a corpus that is damaged."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conformance import record
from conformance.build_corpus import build, save
from conformance.elements import Elements
from conformance.implementations import reference, torch
from conformance.implementations.kldiv_xp import CONVENTIONS, numpy
from conformance.implementations.kldiv_xp.sample import left_out_of_sample
from conformance.judge import Comparison, Verdict, judge
from conformance.ledger import ENTRIES
from conformance.mutations import MUTATIONS, UNSEEN, mutated, paths_of
from conformance.record import Case, Implementation, Operand, Outcome, as_result
from conformance.run import every_case, expected_outcome, judge_implementation
from conformance.statement import errors_in
from conformance.tolerance import rounding_decides, tolerance

CASES = record.load_corpus().cases
# Of the large arrays only those whose sum float16 cannot hold: the others take long, and show no mutation more. Calls
# to refuse come first, because they take no time.
CASES_FOR_MUTATIONS = sorted(
    (
        case
        for case in CASES
        if not case.input.is_array or case.input.values.size < 100_000 or case.id.startswith("random/12500x80/")
    ),
    key=lambda case: case.group != "refused",
)


def differences(implementation: Implementation) -> list[Comparison]:
    judgement = judge_implementation(implementation, CASES_FOR_MUTATIONS)
    return [comparison for comparison in judgement.comparisons if comparison.verdict == Verdict.DIFFERS]


@pytest.mark.parametrize("implementation", [i for c in CONVENTIONS for i in paths_of(c)], ids=lambda i: i.label)
def test_the_unmutated_implementation_passes(implementation: Implementation) -> None:
    assert differences(implementation) == []


def differs(implementation: Implementation, case: Case) -> bool:
    verdicts = judge(case, implementation, implementation.run(case), reference(), expected_outcome(reference(), case))
    return any(comparison.verdict == Verdict.DIFFERS for comparison in verdicts)


SEEN = [
    (mutation, implementation)
    for mutation, convention in itertools.product(MUTATIONS, CONVENTIONS)
    for implementation in paths_of(convention)
    if (mutation, implementation.name) not in UNSEEN
]


@pytest.mark.parametrize(("mutation", "implementation"), SEEN, ids=lambda of: getattr(of, "label", of))
def test_a_mutated_implementation_is_caught(mutation: str, implementation: Implementation) -> None:
    with mutated(mutation):
        assert any(differs(implementation, case) for case in CASES_FOR_MUTATIONS)


def example(input: Any, target: Any, reduction: str = "none", *, log_target: bool = False) -> Case:
    x, y = (Operand(np.asarray(values, np.float32), "float32") for values in (input, target))
    return Case("example", "examples", x, y, reduction, log_target, ())


def verdict(case: Case, loss: Any, implementation: Implementation | None = None) -> Comparison:
    """Verdict on a loss that an implementation, by default one without deviations, is said to have given."""
    outcome = Outcome(as_result(np.asarray(loss, np.float32), "float32"))
    judged_by = implementation or torch.TorchNN("cuda")
    (comparison,) = judge(case, judged_by, outcome, reference(), reference().run(case))
    return comparison


def test_an_error_within_the_tolerance_agrees_and_twice_the_tolerance_differs() -> None:
    case = example([-1.0, -2.0], [0.25, 0.75])
    exact = np.asarray([0.25, 0.75]) * (np.log([0.25, 0.75]) - [-1.0, -2.0])
    allowed = tolerance(Elements.of(case), "loss")
    assert verdict(case, exact + 0.9 * allowed).verdict == Verdict.AGREES
    assert verdict(case, exact + 2 * allowed).verdict == Verdict.DIFFERS
    assert verdict(case, exact - 2 * allowed).verdict == Verdict.DIFFERS


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_must_match_exactly(wrong: float) -> None:
    case = example([-1.0], [0.5])
    assert verdict(case, [wrong]).verdict == Verdict.DIFFERS


def test_an_infinity_agrees_only_with_what_is_within_the_bound_of_overflow() -> None:
    largest, infinite = np.asarray([np.finfo(np.float32).max]), np.asarray([np.inf], np.float32)
    bound = np.asarray([1e36])
    assert errors_in(infinite, largest.astype(np.float32), bound) <= 1
    assert errors_in(infinite, (largest - 2e36).astype(np.float32), bound) == np.inf
    assert errors_in(-infinite, largest.astype(np.float32), bound) == np.inf
    # The sum overflows before it is divided.
    assert errors_in(infinite, (largest / 4).astype(np.float32), bound, 4.0) <= 1
    assert errors_in(infinite, (largest / 2).astype(np.float32), bound, 4.0) == np.inf
    assert errors_in(infinite, (largest / 8).astype(np.float32), bound, 4.0) == np.inf


def test_a_deviation_is_excused_only_with_the_value_that_the_ledger_states() -> None:
    case = example([-1.0], [-0.5])  # NaN in PyTorch, 0 by the convention
    oneflow = numpy.KLDivXP("oneflow")
    assert verdict(case, [0.0], oneflow).ledger == ("negative-target",)
    assert verdict(case, [0.25], oneflow).verdict == Verdict.DIFFERS
    assert verdict(case, [0.0], numpy.KLDivXP("limit")).verdict == Verdict.DIFFERS


@pytest.mark.parametrize("wrong", [7.0, -1e4, np.nan, 0.0])
def test_a_deviation_of_the_reference_excuses_no_wrong_value(wrong: float) -> None:
    case = next(case for case in CASES if case.id == "random/12500x80/recipe/float16/target/batchmean")
    wanted = reference().run(case)
    outcome = Outcome(as_result(np.asarray(wrong, np.float16), "float16"))
    (comparison,) = judge(case, numpy.KLDivXP("oneflow"), outcome, reference(), wanted)
    assert comparison.verdict == Verdict.DIFFERS


@pytest.mark.parametrize("wrong", [-777.0, np.nan, np.inf])
def test_a_gradient_that_the_reference_gets_wrong_is_still_judged(wrong: float) -> None:
    case = next(case for case in CASES if case.id == "real/temperature-4/float16/target/mean")
    wanted, right = reference().run(case), numpy.KLDivXP("torch").run(case)
    differing = right.gradients["target"].values != wanted.gradients["target"].values
    spoiled = np.where(differing, np.float16(wrong), right.gradients["target"].values)
    outcome = Outcome(right.loss, {**right.gradients, "target": as_result(spoiled, "float16")})
    verdicts = {c.quantity: c.verdict for c in judge(case, numpy.KLDivXP("torch"), outcome, reference(), wanted)}
    assert verdicts == {"loss": Verdict.AGREES, "input": Verdict.AGREES, "target": Verdict.DIFFERS}


def test_a_deviation_in_one_element_excuses_no_other() -> None:
    case = example([-1.0, -1.0], [-0.5, 0.5])
    right = 0.5 * (np.log(0.5) + 1)
    oneflow = numpy.KLDivXP("oneflow")
    assert verdict(case, [0.0, right], oneflow).verdict == Verdict.DEVIATES
    assert verdict(case, [0.0, 2 * right], oneflow).verdict == Verdict.DIFFERS


def test_a_deviation_is_carried_through_a_reduction() -> None:
    case = example([-1.0, -1.0], [-0.5, 0.5], "sum")
    right = 0.5 * (np.log(0.5) + 1)
    oneflow = numpy.KLDivXP("oneflow")
    assert verdict(case, right, oneflow).ledger == ("negative-target",)
    assert verdict(case, 2 * right, oneflow).verdict == Verdict.DIFFERS


def test_another_dtype_or_shape_differs() -> None:
    case = example([-1.0], [0.5])
    loss = reference().run(case).loss
    assert loss is not None
    for other in (as_result(loss.values, "float64"), as_result(loss.values[0], "float32")):
        (comparison,) = judge(case, numpy.KLDivXP("torch"), Outcome(other), reference(), reference().run(case))
        assert comparison.verdict == Verdict.DIFFERS


def test_an_error_where_the_reference_has_a_result_differs() -> None:
    case = example([-1.0], [0.5])
    outcome = Outcome(error="ValueError: no")
    (comparison,) = judge(case, numpy.KLDivXP("torch"), outcome, reference(), reference().run(case))
    assert comparison.verdict == Verdict.DIFFERS


def test_the_ids_of_the_ledger_are_unique_and_its_evidence_is_in_the_corpus() -> None:
    assert len({entry.id for entry in ENTRIES}) == len(ENTRIES)
    cases = {case.id for case in every_case()}
    assert [entry.id for entry in ENTRIES if entry.evidence.split(";")[0].split(" ")[0] not in cases] == []


def test_the_committed_corpus_is_what_its_program_builds(tmp_path: Path) -> None:
    built = build()
    save(tmp_path / "corpus.npz", built)
    with np.load(tmp_path / "corpus.npz") as new, np.load(record.CORPUS) as committed:
        assert new["manifest"].tobytes() == committed["manifest"].tobytes()
        for name in set(committed.files) - {"manifest", "digest"}:
            if name.startswith("real/"):  # training takes another path with another processor's linear algebra
                assert (new[name].dtype, new[name].shape) == (committed[name].dtype, committed[name].shape)
            else:
                assert new[name].tobytes() == committed[name].tobytes(), name


def test_a_damaged_corpus_is_refused(tmp_path: Path) -> None:
    copy = tmp_path / "corpus.npz"
    with np.load(record.CORPUS) as file:
        arrays = dict(file)
    name = next(name for name in arrays if name.startswith("real/student"))
    arrays[name] = arrays[name] + 1
    np.savez(copy, **arrays)
    with pytest.raises(ValueError, match="damaged"):
        record.load_corpus(copy)


@pytest.mark.parametrize("bits", [0x0001, 0x007F, 0x0080, 0x3F80, 0x3F81, 0x7F7F, 0x7F80, 0xFF80, 0x8000])
def test_bfloat16_survives_the_way_through_float32(bits: int) -> None:
    there = record.from_bfloat16_bits(np.asarray([bits], np.uint16))
    assert record.to_bfloat16_bits(there).tolist() == [bits]


def test_bfloat16_is_rounded_to_even() -> None:
    values = np.asarray([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20], np.float32)
    assert record.from_bfloat16_bits(record.to_bfloat16_bits(values)).tolist() == [1.0, 1 + 2**-6, 1 + 2**-7]


L = float(np.finfo(np.float64).max)


@pytest.mark.parametrize(
    ("x", "y", "infinity", "decides"),
    [
        ([L, 0.0], [0.0, L], np.inf, True),  # -L, which may round to -inf, and inf
        ([0.9 * L, 0.0], [0.0, L], np.inf, False),
        ([L, 0.0], [0.0, L], -np.inf, False),
        ([L], [0.0], np.inf, False),
        ([L, 0.0, np.nan], [0.0, L, 0.0], np.inf, False),
        ([L, np.nan], [0.0, 0.0], np.inf, False),
        ([np.inf, 0.0], [0.0, L], np.inf, False),  # NaN, whatever rounding does
    ],
)
def test_rounding_decides_whether_an_element_at_the_limit_meets_an_infinity(
    x: list[float], y: list[float], infinity: float, decides: bool
) -> None:
    elements = Elements(np.asarray(x), np.asarray(y), True, "float64", "sum", 1, "float64", "float64")
    with np.errstate(all="ignore"):
        for pair in ((np.asarray(infinity), np.asarray(np.nan)), (np.asarray(np.nan), np.asarray(infinity))):
            assert rounding_decides(elements, *pair) == decides
        assert not rounding_decides(elements, np.asarray(infinity), np.asarray(1.0))


KINDS: dict[str, Callable[[Case], object]] = {
    "reduction": lambda case: case.reduction,
    "log_target": lambda case: case.log_target,
    "dtype": lambda case: case.input.dtype,
    "size": lambda case: case.input.is_array and case.input.values.size > 2000,
    "family": lambda case: case.logits and case.id.split("/")[1],
    "mask": lambda case: case.logits and case.logits.where is not None,
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_has_of_each_group_a_case_of_each_kind(kind: str) -> None:
    cases = (*record.load_corpus().cases, *record.load_corpus(record.LOGITS).cases)
    taken = [case for case in cases if left_out_of_sample(case, 2**40, CONVENTIONS[0]) is None]
    assert {(c.group, KINDS[kind](c)) for c in taken} == {(c.group, KINDS[kind](c)) for c in cases}
    assert len(taken) < len(cases) / 10
