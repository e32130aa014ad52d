"""Interleaved measurement: all contenders in each round, in an order in which everyone follows everyone else."""

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

from benchmarks.contender import Call, Contender, Role, reason

RESOLVED = 5e-4
"""Seconds that one measurement takes at least: the clock's resolution is a ten-thousandth of it."""
LONGEST_LOOP = 0.05
"""Seconds that the slowest contender's loop may take for the sake of the fastest."""

Clock = Callable[[], float]


@dataclass(frozen=True)
class Times:
    """Seconds per call of each contender in each round."""

    loops: int
    seconds: Mapping[str, Sequence[float]]
    values: Mapping[str, float] = field(default_factory=dict)
    """The loss that each one computed; for ``"none"`` the sum."""
    not_run: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Rounds:
    """How many rounds there are: as many as fit into ``seconds``, between ``least`` and ``most``."""

    least: int = 5
    most: int = 51
    seconds: float = 1.0

    def enough(self, done: int, spent: float) -> bool:
        """Whether to stop after so many rounds, which took so many seconds."""
        return done >= self.most or (done >= self.least and spent * (done + 1) / max(done, 1) > self.seconds)


def measure(
    contenders: Sequence[Contender],
    rounds: Rounds,
    value_of: Callable[[Any], float] | None = None,
    clock: Clock = time.perf_counter,
) -> Times:
    """Time the contenders against each other; who cannot run is left out, with the reason."""
    not_run, values = {}, {}
    calls: dict[str, Call] = {}
    for contender in contenders:
        try:
            calls[contender.name] = contender.prepare()
        except Exception as error:  # whatever it is, the others run
            not_run[contender.name] = reason(error)
    losses = {c.name for c in contenders if c.role != Role.PART}
    for name, call in list(calls.items()):
        try:  # the warm-up, in which compilers compile
            result = call()
            if value_of is not None and name in losses:
                values[name] = value_of(result)
        except Exception as error:
            not_run[name] = reason(error)
            del calls[name]
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    with without_garbage_collection():
        loops = loops_for([per_call(call, clock) for call in calls.values()])
        started = clock()
        for done, order in enumerate(orders(list(calls))):
            if not calls or rounds.enough(done, clock() - started):
                break
            for name in order:
                seconds[name].append(timed(calls[name], loops, clock))
    return Times(loops, seconds, values, not_run)


def orders(names: Sequence[str]) -> Iterator[list[str]]:
    """Order of each round, without end: over ``2 n`` rounds, each of ``n`` follows every other equally often.

    A rotation alone would not do: in it, everyone always follows the same one. This is the design of E. J. Williams,
    "Experimental designs balanced for the estimation of residual effects of treatments" (1949),
    https://doi.org/10.1071/CH9490149, with every second cycle backwards, which an odd number needs.
    """
    count = len(names)
    zigzag = [(i + 1) // 2 if i % 2 else -i // 2 for i in range(count)]
    while True:
        for direction in (1, -1):
            for shift in range(count):
                yield [names[(place + shift) % count] for place in zigzag][::direction]


def timed(call: Call, loops: int, clock: Clock) -> float:
    """Seconds per call of a loop."""
    times = repeat(None, loops)
    started = clock()
    for _ in times:
        call()
    return (clock() - started) / loops


def per_call(call: Call, clock: Clock) -> float:
    """Rough seconds per call, of a loop that is long enough to be seen."""
    loops = 1
    while (seconds := timed(call, loops, clock)) * loops < RESOLVED / 5 and loops < 1 << 16:
        loops *= 4
    return seconds


def loops_for(seconds: Sequence[float]) -> int:
    """Calls in one measurement, the same for all, given how long each one's call takes."""
    if not seconds:
        return 1
    wanted = math.ceil(RESOLVED / max(min(seconds), 1e-9))
    return max(1, min(wanted, math.floor(LONGEST_LOOP / max(*seconds, 1e-9))))


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Collect now, and not again until the end."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
