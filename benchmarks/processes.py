"""Processes of their own: the time of an import, and the peak extra memory of one call.

``python -m benchmarks.processes GROUP CONTENDER WORKLOAD`` measures the memory of one call. The kernel keeps the peak
of a process's resident memory, and forgets it when asked to. Linux only.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.contender import OURS, TORCH, reason
from benchmarks.groups import load
from benchmarks.results import Entry
from benchmarks.workload import LARGEST, Workload

LONGEST = 120.0
"""Seconds after which a process is taken to hang."""
IMPORTED = ("kldiv_xp", "array_api_compat", "numpy")
"""The first is compared with each of the others."""
SMALL = (64, 4096)
"""Shape large enough to start all threads before memory is looked at."""
MIB = 2**20

Say = Callable[[str], None]


def say(text: str) -> None:
    """Tell on standard error what is measured now."""
    print(text, file=sys.stderr, flush=True)


class ProcessError(RuntimeError):
    """A process that failed, with the last line of its errors."""


def run(arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> Any:
    """Last line that a new interpreter with these arguments prints, read as JSON."""
    paths = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        done = subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            text=True,
            env={**os.environ, **paths, **(environment or {})},
            timeout=LONGEST,
        )
    except subprocess.TimeoutExpired:
        raise ProcessError(f"took longer than {LONGEST:.0f} s") from None
    if done.returncode:
        raise ProcessError((done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1])
    return json.loads(done.stdout.strip().splitlines()[-1])


def measure_imports(rounds: int, say: Say) -> Iterator[Entry]:
    """Seconds of an import, in turns with the others."""
    seconds: dict[str, list[float]] = {name: [] for name in IMPORTED}
    with TemporaryDirectory() as bytecode:
        # Bytecode of installed packages exists, even if the environment forbids to write it.
        environment = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": bytecode}
        for number in range(rounds + 1):
            say(f"import, round {number} of {rounds}")
            for name in IMPORTED[:: 1 if number % 2 else -1]:
                program = f"import time; start = time.perf_counter(); import {name}; print(time.perf_counter() - start)"
                seconds[name].append(run(["-c", program], environment))
    ours, *theirs = (times[1:] for times in seconds.values())  # the first is the warm-up, which writes bytecode
    for name, times in zip(IMPORTED[1:], theirs, strict=True):
        yield Entry(f"import {IMPORTED[0]}", f"import {name}", "ms", *([1e3 * t for t in ts] for ts in (ours, times)))


def measure_memory(say: Say) -> Iterator[Entry]:
    """Peak extra memory at the largest size."""
    for group, gradient in (("NumPy", False), ("NumPy", True), ("PyTorch", False), ("PyTorch", True)):
        workload = Workload(LARGEST, gradient=gradient)
        entry = Entry(f"{group}, {workload.what}", TORCH, "MiB")
        try:
            peaks = []
            for name in (OURS, TORCH):
                say(f"memory: {group}, {workload}, {name}")
                peaks.append([run(["-m", __spec__.name, group, name, json.dumps(asdict(workload))])])
            yield replace(entry, ours=peaks[0], theirs=peaks[1])
        except ProcessError as error:
            yield replace(entry, not_run=reason(error))


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


def main(group_name: str, contender: str, given: str) -> None:
    """Measure the memory of one contender in this process, and print it."""
    options: dict[str, Any] = json.loads(given)
    workload = Workload(**{**options, "shape": tuple(options["shape"])})
    group = load(group_name)

    def prepared(workload: Workload) -> Callable[[], object]:
        return dict(group.contenders(workload))[contender]()

    with group.context(workload):
        small = prepared(replace(workload, shape=SMALL))
        for _ in range(3):
            small()
        print(json.dumps(peak_of(prepared(workload))))


if __name__ == "__main__":
    main(*sys.argv[1:])
