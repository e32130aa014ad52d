"""A run: everything that was asked for, within a budget of time."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks import machine
from benchmarks.flatness import measure_flatness
from benchmarks.groups import Group, all_groups
from benchmarks.memory import measure_memory
from benchmarks.results import TIME_WAS_UP, Measured, Results
from benchmarks.startup import measure_first_calls, measure_imports
from benchmarks.timing import Rounds, measure
from benchmarks.workload import Shape, Workload, grid, quick_grid

PROCESSES = ("memory", "import", "first call")
OTHERS = ("time per element", *PROCESSES)
"""What is measured beside the groups."""

AT_MOST = 1.2
"""A run's time, in units of what it was given, after which what is left is not run."""

Advance = Callable[[str, int, int], None]
"""Told what is being measured, how much is done, and of how much."""


@dataclass(frozen=True)
class Options:
    """What a run measures, and how long it may take."""

    quick: bool = False
    chosen: tuple[str, ...] = ()
    """Groups and other measurements by name; all if empty."""
    sizes: tuple[Shape, ...] = ()
    rounds: int | None = None
    """Rounds of each measurement; as many as fit into the time if None."""
    seconds: float = 440.0
    """After which measurements have three rounds each, whatever they take; a fifth later they are left out."""

    def wants(self, name: str) -> bool:
        """Whether a group or another measurement is to be measured."""
        return not self.chosen or name in self.chosen

    def workloads(self) -> list[Workload]:
        """What each group computes."""
        chosen = quick_grid if self.quick else grid
        return list(chosen(self.sizes) if self.sizes else chosen())


def names() -> list[str]:
    """Everything that can be chosen."""
    return [group.name for group in all_groups()] + list(OTHERS)


def run(options: Options, advance: Advance) -> Results:
    """Measure, what takes processes of its own first, so that the groups know how much time there is left."""
    results = Results(machine.describe(), {**vars(options)})
    end, others = time.monotonic() + options.seconds, machine.Others()
    groups = _usable_groups(options, results)

    def say(text: str) -> None:
        advance(text, 0, 0)

    if options.wants("import"):
        results.imports += measure_imports(quick=options.quick, advance=say)
    if options.wants("memory"):
        results.memory += measure_memory(quick=options.quick, advance=say)
    if options.wants("first call") and not options.quick:
        results.first_calls += measure_first_calls(say)
    if options.wants("time per element") and not options.quick:
        flat = [group for group in all_groups() if not group.not_run()]
        results.flatness += measure_flatness(flat, say, rounds=Rounds(3, options.rounds or 7, 15.0))
    steps = [(group, workload) for workload in options.workloads() for group in groups if group.takes(workload)]
    for number, (group, workload) in enumerate(steps):
        remaining, weights = end - time.monotonic(), [_weight(w) for _, w in steps[number:]]
        if remaining < (1 - AT_MOST) * options.seconds:
            results.not_run[f"{group.name}, {workload}"] = TIME_WAS_UP
            continue
        advance(f"{group.name}: {workload}", number, len(steps))
        rounds = _rounds(options, remaining * weights[0] / sum(weights))
        results.measured.append(measure_workload(group, workload, rounds))
    advance("done", len(steps), len(steps))
    results.others = others.share()
    return results


def measure_workload(group: Group, workload: Workload, rounds: Rounds) -> Measured:
    """One group over one workload, the floor included."""
    with group.context(workload):
        contenders = [*group.contenders(workload), *group.floor(workload)]
        times = measure(contenders, rounds, group.value)
    return Measured(group.name, workload, {c.name: c.role for c in contenders}, times)


def _usable_groups(options: Options, results: Results) -> list[Group]:
    usable = []
    for group in all_groups(compiled=not options.quick):
        if options.wants(group.name):
            if reason := group.not_run():
                results.not_run[group.name] = reason
            else:
                results.threads[group.name] = group.threads()
                usable.append(group)
    return usable


def _rounds(options: Options, seconds: float) -> Rounds:
    if options.rounds is not None:
        return Rounds(options.rounds, options.rounds)
    return Rounds(5 if seconds > 0 and not options.quick else 3, 51, seconds)


def _weight(workload: Workload) -> float:
    """Share of the time that a workload gets: more where a round takes longer, but far from in proportion."""
    return float(workload.elements**0.25)
