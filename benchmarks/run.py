"""A run: everything that was asked for, within a budget of time."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial

from benchmarks import machine
from benchmarks.contender import Group, Unavailable, reason
from benchmarks.groups import GROUPS, load
from benchmarks.processes import Say, measure_imports, measure_memory
from benchmarks.results import Measured, Results
from benchmarks.timing import Rounds, measure
from benchmarks.workload import Shape, Workload, grid, quick_grid

NAMES = (*GROUPS, "memory", "import")
"""Everything that can be chosen."""
AT_MOST = 1.2
"""Time of a run, in units of its budget, after which the rest is not run."""


@dataclass(frozen=True)
class Options:
    """What a run measures, and how long it takes."""

    quick: bool = False
    chosen: tuple[str, ...] = ()
    """Groups and other measurements by name; all if empty."""
    sizes: tuple[Shape, ...] = ()
    rounds: int | None = None
    """Rounds of each measurement; as many as fit into the time if None."""
    seconds: float = 440.0

    def wants(self, name: str) -> bool:
        """Whether a group or another measurement is to be measured."""
        return name in (self.chosen or NAMES)

    def workloads(self) -> list[Workload]:
        """What each group computes."""
        chosen = quick_grid if self.quick else grid
        return list(chosen(self.sizes) if self.sizes else chosen())


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
        self.most = clock() + AT_MOST * seconds
        self.needs: dict[str, tuple[float, float]] = {}
        """By group, seconds to prepare, and those of the least rounds for each element."""

    def over(self) -> bool:
        """Whether the rest is not run."""
        return self.clock() > self.most

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
        weights = [its.elements**0.25 for _, its in self.steps[number:]]
        return max(0.0, self.end - now - reserved) * weights[0] / sum(weights)


def run(options: Options, say: Say) -> Results:
    """Measure: first what takes processes of its own, and then the groups, the usual workloads before the others."""
    results = Results(machine.describe(), asdict(options))
    started = time.monotonic()
    groups = _usable_groups(options, results)
    if options.wants("import"):
        results.imports += measure_imports(7 if options.quick else 21, say)
    if "memory" in options.chosen or (options.wants("memory") and not options.quick):
        results.memory += measure_memory(say)
    workloads = options.workloads()
    ordered = sorted(workloads, key=lambda w: (not w.usual, -w.elements))
    steps = [(group, workload) for workload in ordered for group in groups if group.takes(workload)]
    budget = Budget(steps, max(1.0, options.seconds - (time.monotonic() - started)))
    for number, (group, workload) in enumerate(steps):
        if budget.over():
            results.not_run[f"{group.name}, {workload}"] = "the time was up"
            continue
        say(f"{number + 1} of {len(steps)}: {group.name}, {workload}")
        least, most = (options.rounds,) * 2 if options.rounds else (3 if options.quick else 5, 51)
        rounds = Rounds(least, most, partial(budget.more, number, budget.clock()))
        results.measured.append(measure_workload(group, workload, rounds, compiled=not options.quick))
    results.measured.sort(key=lambda measured: workloads.index(measured.workload))
    return results


def measure_workload(group: Group, workload: Workload, rounds: Rounds, *, compiled: bool = False) -> Measured:
    """One group over one workload. Without ``compiled`` nothing goes through ``torch.compile``, which takes seconds."""
    with group.context(workload):
        contenders = [c for c in group.contenders(workload) if compiled or not c.name.endswith("compiled")]
        return Measured(group.name, workload, measure(contenders, rounds, group.value))


def _usable_groups(options: Options, results: Results) -> list[Group]:
    usable = []
    for name in filter(options.wants, GROUPS):
        try:
            usable.append(load(name))
        except (ImportError, Unavailable) as error:
            results.not_run[name] = reason(error)
        else:
            results.threads[name] = usable[-1].threads
    return usable
