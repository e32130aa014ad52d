"""Peak extra memory of one call, in a fresh process: ``python -m benchmarks.memory GROUP CONTENDER WORKLOAD``.

The kernel keeps the peak of a process's resident memory, and forgets it when asked to. Linux only.
"""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks import child
from benchmarks.contender import OURS
from benchmarks.groups import group_named
from benchmarks.results import Entry
from benchmarks.workload import LARGEST, Workload

SMALL = (64, 4096)
"""Enough for all threads to have something to do, so that they are there before memory is looked at."""
MIB = 2**20

TORCH = "torch.nn.functional.kl_div"
FORMULA = "NumPy formula"
PAIRS = [
    ("NumPy", TORCH, False),
    ("NumPy", FORMULA, False),
    ("NumPy", TORCH, True),
    ("PyTorch", TORCH, False),
    ("PyTorch", TORCH, True),
]
"""Group, whom ours is compared with, and whether with the gradient."""


def measure_memory(*, quick: bool, advance: Callable[[str], None]) -> Iterator[Entry]:
    """Peak extra memory in MiB at the largest size. A quick run asks for ours alone, without gradients."""
    peaks: dict[tuple[str, str, bool], list[float]] = {}

    def peak(group: str, name: str, gradient: bool) -> list[float]:
        workload = Workload(LARGEST, gradient=gradient)
        if (group, name, gradient) not in peaks:
            advance(f"memory: {group}, {name}, {workload.mode}")
            figure = child.run(["-m", __spec__.name, group, name, json.dumps(asdict(workload))])
            peaks[group, name, gradient] = [figure]
        return peaks[group, name, gradient]

    for group, theirs, gradient in PAIRS:
        if quick and (gradient or theirs != TORCH):
            continue
        entry = Entry(group, Workload(LARGEST, gradient=gradient).mode, theirs, "MiB")
        if reason := group_named(group).not_run() or unavailable():
            yield replace(entry, not_run=reason)
            continue
        try:
            entry = replace(entry, ours=peak(group, OURS, gradient))
            yield entry if quick else replace(entry, theirs=peak(group, theirs, gradient))
        except child.ChildError as error:
            yield replace(entry, not_run=str(error))


def unavailable() -> str | None:
    """Why the peak cannot be had here."""
    try:
        forget_peak()
        resident("VmHWM")
    except (OSError, StopIteration):
        return "this system does not tell the peak memory of a process"
    return None


def peak_of(call: Callable[[], object]) -> float:
    """Most memory, in MiB, that was resident during a call, beyond what was before."""
    before = resident("VmRSS")
    forget_peak()
    call()
    return (resident("VmHWM") - before) / MIB


def forget_peak() -> None:
    """Let the peak be what is resident now: https://www.kernel.org/doc/html/latest/filesystems/proc.html."""
    Path("/proc/self/clear_refs").write_text("5")


def resident(field: str) -> float:
    """Resident memory in bytes: ``VmRSS`` now, ``VmHWM`` at its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * float(next(line for line in lines if line.startswith(field)).split()[1])


def main(group_name: str, contender: str, given: str) -> None:
    """Measure one contender in this process, and print the figure."""
    options: dict[str, Any] = json.loads(given)
    workload = Workload(**{**options, "shape": tuple(options["shape"])})
    group = group_named(group_name)

    def prepared(workload: Workload) -> Callable[[], object]:
        return next(c for c in group.contenders(workload) if c.name == contender).prepare()

    with group.context(workload):
        small = prepared(replace(workload, shape=SMALL))
        for _ in range(3):
            small()
        print(json.dumps(peak_of(prepared(workload))))


if __name__ == "__main__":
    main(*sys.argv[1:])
