"""A run of the suite: every implementation over every case, judged; in two or more processes."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from typing import TYPE_CHECKING

from conformance.corpus import Case, Corpus, load
from conformance.implementation import Implementation, Outcome
from conformance.implementations import every_implementation, reference
from conformance.judge import Comparison, Verdict, judge
from conformance.ledger import DEVIATIONS, REFUSALS

if TYPE_CHECKING:
    from queue import Queue

TICK = 25
"""Cases between two reports of progress."""


@dataclass(frozen=True)
class Judgement:
    """All verdicts on one implementation."""

    label: str
    version: str
    not_run: str | None
    comparisons: tuple[Comparison, ...]

    def count(self, verdict: Verdict, group: str | None = None) -> int:
        """How many comparisons got a verdict."""
        return sum(c.verdict == verdict and group in (None, c.group) for c in self.comparisons)

    @property
    def largest_error(self) -> float:
        """Largest error of what agrees, in units of the tolerance."""
        return max((c.error for c in self.comparisons if c.verdict == Verdict.AGREES), default=0.0)

    @property
    def identical_share(self) -> float:
        """Share of the unreduced losses' elements, in float32 and float64, that are the reference's to the last bit."""
        unreduced = [c for c in self.comparisons if c.quantity == "loss" and c.case in _unreduced_cases()]
        return sum(c.identical for c in unreduced) / max(sum(c.elements for c in unreduced), 1)


def judge_implementation(
    implementation: Implementation,
    cases: Sequence[Case],
    *,
    everything: bool = False,
    progress: Callable[[int], object] = lambda _: None,
) -> Judgement:
    """Verdicts on one implementation over some cases."""
    reason = implementation.not_run()
    if reason is not None:
        progress(len(cases))
        return Judgement(implementation.label, "", reason, ())
    comparisons: list[Comparison] = []
    for number, case in enumerate(cases, start=1):
        left_out = None if everything else implementation.left_out(case)
        if left_out is None:
            outcome, expected = implementation.run(case), _expected(case)
            comparisons += judge(case, implementation, outcome, reference(), expected)
        else:
            quantities = ("loss", *case.gradients)
            comparisons += [Comparison(case.id, case.group, q, Verdict.NOT_RUN, detail=left_out) for q in quantities]
        if number % TICK == 0 or number == len(cases):
            progress(TICK if number % TICK == 0 else number % TICK)
    return Judgement(implementation.label, implementation.version(), None, tuple(comparisons))


def judge_all(
    labels: Iterable[str],
    groups: Iterable[str],
    *,
    everything: bool = False,
    processes: int | None = None,
    progress: Callable[[str, int], object] = lambda *_: None,
) -> list[Judgement]:
    """Verdicts on the implementations of these labels, in their order, over the cases of some groups.

    ``progress`` is called with a label and the number of cases that were judged since the last call.
    """
    labels, groups = list(labels), tuple(groups)
    judgements: dict[str, Judgement] = {}
    # A process that is forked after JAX or PyTorch has started its threads may hang.
    spawn = get_context("spawn")
    with spawn.Manager() as manager, ProcessPoolExecutor(processes, mp_context=spawn) as pool:
        ticks: Queue[tuple[str, int]] = manager.Queue()
        # What compiles takes longest, and is best not begun last.
        order = sorted(labels, key=lambda label: "jit" not in label and "compile" not in label)
        pending = {pool.submit(_judge_label, label, groups, everything, ticks) for label in order}
        while pending:
            done, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
            while not ticks.empty():
                progress(*ticks.get())
            judgements.update((judgement.label, judgement) for judgement in (future.result() for future in done))
    return [judgements[label] for label in labels]


def unused_entries(judgements: Iterable[Judgement]) -> list[str]:
    """Ledger entries that explain nothing, although an implementation that they are about was judged."""
    judgements = list(judgements)
    used = {entry for judgement in judgements for comparison in judgement.comparisons for entry in comparison.ledger}
    judged = {judgement.label for judgement in judgements if judgement.comparisons}
    present = [i for i in (*every_implementation(), reference()) if i.label in judged | {reference().label}]
    entries = (*DEVIATIONS, *REFUSALS)
    return [entry.id for entry in entries if entry.id not in used and any(map(entry.who, present))]


def _judge_label(label: str, groups: tuple[str, ...], everything: bool, ticks: "Queue[tuple[str, int]]") -> Judgement:
    implementation = next(i for i in every_implementation() if i.label == label)
    cases = [case for case in _corpus().cases if case.group in groups]
    return judge_implementation(
        implementation, cases, everything=everything, progress=lambda count: ticks.put((label, count))
    )


@cache
def _corpus() -> Corpus:
    return load()


@cache
def _unreduced_cases() -> frozenset[str]:
    """Cases without reduction whose operands are both float32, or both float64."""
    dtypes = (("float32", "float32"), ("float64", "float64"))
    cases = _corpus().cases
    return frozenset(c.id for c in cases if c.reduction == "none" and (c.input.dtype, c.target.dtype) in dtypes)


_expected_outcomes: dict[str, Outcome] = {}


def _expected(case: Case) -> Outcome:
    """Outcome of the reference, computed once in each process."""
    if case.id not in _expected_outcomes:
        _expected_outcomes[case.id] = reference().run(case)
    return _expected_outcomes[case.id]
