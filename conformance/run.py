"""A run of the suite: every implementation over every case, judged; in one process or more."""

import platform
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from conformance.implementations import corpora, every_implementation, reference, reference_from_logits
from conformance.judge import Comparison, Verdict, judge
from conformance.ledger import ENTRIES
from conformance.processes import SPAWN, workers
from conformance.record import Case, Implementation, Outcome, Values
from conformance.recording import Recorded, RecordingError, read_recording

if TYPE_CHECKING:
    from queue import Queue

TICK = 25
"""Cases between two reports of progress."""

Grids = Mapping[str, Mapping[str, Values]]
"""Results over the grids of special values, by case and quantity."""


@dataclass(frozen=True)
class Support:
    """Properties of an implementation, for the support tables."""

    name: str
    gradients_by: str
    lazy: bool
    distributed: str


@dataclass(frozen=True)
class Judgement:
    """All verdicts on one implementation."""

    label: str
    version: str
    not_run: str | None
    comparisons: tuple[Comparison, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    """Environment of the run or of the recording."""
    grids: Grids = field(default_factory=dict)
    support: Support | None = None

    def count(self, verdict: Verdict, group: str | None = None) -> int:
        """How many comparisons got a verdict."""
        return sum(c.verdict == verdict and group in (None, c.group) for c in self.comparisons)

    def count_of(self, quantity: str, verdict: Verdict) -> int:
        """How many comparisons of a quantity got a verdict, without calls that must raise."""
        comparisons = (c for c in self.comparisons if c.group != "refused" and c.quantity == quantity)
        return sum(c.verdict == verdict for c in comparisons)

    @property
    def largest_error(self) -> float:
        """Largest error of the comparisons that agree, in units of the tolerance."""
        return max((c.error for c in self.comparisons if c.verdict == Verdict.AGREES), default=0.0)

    @property
    def identical_share(self) -> float:
        """Share of the elements of unreduced float32 and float64 losses that have the same bits as the reference."""
        unreduced = [c for c in self.comparisons if c.quantity == "loss" and c.case in _unreduced_cases()]
        return sum(c.identical for c in unreduced) / max(sum(c.elements for c in unreduced), 1)


@dataclass(frozen=True)
class Question:
    """Which implementations and cases a run judges, and against which reference."""

    labels: tuple[str, ...]
    groups: tuple[str, ...]
    reference: str
    """Label of the reference."""
    files: tuple[Path, ...] = ()
    """Recordings to judge beside the implementations that the suite knows."""
    everything: bool = False
    """Whether to run the cases that an ordinary run skips."""


def every_case() -> tuple[Case, ...]:
    """The cases of both corpora."""
    return tuple(case for corpus in corpora() for case in corpus.cases)


def known_implementations(recorded: Iterable[Recorded] = ()) -> dict[str, Implementation]:
    """Every implementation by its label, with the given recordings."""
    return {i.label: i for i in (*every_implementation(), *recorded)}


def recorded_implementations(files: Iterable[Path]) -> list[Recorded]:
    """Implementations that were recorded in ``files``, each labelled with the name of its file.

    Raises
    ------
    RecordingError
        If a file is no sound recording, or is given twice.
    """
    files = tuple(files)
    names = Counter(path.name for path in files)
    recorded: dict[str, Recorded] = {}
    for path in files:
        implementation = read_recording(path, *corpora())
        implementation.show_file(path.name if names[path.name] == 1 else str(path))
        if implementation.label in recorded:
            raise RecordingError(f"{path}: is given twice; give each recording once")
        recorded[implementation.label] = implementation
    return list(recorded.values())


def judge_implementation(
    implementation: Implementation,
    cases: Sequence[Case],
    against: Implementation | None = None,
    *,
    everything: bool = False,
    progress: Callable[[int], object] = lambda _: None,
) -> Judgement:
    """Verdicts on one implementation over some cases, by default against ``torch.nn.KLDivLoss``."""
    against = against or reference()
    reason = implementation.not_run()
    if reason is not None:
        progress(len(cases))
        return Judgement(implementation.label, "", reason, (), support=_support(implementation))
    comparisons: list[Comparison] = []
    grids: dict[str, Mapping[str, Values]] = {}
    taken = [case for case in cases if implementation.takes(case)]
    progress(len(cases) - len(taken))
    for number, case in enumerate(taken, start=1):
        left_out = None if everything else implementation.left_out(case)
        outcome = implementation.run(case) if left_out is None else Outcome(left_out=left_out)
        expected = outcome if outcome.left_out else expected_outcome(against, case)
        if expected.left_out:
            comparisons += [
                Comparison(case.id, case.group, q, Verdict.NOT_RUN, detail=expected.left_out) for q in case.quantities
            ]
        else:
            comparisons += judge(case, implementation, outcome, reference_for(case, against), expected)
            if is_grid(case):
                grids[case.id] = grid(case, outcome)
        if number % TICK == 0 or number == len(taken):
            progress(TICK if number % TICK == 0 else number % TICK)
    version = f"{implementation.library} {implementation.version()}"
    return Judgement(
        implementation.label,
        version,
        None,
        tuple(comparisons),
        _environment(implementation),
        grids,
        _support(implementation),
    )


def judge_all(
    question: Question, *, processes: int | None = None, progress: Callable[[str, int], object] = lambda *_: None
) -> list[Judgement]:
    """Verdicts on the implementations of the question, in their order.

    ``progress`` receives a label, and the number of its cases that were judged since the last call.
    """
    if processes == 1:
        return [_judge_label(label, question, lambda tick: progress(*tick)) for label in question.labels]
    judgements: dict[str, Judgement] = {}
    with SPAWN.Manager() as manager, workers(processes) as pool:
        ticks: Queue[tuple[str, int]] = manager.Queue()
        # Start with implementations that compile, which take longest.
        order = sorted(question.labels, key=lambda label: "jit" not in label and "compile" not in label)
        pending = {pool.submit(_judge_label, label, question, ticks.put) for label in order}
        while pending:
            done, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
            while not ticks.empty():
                progress(*ticks.get())
            judgements.update((judgement.label, judgement) for judgement in (future.result() for future in done))
    return [judgements[label] for label in question.labels]


def unused_entries(judgements: Iterable[Judgement]) -> list[str]:
    """Ledger entries that explain nothing, although an implementation that they cover was judged."""
    judgements = list(judgements)
    used = {entry for judgement in judgements for comparison in judgement.comparisons for entry in comparison.ledger}
    judged = {judgement.label for judgement in judgements if judgement.comparisons} | {reference().label}
    present = [reference_from_logits(), *(i for i in every_implementation() if i.label in judged)]
    return [entry.id for entry in ENTRIES if entry.id not in used and any(map(entry.who, present))]


def grids_of(implementation: Implementation) -> Grids:
    """Results of an implementation over all grids."""
    return {case.id: grid(case, implementation.run(case)) for case in corpora()[0].cases if is_grid(case)}


def is_grid(case: Case) -> bool:
    """Whether a case is one of the grids of special values."""
    return case.id.startswith("edge/grid/")


def grid(case: Case, outcome: Outcome) -> Mapping[str, Values]:
    """Results of a case by quantity."""
    results = ((quantity, outcome.quantity(quantity)) for quantity in case.quantities)
    return {quantity: result.values for quantity, result in results if result is not None}


def reference_for(case: Case, against: Implementation) -> Implementation:
    """The reference; one without divergences from logits is replaced by the composition of PyTorch's functions."""
    return against if against.takes(case) else reference_from_logits()


_expected_outcomes: dict[tuple[str, str], Outcome] = {}


def expected_outcome(against: Implementation, case: Case) -> Outcome:
    """Outcome of the reference, computed once in each process."""
    key = reference_for(case, against).label, case.id
    if key not in _expected_outcomes:
        _expected_outcomes[key] = outcome_of_reference(against, case)
    return _expected_outcomes[key]


def outcome_of_reference(against: Implementation, case: Case) -> Outcome:
    """Outcome of the reference.

    The right result depends neither on memory layout nor on the number of calls: if the reference does not support
    those of the case, it runs the simplified case. A recorded reference has the outcome of the case itself.
    """
    against = reference_for(case, against)
    outcome = against.run(case)
    return against.run(case.simplified()) if outcome.unsupported and outcome.loss is None else outcome


def _judge_label(label: str, question: Question, tick: Callable[[tuple[str, int]], object]) -> Judgement:
    known = _known(question.files)
    cases = [case for case in every_case() if case.group in question.groups]
    return judge_implementation(
        known[label],
        cases,
        known[question.reference],
        everything=question.everything,
        progress=lambda count: tick((label, count)),
    )


def _support(implementation: Implementation) -> Support | None:
    """Properties for the support tables; ``None`` for foreign implementations."""
    if implementation.convention is None:
        return None
    name = implementation.name.removeprefix("kldiv_xp ")
    if isinstance(implementation, Recorded):
        name += implementation.suffix
    return Support(name, implementation.gradients_by, implementation.lazy, implementation.distributed)


def _environment(implementation: Implementation) -> Mapping[str, str]:
    if isinstance(implementation, Recorded):
        return implementation.environment
    where = f"{platform.system()} {platform.machine()}"
    return {"source": "live", "python": platform.python_version(), "platform": where}


@cache
def _known(files: tuple[Path, ...]) -> dict[str, Implementation]:
    return known_implementations(recorded_implementations(files))


@cache
def _unreduced_cases() -> frozenset[str]:
    """Cases without reduction whose operands are both float32, or both float64."""
    dtypes = (("float32", "float32"), ("float64", "float64"))
    cases = corpora()[0].cases
    return frozenset(c.id for c in cases if c.reduction == "none" and (c.input.dtype, c.target.dtype) in dtypes)
