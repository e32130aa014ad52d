"""Random cases for every implementation that can run here: ``python -m conformance fuzz``.

Hypothesis draws the cases, and the judge of the suite judges them. What the ledger does not explain is made as small as
possible, and printed with the line that shows it again.
"""

import argparse
import json
import os
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import hypothesis
import numpy as np
from hypothesis.errors import Flaky
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from conformance import draws
from conformance.build_corpus import Builder, save
from conformance.implementations import every_implementation, reference
from conformance.judge import Comparison, Verdict, judge
from conformance.output import check_outputs, command
from conformance.processes import SPAWN, workers
from conformance.record import CORPUS, LOGITS, Case, FromLogits, Implementation, Operand, load_corpus
from conformance.recording import Recorded
from conformance.run import outcome_of_reference, reference_for

if TYPE_CHECKING:
    from queue import Queue

    from hypothesis.strategies import SearchStrategy

ROUND = 250
"""Cases that one run of Hypothesis draws."""
SEED = 20261127
SECONDS = 60.0
LONGEST_ARGUMENT = 100_000
"""Characters. Linux takes 131,071."""

_SETTINGS = hypothesis.settings(
    max_examples=ROUND,
    database=None,
    deadline=None,
    derandomize=False,
    phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
    report_multiple_bugs=False,
    print_blob=False,
    suppress_health_check=list(hypothesis.HealthCheck),
    verbosity=hypothesis.Verbosity.quiet,
)


class _UnexplainedError(Exception):
    """A comparison that differs, of an implementation and a case."""

    def __init__(self, case: Case, label: str, comparison: Comparison) -> None:
        super().__init__(label)
        self.case, self.label, self.comparison = case, label, comparison


@dataclass(frozen=True)
class Finding:
    """A case, made as small as possible, that the ledger does not explain for some implementations."""

    case: Case
    labels: tuple[str, ...]
    quantity: str
    detail: str

    @property
    def lines(self) -> Iterator[str]:
        """What differs, and the command that shows it again."""
        yield f"differs: {', '.join(self.labels)}: {self.quantity}: {self.detail}"
        text = text_of(self.case)
        if len(text) > LONGEST_ARGUMENT:
            yield f"  a case of {self.case.input.values.size:,} elements; --save FILE keeps it"
        else:
            yield f"  python -m conformance fuzz -i {shlex.quote(self.labels[0])} --case {shlex.quote(text)}"


@dataclass
class Tally:
    """What was judged."""

    verdicts: Counter[Verdict] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)

    @property
    def comparisons(self) -> int:
        """How many comparisons were made."""
        return sum(self.verdicts[verdict] for verdict in (Verdict.AGREES, Verdict.DEVIATES, Verdict.DIFFERS))

    def count(self, comparison: Comparison) -> None:
        """Count a comparison."""
        self.verdicts[comparison.verdict] += 1

    def add(self, other: "Tally") -> None:
        """Add what another process judged."""
        self.verdicts += other.verdicts
        self.findings += other.findings


def compared(case: Case, implementation: Implementation) -> list[Comparison]:
    """Verdicts of the judge on an implementation, for a case that is in no corpus."""
    against = reference()
    expected = outcome_of_reference(against, case)
    return list(judge(case, implementation, implementation.run(case), reference_for(case, against), expected))


def _judges(implementation: Implementation, case: Case) -> bool:
    """Whether to judge an implementation: slow ones draw from few shapes, and others leave out what takes long."""
    return implementation.takes(case) and (implementation.slow_to_start or implementation.left_out(case) is None)


def hunt(
    implementations: Iterable[Implementation],
    drawn: "SearchStrategy[Case]",
    seed: int,
    seconds: float,
    *,
    rounds: int | None = None,
    progress: Callable[[int], object] = lambda _: None,
) -> Tally:
    """Judge random cases for some seconds, or rounds of ``ROUND`` cases; what differs is left out after it."""
    remaining = {i.label: i for i in implementations}
    tally, deadline, number = Tally(), time.monotonic() + seconds, 0
    while remaining and time.monotonic() < deadline and number != rounds:
        before = tally.comparisons
        found = _one_round(list(remaining.values()), drawn, f"{seed}/{number}", deadline, tally)
        progress(tally.comparisons - before)
        number += 1
        if found is None:
            continue
        case, comparison = found.case, found.comparison
        labels = [found.label]
        for label, implementation in remaining.items():
            if label != found.label and _judges(implementation, case):
                others = compared(case, implementation)
                labels += [label] if any(c.verdict == Verdict.DIFFERS for c in others) else []
        tally.findings.append(Finding(case, tuple(labels), comparison.quantity, comparison.detail))
        for label in labels:
            del remaining[label]
    return tally


def _one_round(
    implementations: Sequence[Implementation],
    drawn: "SearchStrategy[Case]",
    seed: str,
    deadline: float,
    tally: Tally,
) -> _UnexplainedError | None:
    """Judge a number of cases, or until something differs; then the smallest case that Hypothesis finds for it."""
    differing: _UnexplainedError | None = None

    def judged(case: Case) -> None:
        nonlocal differing
        if differing is None and time.monotonic() > deadline:
            return
        case = named(case)
        for implementation in implementations:
            if not _judges(implementation, case) or (differing is not None and implementation.label != differing.label):
                continue
            for comparison in compared(case, implementation):
                tally.count(comparison)
                if comparison.verdict == Verdict.DIFFERS:
                    differing = _UnexplainedError(case, implementation.label, comparison)
                    raise differing

    check = _SETTINGS(hypothesis.given(drawn)(judged))
    try:
        hypothesis.seed(seed)(check)()
    except _UnexplainedError as smallest:
        return smallest
    except Flaky:
        return differing
    return None


def named(case: Case) -> Case:
    """The case, with an id that no other case has: adapters keep programs and masks by it."""
    return replace(case, id=f"fuzz/{crc32(text_of(case).encode()):08x}")


class _CaughtError(Exception):
    """A fault is caught."""


def cases_until_caught(implementation: Implementation, seed: int, most: int) -> int | None:
    """Number of random cases until the implementation differs; ``None`` if it does not in the first ``most``."""
    tried = 0

    def judged(case: Case) -> None:
        nonlocal tried
        tried += 1
        case = named(case)
        if implementation.takes(case) and any(c.verdict == Verdict.DIFFERS for c in compared(case, implementation)):
            raise _CaughtError

    settings = hypothesis.settings(_SETTINGS, phases=(hypothesis.Phase.generate,))
    while tried < most:
        check = settings(hypothesis.given(strategy(()))(judged))
        try:
            hypothesis.seed(f"{seed}/{tried}")(check)()
        except _CaughtError:
            return tried
    return None


def _operands_of(case: Case) -> dict[str, Operand]:
    where = None if case.logits is None else case.logits.where
    operands = {"input": case.input, "target": case.target, "cotangent": case.cotangent, "where": where}
    return {name: operand for name, operand in operands.items() if operand is not None}


def text_of(case: Case) -> str:
    """A case as JSON, for a command line."""
    contents: dict[str, Any] = {
        name: [operand.dtype, list(operand.values.shape), operand.values.ravel().tolist(), operand.layout]
        for name, operand in _operands_of(case).items()
    }
    contents |= {"reduction": case.reduction, "log_target": case.log_target, "gradients": case.gradients}
    contents |= {"call": case.call} if case.call != "once" else {}
    if case.logits is not None:
        contents["logits"] = [case.logits.beta, case.logits.temperature, case.logits.axis]
    return json.dumps(contents, separators=(",", ":"))


def case_of(text: str) -> Case:
    """The case of a text of ``text_of``.

    Raises
    ------
    ValueError
        If the text is none.
    """
    try:
        given = json.loads(text)
        operands = {name: _operand(*given[name]) for name in ("input", "target", "cotangent", "where") if name in given}
        logits = None
        if "logits" in given:
            beta, temperature, axis = given["logits"]
            logits = FromLogits(beta, temperature, axis, operands.get("where"))
        fits = operands["input"].values.shape == operands["target"].values.shape
        case = Case(
            "",
            "logits" if logits is not None else "fuzz" if fits else "refused",
            operands["input"],
            operands["target"],
            given["reduction"],
            given["log_target"],
            tuple(given["gradients"]),
            operands.get("cotangent"),
            given.get("call", "once"),
            logits,
        )
        return named(case)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{text[:100]!r} is no case: {error!r}") from error


def _operand(dtype: str, shape: list[int], values: list[float], layout: str) -> Operand:
    stored = "float32" if dtype == "bfloat16" else dtype
    return Operand(np.asarray(values, stored).reshape(shape), dtype, layout)


def save_cases(path: Path, cases: Iterable[Case]) -> None:
    """Add cases to a file in the format of a corpus."""
    builder = Builder()
    for number, case in enumerate((*(load_corpus(path).cases if path.exists() else ()), *cases)):
        names = {
            role: builder.laid_out(builder.array(f"{number}/{role}", o.values, o.dtype), o.layout)
            for role, o in _operands_of(case).items()
        }
        how: dict[str, Any] = {"gradients": case.gradients}
        if case.logits is not None:
            of = case.logits
            pair = (names["input"], names["target"])
            where = names.get("where")
            builder.add_logits(
                str(number),
                pair,
                of.beta,
                of.temperature,
                of.axis,
                reductions=[case.reduction],
                where=where,
                group="found",
                **how,
            )
            continue
        how |= {"call": case.call} | ({"cotangent": names["cotangent"]} if case.cotangent else {})
        pair = (names["input"], names["target"])
        builder.add("found", str(number), *pair, log_target=case.log_target, reductions=[case.reduction], **how)
    save(path, builder)


@dataclass(frozen=True)
class _Job:
    """Implementations to fuzz together in one process."""

    labels: tuple[str, ...]
    seed: int
    seconds: float
    shapes: tuple[tuple[int, ...], ...]


def candidates(texts: Iterable[str] | None = None) -> list[Implementation]:
    """Implementations that can run here, other than the reference, with one of the texts in their labels."""
    chosen = [i for i in every_implementation() if not isinstance(i, Recorded) and i.label != reference().label]
    chosen = [i for i in chosen if not texts or any(text in i.label for text in texts)]
    return [i for i in chosen if i.not_run() is None]


def _jobs(
    implementations: Sequence[Implementation], seeds: Sequence[int], seconds: float, processes: int
) -> list[_Job]:
    """Half of the time for all that take any shape at once, and half for those that compile, a few at a time."""
    quick = tuple(i.label for i in implementations if not i.slow_to_start)
    slow: dict[str, tuple[str, ...]] = {}
    for i in implementations:
        if i.slow_to_start:
            slow[i.name] = (*slow.get(i.name, ()), i.label)
    jobs = []
    for seed in seeds:
        share = seconds / len(seeds) / (2 if quick and slow else 1)
        if quick:
            jobs += [_Job(quick, seed + 10**6 * number, share, ()) for number in range(processes)]
        each = share * processes / max(len(slow), 1)
        jobs += [_Job(labels, seed, each, draws.FEW_SHAPES) for labels in slow.values()]
    return jobs


def strategy(shapes: Sequence[tuple[int, ...]]) -> "SearchStrategy[Case]":
    """Cases of the loss, and half as many of the divergences from logits."""
    losses = draws.cases(shapes=shapes, calls=not shapes)
    return losses | losses | draws.cases_from_logits(shapes=shapes)


def _work(job: _Job, tick: Callable[[int], object]) -> Tally:
    known = {i.label: i for i in every_implementation()}
    return hunt([known[label] for label in job.labels], strategy(job.shapes), job.seed, job.seconds, progress=tick)


def fuzz(jobs: Sequence[_Job], processes: int, console: Console) -> Tally:
    """Do the jobs, and print what they find as they find it."""
    total = Tally()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[judged]:,} comparisons"),
        TimeElapsedColumn(),
    )
    with SPAWN.Manager() as manager, Progress(*columns, console=console, transient=True) as bars:
        ticks: Queue[int] = manager.Queue()
        bar = bars.add_task("fuzzing", total=sum(job.seconds for job in jobs), judged=0)
        started, judged, ended = time.monotonic(), 0, 0.0
        with workers(processes) as pool:
            pending = {pool.submit(_work, job, ticks.put): job for job in jobs}
            while pending:
                done, _ = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
                while not ticks.empty():
                    judged += ticks.get()
                for future in done:
                    ended += pending.pop(future).seconds
                    tally = future.result()
                    total.add(tally)
                    for finding in tally.findings:
                        for line in finding.lines:
                            console.print(line, highlight=False, markup=False, soft_wrap=True)
                elapsed = min((time.monotonic() - started) * processes, sum(job.seconds for job in jobs))
                bars.update(bar, completed=max(ended, elapsed), judged=judged)
    return total


def _replay(cases: Iterable[Case], implementations: Sequence[Implementation], console: Console) -> Tally:
    """Judge given cases, and print every verdict."""
    tally = Tally()
    for case in cases:
        for implementation in implementations:
            if not implementation.takes(case):
                continue
            for comparison in compared(case, implementation):
                tally.count(comparison)
                said = f"{comparison.verdict}: {implementation.label}: {comparison.quantity}"
                about = comparison.detail or ", ".join(comparison.ledger)
                console.print(f"{said}: {about}" if about else said, highlight=False, markup=False, soft_wrap=True)
                if comparison.verdict == Verdict.DIFFERS:
                    tally.findings.append(
                        Finding(case, (implementation.label,), comparison.quantity, comparison.detail)
                    )
    return tally


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz, or judge given cases, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m conformance fuzz",
        description="Judge random cases. Prints what the ledger does not explain, made small, with a command that shows"
        " it again. Exits with 1 if there is any.",
    )
    parser.add_argument(
        "-i", "--implementation", action="append", metavar="TEXT", help="only those with TEXT in their name; repeatable"
    )
    parser.add_argument("--seed", action="append", type=int, metavar="N", help=f"repeatable; default: {SEED}")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, metavar="N", help="for all seeds together; default: %(default)g"
    )
    parser.add_argument("--processes", type=int, metavar="N", help="default: one for each core")
    parser.add_argument(
        "--save", type=Path, metavar="FILE", help="add what differs to FILE, a corpus that record.py also takes"
    )
    parser.add_argument("--case", metavar="JSON", help="judge this case alone")
    parser.add_argument("--corpus", type=Path, metavar="FILE", help="judge the cases of FILE alone")
    options = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 140)
    implementations = candidates(options.implementation)
    if not implementations:
        parser.error(f"no implementation that can run here matches {options.implementation}")
    if options.save is not None:
        check_outputs(parser, [options.save], [CORPUS, LOGITS])
    started = time.monotonic()
    if options.case is not None or options.corpus is not None:
        try:
            cases = [case_of(options.case)] if options.case is not None else load_corpus(options.corpus).cases
        except (OSError, ValueError, KeyError) as error:
            parser.error(str(error))
        tally = _replay(cases, implementations, console)
    else:
        processes = options.processes or os.cpu_count() or 1
        tally = fuzz(_jobs(implementations, options.seed or [SEED], options.seconds, processes), processes, console)
    if options.save is not None and tally.findings:
        save_cases(options.save, (finding.case for finding in tally.findings))
        console.print(f"saved: {options.save}", highlight=False)
    counts = ", ".join(f"{number:,} {verdict}" for verdict, number in sorted(tally.verdicts.items()))
    judged = f"{tally.comparisons:,} comparisons over {len(implementations)} implementations"
    console.print(f"{judged} in {time.monotonic() - started:.0f} s: {counts}", highlight=False)
    console.print(f"{len(tally.findings)} unexplained", highlight=False)
    return 1 if tally.findings else 0
