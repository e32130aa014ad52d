"""Who takes part in a measurement."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

Call = Callable[[], Any]
"""What is timed. It returns the loss, computed: it has waited for the device."""

OURS = "ours"


class Role(StrEnum):
    """``PART`` is a part of the floor; the floor is their sum."""

    OURS = "ours"
    PEER = "peer"
    PART = "part of the floor"


@dataclass(frozen=True)
class Contender:
    """Someone who computes a workload. What it needs is imported when it is prepared, and may not be there."""

    name: str
    role: Role
    prepare: Callable[[], Call]


def ours(prepare: Callable[[], Call], variant: str = "") -> Contender:
    """Our loss, or a variant of how it is called."""
    return Contender(f"{OURS} {variant}".strip(), Role.OURS, prepare)


def peer(name: str, prepare: Callable[[], Call]) -> Contender:
    """Someone else's loss."""
    return Contender(name, Role.PEER, prepare)


def part(name: str, candidates: Callable[[], Sequence[Call]]) -> Contender:
    """Part of the floor: of several ways of doing the same, the one that turns out the fastest."""
    return Contender(f"floor: {name}", Role.PART, lambda: fastest(candidates()))


def fastest(candidates: Sequence[Call], tries: int = 3) -> Call:
    """The call that takes the shortest time, after a warm-up."""

    def shortest(call: Call) -> float:
        call()
        times = []
        for _ in range(tries):
            started = time.perf_counter()
            call()
            times.append(time.perf_counter() - started)
        return min(times)

    return min(candidates, key=shortest)


def reason(error: Exception) -> str:
    """Why something was not run, in a line."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"{error.name.partition('.')[0]} is not installed"
    return f"{type(error).__name__}: {error}".splitlines()[0]
