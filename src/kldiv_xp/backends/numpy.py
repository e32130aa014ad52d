"""NumPy: arrays in memory, evaluated in blocks by several threads."""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from typing import Any

from kldiv_xp._options import Options
from kldiv_xp.backends._on_numpy import OnNumPy
from kldiv_xp.backends._row_blocks import InRowBlocks
from kldiv_xp.backends._scratch import Scratch, SpareMemory
from kldiv_xp.backends._standard import Array, DType

FEW = 2**12
"""Elements whose temporaries the allocator has at hand."""
BLOCK = 2**16
"""Elements of a block. With fewer, threads wait for the interpreter; more do not fit into the cache."""
NORMAL_IN_FLOAT16 = 2.0**-14
"""The smallest number of float16 that is not subnormal."""
MOST_THREADS = 4
"""More threads would wait for the interpreter and for memory. Each has some MiB of temporaries."""


class NumPy(InRowBlocks, OnNumPy):
    """NumPy arrays and scalars."""

    few = FEW
    in_memory = True
    has_bfloat16 = True

    @classmethod
    def owns(cls, kind: type) -> bool:
        """Whether this type is NumPy's, or a subclass."""
        np = sys.modules.get("numpy")
        return np is not None and issubclass(kind, (np.ndarray, np.generic))

    def __init__(self, xp: Any) -> None:
        super().__init__(xp)
        np = sys.modules["numpy"]
        self.native: Any = np
        self.float64: DType = np.dtype(np.float64)
        self.ordinary: tuple[type, ...] = (np.ndarray, np.memmap)
        self._dtypes = frozenset(np.dtype(order + kind) for order in "<>" for kind in ("f2", "f4", "f8"))
        self.spare_memory: SpareMemory = SpareMemory(np.empty, MOST_THREADS)
        # As a decorator, errstate takes half the time of a context manager.
        self._in_silence = np.errstate(all="ignore")(self.loss_in_blocks)

    def accepted(self, name: str, x: Array) -> Array:
        """The array; raise for a subclass with its own semantics."""
        refuse_subclass(name, x)
        return x

    def loss(self, input: Array, target: Array, options: Options, where: Array = None) -> Array:
        """The loss of the caller's arrays."""
        if self.is_ordinary(input, target) and (where is None or self.is_mask(where, input)):
            return self._in_silence(input, target, options, where)[0]
        return super().loss(input, target, options, where)

    def is_ordinary(self, x: Array, y: Any) -> bool:
        """Whether ``x`` and ``y`` are plain arrays, of one shape and of known dtypes."""
        return (
            type(x) in self.ordinary
            and type(y) in self.ordinary
            and x.shape == y.shape
            and (x.dtype in self._dtypes or self._is_bfloat16(x.dtype))
            and (y.dtype in self._dtypes or self._is_bfloat16(y.dtype))
        )

    def needs_grad(self, *arrays: Array) -> bool:
        """False."""
        return False

    def result_dtype(self, x: Array, y: Array) -> DType:
        """Promoted dtype, in the byte order of this machine."""
        dtype = x.dtype
        return dtype if dtype is y.dtype and dtype.isnative else super().result_dtype(x, y)

    def computing_dtype(self, dtype: DType) -> DType:
        """Dtype to compute in: at least float32."""
        return self.native.promote_types(dtype, "float32")

    def cast(self, x: Array, dtype: DType) -> Array:
        """``x`` in another dtype; ``x`` itself if it has that dtype."""
        return x.astype(dtype, copy=False)

    def size_of(self, x: Array) -> int:
        """Number of elements."""
        size: int = x.size
        return size

    def strides_of(self, x: Array) -> tuple[int, ...]:
        """Strides in memory, for each axis."""
        strides: tuple[int, ...] = x.strides
        return strides

    def empty_like(self, x: Array, dtype: DType) -> Array:
        """New array, in the memory order of ``x``."""
        return self.native.empty_like(x, dtype=dtype, subok=False)  # not a memmap without a file

    def number(self, value: float, dtype: DType) -> Array:
        """A number as a NumPy scalar, like the result of a sum."""
        return dtype.type(value)

    def store(self, x: Array, out: Array) -> None:
        """Write ``x`` into an array of another dtype; what is subnormal in float16 in units of its smallest number.

        NumPy takes twenty times as long for these numbers, because it sets a flag of the processor for each. See also
        https://github.com/numpy/numpy/issues/28753.
        """
        np = self.native
        if out.dtype != np.float16 or not out.dtype.isnative:
            out[...] = x
            return
        magnitude = np.abs(x)
        subnormal = magnitude < NORMAL_IN_FLOAT16
        out[...] = np.where(subnormal, 0.0, x)
        units = np.rint(np.minimum(magnitude, NORMAL_IN_FLOAT16) * 2**24).astype(np.uint16)
        np.copyto(out.view(np.uint16), units | np.signbit(x) * np.uint16(0x8000), where=subnormal)

    def fill(self, x: Array, mask: Array, value: float) -> None:
        """Write a number where the mask is true."""
        self.native.copyto(x, value, where=mask)

    def row_max(self, x: Array) -> Array:
        """Largest element of each row, with the axis kept."""
        return x.max(axis=-1, keepdims=True)

    def row_sum(self, x: Array) -> Array:
        """Sum of each row, with the axis kept."""
        return x.sum(axis=-1, keepdims=True)

    def row_dot(self, x: Array, y: Array, scratch: Scratch) -> Array:
        """Sum of the products of each row, with the axis kept."""
        return self.native.einsum("...i,...i->...", x, y)[..., None]  # BLAS would wait for its own threads

    def row_block_size(self) -> int:
        """Elements of a block of rows."""
        return BLOCK

    def block_size(self) -> int:
        """Elements of a block."""
        return BLOCK

    def each(self, function: Callable[..., Any], blocks: Iterable[tuple[Array, ...]]) -> list[Any]:
        """Results of the function for each block, in threads if there are enough blocks."""
        errstate = self.native.errstate
        todo = deque[Any](enumerate(blocks))
        results = [None] * len(todo)
        workers = max(1, min(threads(), len(todo) // 2))
        ends = (None,) * workers
        todo.extend(ends)

        def work() -> None:
            with errstate(all="ignore"):  # each thread has its own error state
                for i, block in iter(todo.popleft, None):
                    results[i] = function(*block)

        if workers == 1:
            work()
            return results
        others: list[Any] = []
        with ExitStack() as pools:
            try:
                # Starting threads fails at the system's limit, and while the interpreter shuts down.
                with suppress(ImportError, RuntimeError):
                    from concurrent.futures import ThreadPoolExecutor

                    pool = pools.enter_context(ThreadPoolExecutor(workers - 1))
                    others.extend(pool.submit(work) for _ in range(workers - 1))
                work()
            finally:
                todo.extendleft(ends)  # if this thread raised, stop the others
        for other in others:
            other.result()
        return results


def refuse_subclass(name: str, x: Any) -> None:
    """Raise for a subclass, such as a masked array, whose own semantics array functions would drop."""
    np = sys.modules["numpy"]
    if isinstance(x, np.ndarray) and type(x) not in (np.ndarray, np.memmap):
        raise TypeError(
            f"{name} is a {type(x).__module__}.{type(x).__qualname__}, a subclass of numpy.ndarray whose own semantics"
            " would be lost; pass a plain numpy.ndarray: of a masked array, filled(0)"
        )


def threads() -> int:
    """Number of threads: at most the processors, ``OMP_NUM_THREADS`` and ``MOST_THREADS``."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on every system
    processors = len(affinity(0)) if affinity else os.cpu_count() or 1
    told = os.environ.get("OMP_NUM_THREADS", "")
    return min(processors, int(told) if told.isdecimal() and int(told) else processors, MOST_THREADS)
