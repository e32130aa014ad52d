"""What is particular to NumPy. Imported with the library, so it must not import numpy itself."""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from functools import cache
from typing import Any

from kldiv_xp import _blocks
from kldiv_xp._options import Convention, Reduction

Array = Any
DType = Any

_AT_ONCE = ("numpy", "array_api_compat.numpy", "array_api_strict", "sparse")
_WITH_BFLOAT16 = ("numpy", "array_api_compat.numpy", "array_api_compat.dask.array")

FEW = 2**16
"""Elements that are evaluated at once."""
MOST_THREADS = 4
"""More would wait for the interpreter and for the memory, and each has 2 MiB of temporaries."""


def computes_in_float64(x: Array, xp: Any) -> bool:
    """Whether a library computes with NumPy, at once or later, and with its float64."""
    if xp.__name__ == "array_api_strict":  # of which some devices have none
        return "float64" in xp.__array_namespace_info__().dtypes(device=x.device)
    return xp.__name__ in (*_AT_ONCE, "array_api_compat.dask.array", "cubed", "cubed.array_api")


def quiet(xp: Any) -> AbstractContextManager[Any]:
    """Context without floating-point warnings, for a library that computes with NumPy: what is NaN is meant to be."""
    if xp.__name__ not in _AT_ONCE:
        return nullcontext()
    errstate: AbstractContextManager[Any] = sys.modules["numpy"].errstate(all="ignore")
    return errstate


def is_array(x: object) -> bool:
    return isinstance(x, sys.modules["numpy"].ndarray)


def refuse_subclass(name: str, x: Any) -> None:
    """Raise for a subclass with semantics of its own, such as a masked array, which array functions would strip."""
    np = sys.modules["numpy"]
    if not (type(x) in (np.ndarray, np.memmap) or isinstance(x, np.generic)):
        raise TypeError(
            f"{name} is a {type(x).__module__}.{type(x).__qualname__}, a subclass of numpy.ndarray whose meaning would"
            " be lost; pass a plain numpy.ndarray, such as the filled() array of a masked one"
        )


def is_ordinary_type(kind: type) -> bool:
    """Whether arrays of this type lie in memory, and mean nothing but their elements."""
    np = sys.modules.get("numpy")
    return np is not None and kind in (np.ndarray, np.memmap)


def is_ordinary(x: Array, y: Any) -> bool:
    """Whether :mod:`kldiv_xp._blocks` can evaluate the loss of ``x``, which is of an ordinary type, and ``y``."""
    dtypes = _dtypes()
    return (
        (type(y) is type(x) or is_ordinary_type(type(y)))
        and x.shape == y.shape
        and (x.dtype in dtypes or _is_bfloat16(x.dtype))
        and (y.dtype in dtypes or _is_bfloat16(y.dtype))
    )


def is_bfloat16(dtype: DType, xp: Any) -> bool:
    """Whether this is ``ml_dtypes.bfloat16`` in an array of NumPy or Dask, which do not count it as floating."""
    return xp.__name__ in _WITH_BFLOAT16 and _is_bfloat16(dtype)


def _is_bfloat16(dtype: DType) -> bool:
    # By its name, so that ml_dtypes is not imported here.
    name: str = dtype.name
    return name == "bfloat16"


def loss(x: Array, y: Array, reduction: Reduction, log_target: bool, convention: Convention) -> Array:
    """Loss of ordinary arrays."""
    return _loss_in_silence()(x, y, reduction, log_target, convention, sys.modules[__name__])[0]


@cache
def _loss_in_silence() -> Callable[..., tuple[Array, bool]]:
    # As a decorator it takes half the time that it takes as a context.
    in_silence: Callable[..., tuple[Array, bool]] = native().errstate(all="ignore")(_blocks.loss)
    return in_silence


@cache
def _dtypes() -> frozenset[DType]:
    np = native()
    return frozenset(np.dtype(order + kind) for order in "<>" for kind in ("f2", "f4", "f8"))


def needs_grad(*arrays: Array) -> bool:  # noqa: ARG001
    return False


def native() -> Any:
    return sys.modules["numpy"]


def result_dtype(x: Array, y: Array) -> DType:
    dtype = x.dtype
    return dtype if dtype is y.dtype and dtype.isnative else promoted(dtype, y.dtype)


def promoted(one: DType, other: DType) -> DType:
    """Promoted dtype. NumPy has none for bfloat16 and float16: float32, as in PyTorch and JAX."""
    if _is_bfloat16(one) is not _is_bfloat16(other):
        one, other = computing_dtype(one), computing_dtype(other)
    return native().promote_types(one, other)


def computing_dtype(dtype: DType) -> DType:
    return native().promote_types(dtype, "float32")


def size_of(x: Array) -> int:
    size: int = x.size
    return size


def strides_of(x: Array) -> tuple[int, ...]:
    strides: tuple[int, ...] = x.strides
    return strides


def cast(x: Array, dtype: DType) -> Array:
    return x.astype(dtype, copy=False)


def empty_like(x: Array, dtype: DType) -> Array:
    return native().empty_like(x, dtype=dtype, subok=False)  # else a memory map without a file


def number(value: float, dtype: DType) -> Array:
    return dtype.type(value)


def block_size() -> int:
    """Elements of a block: less, and threads wait for the interpreter; more, and the cache does not hold them."""
    return FEW


def each(function: Callable[..., Any], blocks: Iterable[tuple[Array, ...]]) -> list[Any]:
    """Results of the function for each block, in threads where there is enough to do."""
    errstate = native().errstate
    todo = deque[Any](enumerate(blocks))
    results = [None] * len(todo)
    workers = max(1, min(_threads(), len(todo) // 2))
    ends = (None,) * workers
    todo.extend(ends)

    def work() -> None:
        with errstate(all="ignore"):  # each thread has a state of its own
            for i, block in iter(todo.popleft, None):
                results[i] = function(*block)

    if workers == 1:
        work()
        return results
    others: list[Any] = []
    with ExitStack() as pools:
        try:
            # The system may have no more threads, and none can be started while the interpreter ends.
            with suppress(ImportError, RuntimeError):
                from concurrent.futures import ThreadPoolExecutor

                pool = pools.enter_context(ThreadPoolExecutor(workers - 1))
                others.extend(pool.submit(work) for _ in range(workers - 1))
            work()
        finally:
            todo.extendleft(ends)  # if this one failed, let the others stop
    for other in others:
        other.result()
    return results


def _threads() -> int:
    """Threads to compute in: as many as there are processors, or as other numerical libraries are told to take."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on every system
    processors = len(affinity(0)) if affinity else os.cpu_count() or 1
    told = os.environ.get("OMP_NUM_THREADS", "")
    return min(processors, int(told) if told.isdecimal() and int(told) else processors, MOST_THREADS)
