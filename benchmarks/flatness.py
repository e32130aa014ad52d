"""Whether the time per element depends on how many there are: our loss, forward, float32, ``"batchmean"``."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from benchmarks.contender import Contender, Role
from benchmarks.groups import Group
from benchmarks.results import Entry
from benchmarks.timing import Rounds, measure
from benchmarks.workload import Workload

ROW = 10_000
ELEMENTS = (10**5, 10**6, 10**7, 10**8)
GROUPS = ("NumPy", "PyTorch")


def measure_flatness(
    groups: Sequence[Group], advance: Callable[[str], None], *, rounds: Rounds, elements: Sequence[int] = ELEMENTS
) -> Iterator[Entry]:
    """Time per element at each size, divided by the median of all sizes in the same round.

    The sizes take turns. Each has a loop of its own, so that all loops go through as many elements.
    """
    for group in groups:
        if group.name not in GROUPS or group.not_run():
            continue
        advance(f"time per element: {group.name}")
        with group.context(Workload((1, 1))):
            times = measure([contender(group, count, max(elements)) for count in elements], rounds).seconds
        per_element = {str(n): [s / max(elements) for s in times[str(n)]] for n in elements if str(n) in times}
        middle = [statistics.median(together) for together in zip(*per_element.values(), strict=True)]
        for count, seconds in per_element.items():
            name = f"{int(count):,} elements"
            yield Entry(group.name, name, "median of the sizes", "s per element", seconds, middle)


def contender(group: Group, elements: int, in_all: int) -> Contender:
    """Our loss of an array of ``elements``, as often as it takes to have ``in_all``."""

    def prepare() -> Callable[[], None]:
        call = next(iter(group.contenders(Workload((elements // ROW, ROW))))).prepare()
        return partial(repeatedly, call, in_all // elements)

    return Contender(str(elements), Role.OURS, prepare)


def repeatedly(call: Callable[[], object], times: int) -> None:
    """``call``, so many times."""
    for _ in range(times):
        call()
