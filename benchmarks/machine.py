"""The machine and the versions that figures come from."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import kldiv_xp

PACKAGES = "array-api-compat numpy scipy torch jax jaxlib optax mlx cupy-cuda12x cupy-cuda13x".split()


def describe() -> dict[str, Any]:
    """Versions, processor and commit."""
    return {
        "kldiv_xp": kldiv_xp.__version__,
        "commit": _first_line(["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]),
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "platform": platform.platform(),
        "cpu": _first_line(["sed", "-n", "s/^model name[^:]*: //p", "/proc/cpuinfo"]) or platform.machine(),
        "usable_cpus": usable_cpus(),
    }


def usable_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def line(machine: dict[str, Any]) -> str:
    """The same in two lines."""
    packages = ", ".join(f"{name} {found}" for name, found in machine["packages"].items())
    ours = f"kldiv_xp {machine['kldiv_xp']}, commit {machine['commit'] or 'unknown'}, Python {machine['python']}"
    return f"{machine['cpu']}, {machine['usable_cpus']} CPUs usable; {ours}\n{packages}"


def _first_line(command: list[str]) -> str | None:
    """First line of a command's output, if it succeeds."""
    try:
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return next(iter(output.splitlines()), None)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
