"""Run a command with narrower vector instructions: ``python -m conformance.vectors avx2 -- COMMAND``.

NumPy, PyTorch, XLA and OpenBLAS run different code for different vector instructions, and round differently.
Environment variables hide instructions of an x86 processor from them: ``widest`` hides none, ``avx2`` hides AVX-512,
and ``avx`` hides AVX-512 and AVX2. Code that is compiled here (``torch.compile``, MLX) may ignore these variables, and
so may Intel's MKL, which computes PyTorch's logarithm and exponential. There is no level below AVX: XLA has no float16
without F16C (*Symbols not found: __extendhfsf2*).
"""

import argparse
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any

LEVELS = ("widest", "avx2", "avx")
NOT_RUN = 77
"""Exit status if the processor lacks the level; test harnesses read it as skipped."""

_X86 = ("x86_64", "AMD64")
_NUMPY_KEEPS = {"avx2": ("X86_V2", "X86_V3", "AVX2", "FMA3"), "avx": ("X86_V2",)}
"""NumPy's features that stay enabled; ``X86_V2`` and ``X86_V3`` are NumPy's names for levels of x86-64."""

_COMPILED = {"JAX_COMPILATION_CACHE_DIR": "build/jax", "TORCHINDUCTOR_CACHE_DIR": "build/torchinductor"}
"""Compilation caches of JAX and PyTorch, as in the Makefile."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m conformance.vectors", description=__doc__)
    parser.add_argument("level", choices=LEVELS, help="the widest vectors that libraries may use")
    parser.add_argument("command", nargs="+", help="command to run, after --")
    options = parser.parse_args(arguments)
    reason = missing(options.level)
    if reason is not None:
        print(f"{options.level}: did not run: {reason}")
        return NOT_RUN
    environment = os.environ | variables(options.level)
    print(f"vectors: {', '.join(in_use(environment))}", flush=True)
    return subprocess.run(options.command, env=environment, check=False).returncode


def missing(level: str) -> str | None:
    """Why this processor lacks a level; ``None`` if it has it."""
    if level == "widest":
        return None
    if platform.machine() not in _X86:
        return f"{platform.machine()} has other vectors"
    return None if _numpy_core().__cpu_features__.get(level.upper()) else f"this processor has no {level.upper()}"


def variables(level: str) -> Mapping[str, str]:
    """Environment variables that limit a process to the vectors of a level."""
    if level == "widest":
        return {}
    xla_flags = os.environ.get("XLA_FLAGS", "")
    return {
        "ATEN_CPU_CAPABILITY": {"avx2": "avx2", "avx": "default"}[level],
        "NPY_DISABLE_CPU_FEATURES": " ".join(
            [os.environ.get("NPY_DISABLE_CPU_FEATURES", ""), *_left_out_of_numpy(level)]
        ),
        "OPENBLAS_CORETYPE": {"avx2": "Haswell", "avx": "Sandybridge"}[level],
        "XLA_FLAGS": f"{xla_flags} --xla_cpu_max_isa={level.upper()}".strip(),
        # Separate caches, so that no code for wider vectors is reused.
        **{name: f"{os.environ.get(name, default)}-{level}" for name, default in _COMPILED.items()},
    }


def _left_out_of_numpy(level: str) -> Iterator[str]:
    core = _numpy_core()
    present, keeps = core.__cpu_features__, _NUMPY_KEEPS[level]
    yield from (name for name in core.__cpu_dispatch__ if present.get(name) and name not in keeps)


def _numpy_core() -> Any:
    """The only module where NumPy lists the processor's features, and those that it can disable."""
    return import_module("numpy._core._multiarray_umath")


_ASK = """
import torch, threadpoolctl
from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__
used = [name for name in __cpu_dispatch__ if __cpu_features__.get(name)]
blas = {i.get("architecture") for i in threadpoolctl.threadpool_info() if i["internal_api"] == "openblas"}
print("NumPy", *(used or ["baseline"]))
print("OpenBLAS", *sorted(filter(None, blas)))
print("PyTorch", torch.backends.cpu.get_cpu_capability())
"""


def in_use(environment: Mapping[str, str]) -> list[str]:
    """Vector instructions that the libraries report; XLA reports none."""
    asked = subprocess.run([sys.executable, "-c", _ASK], env=environment, check=True, capture_output=True, text=True)
    return [*asked.stdout.splitlines(), f"XLA {environment.get('XLA_FLAGS') or 'as it finds'}"]


if __name__ == "__main__":
    raise SystemExit(main())
