"""The machine and the versions that figures come from."""

import os
import platform
import subprocess
from importlib.metadata import distributions
from pathlib import Path

from conformance.vectors import in_use

PACKAGES = {"kldiv-xp", "array-api-compat", "numpy", "scipy", "torch", "jax", "jaxlib", "optax", "mlx"}
PACKAGES |= {"cupy-cuda12x", "cupy-cuda13x"}


def describe() -> dict[str, str | int]:
    """Processor, commit and versions."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    return {
        "CPU": _cpu(),
        "usable CPUs": usable_cpus(),
        "vector instructions": ", ".join(in_use(os.environ)),
        "Python": platform.python_version(),
        "commit": subprocess.run(git, capture_output=True, text=True).stdout.strip() or "unknown",
        **{package.name: package.version for package in distributions() if package.name in PACKAGES},
    }


def usable_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if platform.system() == "Linux" else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.machine())
