"""The array libraries that the tests run on, and the way between their arrays and NumPy's."""

import importlib
import math
from typing import Any, Literal

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Array = Any
Namespace = Any
Exact = NDArray[np.float64]

NAMES = ("numpy", "array_api_strict", "jax.numpy", "torch", "dask.array", "cupy")

REDUCTIONS: tuple[Literal["none", "mean", "sum", "batchmean"], ...] = ("none", "mean", "sum", "batchmean")
CONVENTIONS: tuple[Literal["oneflow", "torch", "limit"], ...] = ("oneflow", "torch", "limit")


def load(name: str) -> Namespace | str:
    """The namespace of this name, or the reason why nothing can be run on it."""
    try:
        xp = importlib.import_module(name)
    except ImportError:
        return f"{name} is not installed"
    if name == "cupy":
        try:
            xp.cuda.runtime.getDeviceCount()
        except xp.cuda.runtime.CUDARuntimeError:
            return "no CUDA device"
    return xp


def has_dtype(xp: Namespace, dtype: str) -> bool:
    """Whether the library has this floating dtype; the array API standard asks for the two wide ones alone."""
    return hasattr(np if xp.__name__ == "dask.array" else xp, dtype) or (dtype == "bfloat16" and _of_numpy(xp))


def lacking(xp: Namespace, *dtypes: str) -> str:
    """The reason to skip a test of these dtypes; empty if the library has them all."""
    missing = [dtype for dtype in dict.fromkeys(dtypes) if not has_dtype(xp, dtype)]
    return f"{xp.__name__} has no {' and no '.join(missing)}" if missing else ""


def array(xp: Namespace, values: Any, dtype: str = "float64", **options: Any) -> Array:
    """Array of ``values`` in any library, rounded to ``dtype``."""
    values = np.asarray(values, dtype=np.float64)
    if dtype == "bfloat16" and not _of_numpy(xp):
        return xp.asarray(values.astype(np.float32), dtype=xp.bfloat16, **options)
    return xp.asarray(values.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype), **options)


def numbers(x: Array) -> Exact:
    """The values of an array of any library; float64 holds those of every dtype in use here exactly."""
    if type(x).__module__.startswith("torch"):
        x = x.detach().to(dtype=importlib.import_module("torch").float64, device="cpu")
    elif hasattr(x, "get"):  # CuPy does not convert implicitly
        x = x.get()
    return np.asarray(x).astype(np.float64)


def dtype_name(x: Array) -> str:
    """``"float32"`` and the like, whatever the library calls it."""
    return str(x.dtype).rpartition(".")[2]


def flushes_subnormals(xp: Namespace) -> bool:
    """Whether the library computes with zero in place of a subnormal number, as XLA does on a CPU."""
    return bool(xp.asarray(np.float32(1e-40)) * 1.0 == 0.0)


def as_computed_with(xp: Namespace, values: Exact, dtype: str) -> Exact:
    """The numbers that the library sees: those given, or zero for the subnormal ones that it flushes."""
    tiny = 0.0 if not flushes_subnormals(xp) else float(np.finfo(_wide(dtype)).tiny)
    return np.where(np.abs(values) < tiny, 0.0, values)


def underflow(xp: Namespace, dtype: str) -> float:
    """The smallest positive number that the library computes with: below it, absolute precision is all there is."""
    limits = np.finfo(_wide(dtype))
    return float(limits.tiny if flushes_subnormals(xp) else limits.smallest_subnormal)


def divisor(shape: tuple[int, ...], reduction: str) -> int:
    """What the sum is divided by, as the documentation words it."""
    return {"mean": math.prod(shape), "batchmean": shape[0] if shape else 1}.get(reduction, 1)


def _of_numpy(xp: Namespace) -> bool:
    """Whether the arrays are NumPy's or made of them, which ml_dtypes gives a bfloat16."""
    return xp.__name__ in ("numpy", "dask.array")


def _wide(dtype: str) -> str:
    return "float64" if dtype == "float64" else "float32"
