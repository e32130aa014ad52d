"""Run a command as on a processor without the widest vectors: ``python -m conformance.vectors avx2 -- COMMAND``.

NumPy, PyTorch, XLA and OpenBLAS each have other code for other vector instructions, with other last bits. Environment
variables hide from them what an x86 processor has: ``avx2`` leaves AVX2, ``avx`` neither AVX2 nor AVX-512, and ``widest``
everything. Code that a compiler makes here (``torch.compile``, MLX) may use more than that. There is no level without AVX:
XLA has no float16 there, for want of F16C (*Symbols not found: __extendhfsf2*).
"""

import argparse
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence

LEVELS = ("widest", "avx2", "avx")

_X86 = ("x86_64", "AMD64")
_NUMPY_KEEPS = {"avx2": ("X86_V2", "X86_V3", "AVX2", "FMA3"), "avx": ("X86_V2",)}
"""What NumPy can leave out, but does not; it calls the second and the third level of x86-64 by these names."""

_COMPILED = {"JAX_COMPILATION_CACHE_DIR": "build/jax", "TORCHINDUCTOR_CACHE_DIR": "build/torchinductor"}
"""Where JAX and PyTorch keep what they compiled, as the Makefile has it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m conformance.vectors", description=__doc__)
    parser.add_argument("level", choices=LEVELS, help="the widest vectors that libraries may use")
    parser.add_argument("command", nargs="+", help="what to run, behind --")
    options = parser.parse_args(arguments)
    if options.level != "widest" and platform.machine() not in _X86:
        print(f"{options.level}: did not run: {platform.machine()} has no such vectors")
        return 0
    environment = os.environ | variables(options.level)
    print(f"vectors: {', '.join(_in_use(environment))}", flush=True)
    return subprocess.run(options.command, env=environment, check=False).returncode


def variables(level: str) -> Mapping[str, str]:
    """Environment variables that leave a process the vectors of a level."""
    if level == "widest":
        return {}
    xla_flags = os.environ.get("XLA_FLAGS", "")
    return {
        "ATEN_CPU_CAPABILITY": {"avx2": "avx2", "avx": "default"}[level],
        "NPY_DISABLE_CPU_FEATURES": " ".join(_left_out_of_numpy(level)),
        "OPENBLAS_CORETYPE": {"avx2": "Haswell", "avx": "Sandybridge"}[level],
        "XLA_FLAGS": f"{xla_flags} --xla_cpu_max_isa={level.upper()}".strip(),
        # What was compiled for wider vectors is not to be found.
        **{name: f"{os.environ.get(name, default)}-{level}" for name, default in _COMPILED.items()},
    }


def _left_out_of_numpy(level: str) -> Iterator[str]:
    # The only place where NumPy says what it can leave out.
    from numpy._core import _multiarray_umath as numpy_core  # type: ignore[attr-defined]

    present = numpy_core.__cpu_features__
    yield from (name for name in numpy_core.__cpu_dispatch__ if present.get(name) and name not in _NUMPY_KEEPS[level])


_ASK = """
import torch, threadpoolctl
from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__
used = [name for name in __cpu_dispatch__ if __cpu_features__.get(name)]
blas = {i.get("architecture") for i in threadpoolctl.threadpool_info() if i["internal_api"] == "openblas"}
print("NumPy", *(used or ["baseline"]))
print("OpenBLAS", *sorted(filter(None, blas)))
print("PyTorch", torch.backends.cpu.get_cpu_capability())
"""


def _in_use(environment: Mapping[str, str]) -> list[str]:
    """What the libraries say that they use; XLA does not say."""
    asked = subprocess.run([sys.executable, "-c", _ASK], env=environment, check=True, capture_output=True, text=True)
    return [*asked.stdout.splitlines(), f"XLA {environment.get('XLA_FLAGS') or 'as it finds'}"]


if __name__ == "__main__":
    raise SystemExit(main())
