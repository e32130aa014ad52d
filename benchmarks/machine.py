"""What the figures were measured on."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import kldiv_xp

PACKAGES = ("array-api-compat", "numpy", "scipy", "torch", "jax", "jaxlib", "optax", "cupy-cuda12x", "cupy-cuda13x")


def describe() -> dict[str, Any]:
    """Versions, processor, threads and commit."""
    return {
        "kldiv_xp": kldiv_xp.__version__,
        "commit": commit(),
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "usable_cpus": usable_cpus(),
        "environment": {
            k: v for k, v in os.environ.items() if k.endswith("_NUM_THREADS") or k in ("NPROC", "XLA_FLAGS")
        },
    }


def usable_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Others:
    """What other programs take of the processors meanwhile. Linux only."""

    def __init__(self) -> None:
        self.started = self._look()

    def share(self) -> float | None:
        """Share of the time of all processors since the start that others took; None where nobody tells."""
        if self.started is None or (now := self._look()) is None:
            return None
        passed, all_of_them, own = (b - a for a, b in zip(self.started, now, strict=True))
        return max(0.0, all_of_them - own) / passed if passed else 0.0

    @staticmethod
    def _look() -> tuple[float, float, float] | None:
        """Seconds that passed on all processors, that any program took, and that this one and its children took."""
        try:
            fields = [float(n) for n in Path("/proc/stat").read_text().split(maxsplit=9)[1:9]]
        except OSError:
            return None
        tick, times = os.sysconf("SC_CLK_TCK"), os.times()
        passed, idle = sum(fields) / tick, (fields[3] + fields[4]) / tick
        own = times.user + times.system + times.children_user + times.children_system
        return passed, passed - idle, own


def cpu_model() -> str:
    """Name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def commit() -> str | None:
    """Commit of this checkout, with ``-dirty`` if files differ from it."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
