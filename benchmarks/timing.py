"""Interleaved measurement: all contenders in each round, in random order."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from random import Random
from timeit import Timer
from typing import Any

from benchmarks.contender import FLOOR, Call, Contender, reason

RESOLVED = 5e-4
"""Seconds that one measurement takes at least: the clock's resolution is a ten-thousandth of it."""
LONGEST_LOOP = 0.05
"""Seconds that the loop of the slowest contender may take."""


@dataclass(frozen=True)
class Times:
    """Seconds per call of each contender in each round."""

    loops: int
    seconds: Mapping[str, Sequence[float]]
    values: Mapping[str, float] = field(default_factory=dict)
    """Loss that each contender computed; of ``"none"`` the sum."""
    not_run: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Rounds:
    """Number of rounds: ``least``, and up to ``most`` where there is time.

    ``more`` is called after the least rounds with the seconds they took, and returns the seconds for further ones.
    """

    least: int
    most: int
    more: Callable[[float], float] = lambda _spent: 0.0


def measure(
    contenders: Sequence[Contender],
    rounds: Rounds,
    value_of: Callable[[Any], float] = float,
    clock: Callable[[], float] = time.perf_counter,
) -> Times:
    """Time the contenders against each other. Those that fail are left out, with the reason."""
    calls: dict[str, Call] = {}
    values, not_run = {}, {}
    for name, prepare in contenders:
        try:
            call = prepare()
            result = call()  # the warm-up, in which compilers compile
            if name != FLOOR:
                values[name] = value_of(result)
            calls[name] = call
        except Exception as error:
            not_run[name] = reason(error)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    loops = loops_for([min(timed(call, 1, clock) for _ in range(2)) for call in calls.values()])
    started, end = clock(), 0.0
    shuffled = Random(0)  # a fixed order would always run the same contender before each one
    for done in count():
        spent = clock() - started
        if done == rounds.least:
            end = spent + rounds.more(spent)
        if not calls or done >= rounds.most or (done >= rounds.least and spent * (done + 1) / done > end):
            break
        for name in shuffled.sample(list(calls), len(calls)):
            seconds[name].append(timed(calls[name], loops, clock))
    return Times(loops, seconds, values, not_run)


def timed(call: Call, loops: int, clock: Callable[[], float]) -> float:
    """Seconds per call of a loop, without garbage collection."""
    return Timer(call, timer=clock).timeit(loops) / loops


def loops_for(seconds: Sequence[float]) -> int:
    """Calls in one measurement, the same for all, given the time of each contender's call."""
    wanted = math.ceil(RESOLVED / max(min(seconds, default=1.0), 1e-9))
    return max(1, min(wanted, math.floor(LONGEST_LOOP / max([*seconds, 1e-9]))))
