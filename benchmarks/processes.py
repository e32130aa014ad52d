"""Processes of their own: the time of an import, and the peak extra memory of one call.

``python -m benchmarks.processes GROUP CONTENDER gradient`` measures the memory of one call. The kernel keeps the peak
of a process's resident memory, and forgets it when asked to. Linux only.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.contender import OURS, TORCH
from benchmarks.groups import load
from benchmarks.results import Figures
from benchmarks.workload import LARGEST, Shape, Workload

LONGEST = 120.0
"""Seconds after which a process is taken to hang."""
ROUNDS = 21
IMPORTED = ("kldiv_xp", "array_api_compat", "numpy")
"""The first is compared with each of the others."""
SMALL = (64, 4096)
"""Shape large enough to start all threads before memory is looked at."""
MIB = 2**20


def say(text: str) -> None:
    """Tell on standard error what is measured now."""
    print(text, file=sys.stderr, flush=True)


def run(*arguments: str, environment: Mapping[str, str] | None = None) -> float:
    """Number that a new interpreter with these arguments prints last."""
    settings = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **(environment or {})}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=settings, timeout=LONGEST, check=True)
    return float(done.stdout.split()[-1])


def measure_imports() -> Iterator[Figures]:
    """Milliseconds of an import, in turns with the others."""
    times: dict[str, list[float]] = {name: [] for name in IMPORTED}
    with TemporaryDirectory() as bytecode:
        # Bytecode of installed packages exists, even if the environment forbids to write it.
        environment = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": bytecode}
        for number in range(ROUNDS + 1):
            say(f"import, round {number} of {ROUNDS}")
            for name in IMPORTED[:: 1 if number % 2 else -1]:
                program = f"import time; start = time.perf_counter(); import {name}; print(time.perf_counter() - start)"
                times[name].append(1e3 * run("-c", program, environment=environment))
    # The first round is the warm-up, which writes bytecode.
    yield Figures("import", "ms", {name: figures[1:] for name, figures in times.items()})


def measure_memory() -> Iterator[Figures]:
    """Peak extra memory at the largest size."""
    for group in ("NumPy", "PyTorch"):
        for mode in ("forward", "gradient"):
            say(f"memory: {group}, {mode}")
            peaks = {name: [run("-m", __spec__.name, group, name, mode)] for name in (OURS, TORCH)}
            yield Figures(f"peak extra memory, {group}, {LARGEST}, float32, {mode}", "MiB", peaks)


def peak_of(call: Callable[[], object]) -> float:
    """Most memory, in MiB, that was resident during a call, beyond what was before."""
    before = _resident("VmRSS")
    # The peak becomes what is resident now: https://www.kernel.org/doc/html/latest/filesystems/proc.html.
    Path("/proc/self/clear_refs").write_text("5")
    call()
    return (_resident("VmHWM") - before) / MIB


def _resident(field: str) -> float:
    """Resident memory in bytes: ``VmRSS`` now, ``VmHWM`` at its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * float(next(line for line in lines if line.startswith(field)).split()[1])


def main(group_name: str, contender: str, mode: str) -> None:
    """Measure the memory of one contender in this process, and print it."""
    group = load(group_name)

    def prepared(shape: Shape) -> Callable[[], object]:
        return dict(group.contenders(Workload(shape, gradient=mode == "gradient")))[contender]()

    small = prepared(SMALL)
    for _ in range(3):
        small()
    print(peak_of(prepared(LARGEST)))


if __name__ == "__main__":
    main(*sys.argv[1:])
