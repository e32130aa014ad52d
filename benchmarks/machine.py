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
        "load_at_the_start": load(),
        "environment": {
            k: v for k, v in os.environ.items() if k.endswith("_NUM_THREADS") or k in ("NPROC", "XLA_FLAGS")
        },
    }


def usable_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load() -> float | None:
    """Processes that wanted to run over the last minute, on average."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


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
