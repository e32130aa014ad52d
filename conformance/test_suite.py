"""The suite itself: it catches what is wrong, lets pass what is right, and refuses a corpus that is damaged."""

import itertools
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from conformance import record
from conformance.build_corpus import build, save
from conformance.elements import Elements
from conformance.implementations import reference, torch
from conformance.implementations.kldiv_xp import CONVENTIONS, numpy, paths
from conformance.implementations.kldiv_xp.sample import left_out_of_sample
from conformance.judge import Comparison, Verdict, judge
from conformance.ledger import ENTRIES
from conformance.record import Case, Implementation, Operand, Outcome, as_result
from conformance.run import every_case, expected_outcome, judge_implementation
from conformance.tolerance import tolerance

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


def fast(convention: str) -> Implementation:
    return numpy.KLDivXP(convention)


def plain(convention: str) -> Implementation:
    return paths.NumPy(convention, "plain", paths.plain)


every_path = pytest.mark.parametrize("path", [fast, plain])


@every_path
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_the_unmutated_implementation_passes(convention: str, path: Callable[[str], Implementation]) -> None:
    assert differences(path(convention)) == []


Mutation = Callable[..., Any]


def _negate(function: Mutation) -> Mutation:
    return lambda *args, **in_place: -function(*args, **in_place)


def _one_more_row(function: Mutation) -> Mutation:
    def averaged(backend: Any, value: Any, elements: Any, reduction: str, *options: Any) -> Any:
        if reduction == "batchmean" and elements.ndim:
            return value / (elements.shape[0] + 1)
        return function(backend, value, elements, reduction, *options)

    return averaged


def _one_more_row_counted(function: Mutation) -> Mutation:
    return lambda backend, x, reduction: function(backend, x, reduction) + (reduction == "batchmean" and x.ndim > 0)


def _rows_for_mean(function: Mutation) -> Mutation:
    return lambda backend, value, elements, reduction, *options: function(
        backend, value, elements, "batchmean" if reduction == "mean" else reduction, *options
    )


def _rows_counted_for_mean(function: Mutation) -> Mutation:
    return lambda backend, x, reduction: function(backend, x, "batchmean" if reduction == "mean" else reduction)


def _no_edge(_: object) -> Mutation:
    return lambda *args: None


def _clamped_edge(_: object) -> Mutation:
    """Zero for all that is smaller than OneFlow's bound of the logarithm."""
    return lambda x, y, options, xp: None if options.log_target else y < 1e-20


def _edge_with_nan(function: Mutation) -> Mutation:
    """The accident of old PyTorch: NaN > 0 is false."""
    return lambda x, y, options, xp: function(x, y, options, xp) if options.log_target else ~(y > 0)


def _same_dtype(_: object) -> Mutation:
    return lambda backend, dtype, *x: dtype


def _always(dtype: str) -> Callable[[object], Mutation]:
    return lambda _: lambda *args: np.dtype(dtype)


def _added_up_in(dtype: str) -> Callable[[Mutation], Mutation]:
    def added_up_in(function: Mutation) -> Mutation:
        def added_up(backend: Any, x: Any, y: Any, options: Any) -> Any:
            with patch.object(backend, "native", SimpleNamespace(**{**vars(np), "float64": np.dtype(dtype)})):
                return function(backend, x, y, options)

        return added_up

    return added_up_in


def _without_one(function: Mutation) -> Mutation:
    return lambda x, y, argnum, weight, *options: function(x, y, argnum, weight, *options) - argnum * weight


def _swapped(function: Mutation) -> Mutation:
    return lambda x, y, *options, **in_place: function(y, x, *options)


def _ignores_log_target(function: Mutation) -> Mutation:
    return lambda x, y, options, xp, **in_place: function(x, y, options._replace(log_target=False), xp)


def _binary_logarithm(_: object) -> Mutation:
    return lambda x, y, options, xp, **in_place: xp.exp(y) * (y - x) if options.log_target else y * (xp.log2(y) - x)


def _summed_in_float16(function: Mutation) -> Mutation:
    return lambda backend, value, elements, *options: function(
        backend, elements.sum(dtype=np.float16), elements, *options
    )


def _few_summed_in_float16(function: Mutation) -> Mutation:
    def of_few(*args: Any) -> Any:
        elements, _, on_edge = function(*args)
        return elements, elements.sum(dtype=np.float16).item(), on_edge

    return of_few


def _block_summed_in_float16(function: Mutation) -> Mutation:
    def write_elements(self: Any, out: Any, *args: Any) -> Any:
        _, on_edge = function(self, out, *args)
        return out.sum(dtype=np.float16).item(), on_edge

    return write_elements


def _crash(_: object) -> Mutation:
    """An error, but not the promised one."""

    def crash(shape: Any, other: Any) -> None:
        if shape != other:
            raise ZeroDivisionError

    return crash


def _of_formulas(name: str, mutate: Callable[[Mutation], Mutation]) -> dict[str, Callable[[Mutation], Mutation]]:
    return {f"_formulas.{name}": mutate, f"backends._blocks.{name}": mutate}


def _computing_in(dtype: str) -> dict[str, Callable[[Mutation], Mutation]]:
    return {**dict.fromkeys(_COMPUTING, _always(dtype)), f"{_BLOCKS}._added_up": _added_up_in(dtype)}


_PLAIN, _BLOCKS, _NUMPY = "backends._standard.Backend", "backends._blocks.InBlocks", "backends.numpy.NumPy"
_COMPUTING = (f"{_NUMPY}.computing_dtype", "backends._on_numpy.OnNumPy.adding_dtype")

# What is wrong in the plain formulas, and in the path that is fast.
MUTATIONS: dict[str, dict[str, Callable[[Mutation], Mutation]]] = {
    "a sign": _of_formulas("loss_off_edge", _negate),
    "a sign of the gradients": _of_formulas("derivative_off_edge", _negate),
    "a batch too large by one": {f"{_PLAIN}.averaged": _one_more_row, f"{_BLOCKS}.counted": _one_more_row_counted},
    "mean over the batch only": {f"{_PLAIN}.averaged": _rows_for_mean, f"{_BLOCKS}.counted": _rows_counted_for_mean},
    "a dropped mask": _of_formulas("edge_of", _no_edge),
    "a mask too wide": _of_formulas("edge_of", _clamped_edge),
    "a NaN target swallowed": _of_formulas("edge_of", _edge_with_nan),
    "float16 accumulation": {
        f"{_PLAIN}.averaged": _summed_in_float16,
        f"{_BLOCKS}._of_few": _few_summed_in_float16,
        f"{_BLOCKS}._write_elements": _block_summed_in_float16,
    },
    "float16 not widened": dict.fromkeys(_COMPUTING, _same_dtype),
    "computed in float16": _computing_in("float16"),
    "computed in float32": _computing_in("float32"),
    "a result of another dtype": {f"{_NUMPY}.result_dtype": _always("float64")},
    "a missing term of the gradient": _of_formulas("derivative_off_edge", _without_one),
    "swapped arguments": _of_formulas("loss_off_edge", _swapped),
    "log_target ignored": _of_formulas("loss_off_edge", _ignores_log_target),
    "a crash for a refusal": {"backends._standard.check_shapes": _crash},
    "a binary logarithm": _of_formulas("loss_off_edge", _binary_logarithm),
}


# In blocks, whose sums are numbers of Python, float16 would be good enough for its own tolerance.
UNSEEN = [("float16 not widened", fast)]


def differs(implementation: Implementation, case: Case) -> bool:
    verdicts = judge(case, implementation, implementation.run(case), reference(), expected_outcome(reference(), case))
    return any(comparison.verdict == Verdict.DIFFERS for comparison in verdicts)


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize(
    ("mutation", "path"), [pair for pair in itertools.product(MUTATIONS, (fast, plain)) if pair not in UNSEEN]
)
def test_a_mutated_implementation_is_caught(
    mutation: str, convention: str, path: Callable[[str], Implementation], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, mutate in MUTATIONS[mutation].items():
        owner_name, _, function = f"kldiv_xp.{name}".rpartition(".")
        owner = resolve_name(owner_name)
        monkeypatch.setattr(owner, function, mutate(getattr(owner, function)))
    implementation = path(convention)
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


KINDS: dict[str, Callable[[Case], object]] = {
    "reduction": lambda case: case.reduction,
    "log_target": lambda case: case.log_target,
    "dtype": lambda case: case.input.dtype,
    "size": lambda case: case.input.is_array and case.input.values.size > 2000,
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_has_of_each_group_a_case_of_each_kind(kind: str) -> None:
    cases = record.load_corpus().cases
    taken = [case for case in cases if left_out_of_sample(case, 2**40, CONVENTIONS[0]) is None]
    assert {(c.group, KINDS[kind](c)) for c in taken} == {(c.group, KINDS[kind](c)) for c in cases}
    assert len(taken) < len(cases) / 10
