"""The fuzzer: the ledger explains its random cases, which catch what is wrong, and are made small."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conformance import fuzz
from conformance.faults import FAULTS, Fault, Faulty
from conformance.faulty_divergences import FAULTS as FAULTS_OF_DIVERGENCES
from conformance.faulty_divergences import FaultyDivergence
from conformance.fuzz import case_of, cases_until_caught, compared, hunt, save_cases, strategy, text_of
from conformance.implementations.kldiv_xp import numpy
from conformance.judge import Verdict
from conformance.mutations import MUTATIONS, UNSEEN, mutated, paths_of
from conformance.record import Case, load_corpus

LIBRARIES = ("numpy", "torch", "torch.func", "mlx", "scipy")
"""Those that take any shape at once."""
MOST = 10_000
"""Cases. Each fault takes some hundreds on average; which are drawn also depends on the modules that are loaded."""


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_ledger_explains_random_cases(library: str) -> None:
    implementations = fuzz.candidates([f"kldiv_xp {library} [", f"{library}.special"])
    if not implementations:
        pytest.skip(f"{library} is not installed")
    tally = hunt(implementations, strategy(()), fuzz.SEED, seconds=300, rounds=1)
    assert tally.comparisons > 100
    assert [line for finding in tally.findings for line in finding.lines] == []


def few(values: Sequence[Any]) -> list[Any]:
    """Parameters of a test; all but three or four, which are spread over them, are marked as long."""
    return [pytest.param(v, marks=[pytest.mark.long] * (n % (len(values) // 3) > 0)) for n, v in enumerate(values)]


@pytest.mark.parametrize("mutation", few(tuple(MUTATIONS)))
def test_random_cases_catch_a_mutation(mutation: str) -> None:
    for implementation in paths_of("oneflow"):
        if (mutation, implementation.name) not in UNSEEN:
            with mutated(mutation):
                assert cases_until_caught(implementation, fuzz.SEED, MOST) is not None


@pytest.mark.parametrize("fault", few(tuple(FAULTS)), ids=lambda fault: fault.what)
def test_random_cases_catch_a_faulty_loss(fault: Fault) -> None:
    assert cases_until_caught(Faulty(fault), fuzz.SEED, MOST) is not None


@pytest.mark.parametrize("fault", few(tuple(FAULTS_OF_DIVERGENCES)))
def test_random_cases_catch_a_faulty_divergence(fault: str) -> None:
    assert cases_until_caught(FaultyDivergence(fault), fuzz.SEED, MOST) is not None


class AlwaysWrong(numpy.KLDivXP):
    """A loss that is too large by one."""

    def evaluate(self, case: Case, input: Any, target: Any, cotangent: Any) -> tuple[Any, Any]:
        loss, gradients = super().evaluate(case, input, target, cotangent)
        return loss + np.ones((), loss.dtype), gradients


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_case_for_what_is_always_wrong_is_small(seed: int) -> None:
    (finding,) = hunt([AlwaysWrong("oneflow")], strategy(()), seed, seconds=120).findings
    assert finding.case.input.values.size <= 2


class WrongForHalf(numpy.KLDivXP):
    """A loss that is wrong for a target of one half."""

    def evaluate(self, case: Case, input: Any, target: Any, cotangent: Any) -> tuple[Any, Any]:
        loss, gradients = super().evaluate(case, input, target, cotangent)
        return loss + np.any(target == 0.5).astype(loss.dtype), gradients


def test_what_differs_is_shown_by_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    implementation = WrongForHalf("oneflow")
    (finding,) = hunt([implementation], strategy(()), fuzz.SEED, seconds=120).findings
    assert finding.labels == (implementation.label,)
    *_, command = finding.lines
    text = command.partition("--case ")[2].strip("'")
    assert any(c.verdict == Verdict.DIFFERS for c in compared(case_of(text), implementation))
    assert fuzz.main(["-i", "kldiv_xp numpy [oneflow]", "--case", text]) == 0
    assert "agrees: kldiv_xp numpy [oneflow]: loss" in capsys.readouterr().out


def drawn(number: int) -> Sequence[Case]:
    """Random cases."""
    seen: list[Case] = []

    class Sees(numpy.KLDivXP):
        def run(self, case: Case) -> Any:
            seen.append(case)
            return super().run(case)

    cases_until_caught(Sees("oneflow"), 7, number)
    return seen


def equal(case: Case, other: Case) -> bool:
    return text_of(case) == text_of(other)


def test_a_case_comes_back_from_its_text() -> None:
    cases = drawn(250)
    assert {case.input.dtype for case in cases} == {"float16", "bfloat16", "float32", "float64"}
    assert any(case.logits for case in cases)
    assert all(equal(case, case_of(text_of(case))) for case in cases)


def test_a_case_comes_back_from_a_file(tmp_path: Path) -> None:
    cases, path = drawn(250), tmp_path / "found.npz"
    save_cases(path, cases[:100])
    save_cases(path, cases[100:])
    loaded = load_corpus(path).cases
    assert len(loaded) == len(cases)
    assert all(map(equal, cases, loaded))


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"input": 1}', '{"input":["float32",[2],[1.0],"contiguous"]}'])
def test_what_is_no_case_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        fuzz.main(["--case", text])
    assert refused.value.code == 2
    assert "is no case" in capsys.readouterr().err


def test_one_seed_draws_the_same_cases() -> None:
    first, second = drawn(100), drawn(100)
    assert len(first) == len(second)
    assert all(map(equal, first, second))
