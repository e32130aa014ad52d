"""Whether the time per element depends on how many there are: our loss, forward, float32, ``"batchmean"``."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from benchmarks.contender import Call, Contender, Role
from benchmarks.groups import Group
from benchmarks.results import Entry
from benchmarks.timing import Rounds, measure
from benchmarks.workload import Workload

ROW = 10_000
ELEMENTS = (10**5, 10**6, 10**7, 10**8)
AT_LEAST = 10**7
"""Elements of one measurement: smaller arrays are gone through again and again."""
GROUPS = ("NumPy", "PyTorch")


def measure_flatness(
    groups: Sequence[Group], advance: Callable[[str], None], *, rounds: Rounds, elements: Sequence[int] = ELEMENTS
) -> Iterator[Entry]:
    """Time per element at each size, divided by the median of all sizes in the same round; the sizes take turns."""
    for group in groups:
        if group.name not in GROUPS or group.not_run():
            continue
        advance(f"time per element: {group.name}")
        contenders = [Contender(f"{n:,} elements", Role.OURS, partial(repeated_call, group, n)) for n in elements]
        with group.context(Workload((1, 1))):
            times = measure(contenders, rounds).seconds
        per_element = {
            contender.name: [seconds / (n * repetitions(n)) for seconds in times[contender.name]]
            for contender, n in zip(contenders, elements, strict=True)
            if contender.name in times
        }
        middle = [statistics.median(together) for together in zip(*per_element.values(), strict=True)]
        for name, values in per_element.items():
            yield Entry(group.name, name, "median of the sizes", "s per element", values, middle)


def repetitions(elements: int) -> int:
    """How often an array of so many elements is gone through in one measurement."""
    return max(1, AT_LEAST // elements)


def repeated_call(group: Group, elements: int) -> Call:
    """Our loss of so many elements, as often as one measurement takes."""
    call = next(iter(group.contenders(Workload((elements // ROW, ROW))))).prepare()

    def calls() -> None:
        for _ in range(repetitions(elements)):
            call()

    return calls
