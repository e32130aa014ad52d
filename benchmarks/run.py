"""A run: everything that was asked for, within a budget of time."""

import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from subprocess import SubprocessError

from benchmarks import machine
from benchmarks.contender import Group, NotRunError, reason
from benchmarks.groups import GROUPS, load
from benchmarks.processes import measure_imports, measure_memory, say
from benchmarks.results import Measured, Results
from benchmarks.timing import Rounds, measure
from benchmarks.workload import Shape, Workload, grid

PROCESSES = {"import": measure_imports, "memory": measure_memory}
NAMES = (*GROUPS, *PROCESSES)
"""Everything that can be chosen."""
LEAST, MOST = 3, 51
"""Rounds that every step gets, even if the time is up, and those that it gets at most."""

Step = tuple[Group, Workload]


class Budget:
    """Time of a run. Every step gets its least rounds before any other gets more.

    The large sizes come first. What a step needs, to prepare and for the least rounds, is known from the step of its
    group before it; a smaller one needs no more. Only what is left beyond these needs is shared out.
    """

    def __init__(self, steps: Sequence[Step], seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.steps = steps
        self.clock = clock
        self.end = clock() + seconds
        self.needs: dict[str, tuple[float, float]] = {}
        """By group, seconds to prepare, and those of the least rounds for each element."""

    def more(self, number: int, started: float, least_rounds: float) -> float:
        """Seconds of further rounds of a step, given when it started and the seconds of its least rounds."""
        now, (group, workload) = self.clock(), self.steps[number]
        self.needs[group.name] = now - started - least_rounds, least_rounds / workload.elements
        largest = max(self.needs.values())
        reserved = 0.0
        for later, its in self.steps[number + 1 :]:
            prepare, per_element = self.needs.get(later.name, largest)
            reserved += prepare + per_element * its.elements
        # More for a larger size, whose rounds take longer, but far from in proportion.
        weights: list[float] = [its.elements**0.25 for _, its in self.steps[number:]]
        return max(0.0, self.end - now - reserved) * weights[0] / sum(weights)


def run(
    quick: bool, chosen: Collection[str], sizes: Sequence[Shape], rounds: int | None = None, seconds: float = 440.0
) -> Results:
    """Measure: first what takes processes of its own, and then the groups, the usual workloads before the others."""
    options = {"quick": quick, "chosen": chosen, "sizes": sizes, "rounds": rounds, "seconds": seconds}
    results, started = Results(machine.describe(), options), time.monotonic()
    for name in [name for name in PROCESSES if name in chosen and not (quick and chosen == NAMES)]:
        try:
            results.processes += PROCESSES[name]()
        except (OSError, SubprocessError) as error:
            results.not_run[name] = reason(error)
    groups = []
    for name in [name for name in GROUPS if name in chosen]:
        try:
            groups.append(load(name))
            results.threads[name] = groups[-1].threads
        except (ImportError, NotRunError) as error:
            results.not_run[name] = reason(error)
    ordered = sorted(grid(sizes, quick=quick), key=lambda w: (not w.usual, -w.elements))
    steps = [(group, workload) for workload in ordered for group in groups if group.takes(workload)]
    budget = Budget(steps, seconds - (time.monotonic() - started))
    for number, (group, workload) in enumerate(steps):
        say(f"{number + 1} of {len(steps)}: {group.name}, {workload}")
        plan = Rounds(rounds or LEAST, rounds or MOST, partial(budget.more, number, budget.clock()))
        results.measured.append(measure_workload(group, workload, plan, compiled=workload.usual and not quick))
    results.measured.sort(key=lambda m: (not m.workload.usual, m.workload.elements))
    return results


def measure_workload(group: Group, workload: Workload, rounds: Rounds, *, compiled: bool = False) -> Measured:
    """One group over one workload. Without ``compiled`` nothing goes through ``torch.compile``, which takes seconds."""
    with group.context(workload):
        contenders = [c for c in group.contenders(workload) if compiled or not c.name.endswith("compiled")]
        return Measured(group.name, workload, measure(contenders, rounds, group.value))
