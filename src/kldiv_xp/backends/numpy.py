"""NumPy: arrays in memory, evaluated in blocks by several threads."""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from typing import Any

from kldiv_xp._options import Options
from kldiv_xp.backends._blocks import InBlocks
from kldiv_xp.backends._on_numpy import OnNumPy
from kldiv_xp.backends._standard import Array, DType

FEW = 2**16
"""Elements of a block: less, and threads wait for the interpreter; more, and the cache does not hold them."""
MOST_THREADS = 4
"""More would wait for the interpreter and for the memory, and each has 2 MiB of temporaries."""


class NumPy(InBlocks, OnNumPy):
    """NumPy arrays, and numbers of NumPy."""

    few = FEW
    has_bfloat16 = True

    @classmethod
    def owns(cls, kind: type) -> bool:
        """Whether arrays of this type are NumPy's, or of a subclass."""
        np = sys.modules.get("numpy")
        return np is not None and issubclass(kind, (np.ndarray, np.generic))

    def __init__(self, xp: Any) -> None:
        super().__init__(xp)
        self.native = np = sys.modules["numpy"]
        self._ordinary = (np.ndarray, np.memmap)
        self._dtypes = frozenset(np.dtype(order + kind) for order in "<>" for kind in ("f2", "f4", "f8"))
        # As a decorator it takes half the time that it takes as a context.
        self._in_silence = np.errstate(all="ignore")(self.loss_in_blocks)

    def taken(self, name: str, x: Array) -> Array:
        """The array; raise for a subclass with semantics of its own."""
        refuse_subclass(name, x)
        return x

    def loss(self, input: Array, target: Array, options: Options) -> Array:
        """The loss of what a caller passes."""
        if self.is_ordinary(input, target):
            return self._in_silence(input, target, options)[0]
        return super().loss(input, target, options)

    def is_ordinary(self, x: Array, y: Any) -> bool:
        """Whether ``x`` and ``y`` are in memory, of one shape, and mean nothing but their elements."""
        return (
            type(x) in self._ordinary
            and type(y) in self._ordinary
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
        """Dtype to compute in: 16 bits are too few for sums, and for the terms that cancel."""
        return self.native.promote_types(dtype, "float32")

    def cast(self, x: Array, dtype: DType) -> Array:
        """``x`` in another dtype; itself where it has that already."""
        return x.astype(dtype, copy=False)

    def size_of(self, x: Array) -> int:
        """Number of elements."""
        size: int = x.size
        return size

    def strides_of(self, x: Array) -> tuple[int, ...]:
        """Distance in memory between neighbours along each axis."""
        strides: tuple[int, ...] = x.strides
        return strides

    def empty_like(self, x: Array, dtype: DType) -> Array:
        """New array, in the memory order of ``x``."""
        return self.native.empty_like(x, dtype=dtype, subok=False)  # else a memory map without a file

    def number(self, value: float, dtype: DType) -> Array:
        """A number as NumPy gives it for a sum."""
        return dtype.type(value)

    def block_size(self) -> int:
        """Elements of a block."""
        return self.few

    def each(self, function: Callable[..., Any], blocks: Iterable[tuple[Array, ...]]) -> list[Any]:
        """Results of the function for each block, in threads where there is enough to do."""
        errstate = self.native.errstate
        todo = deque[Any](enumerate(blocks))
        results = [None] * len(todo)
        workers = max(1, min(threads(), len(todo) // 2))
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


def refuse_subclass(name: str, x: Any) -> None:
    """Raise for a subclass with semantics of its own, such as a masked array, which array functions would strip."""
    np = sys.modules["numpy"]
    if isinstance(x, np.ndarray) and type(x) not in (np.ndarray, np.memmap):
        raise TypeError(
            f"{name} is a {type(x).__module__}.{type(x).__qualname__}, a subclass of numpy.ndarray whose meaning would"
            " be lost; pass a plain numpy.ndarray, such as the filled() array of a masked one"
        )


def threads() -> int:
    """Threads to compute in: as many as there are processors, or as other numerical libraries are told to take."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on every system
    processors = len(affinity(0)) if affinity else os.cpu_count() or 1
    told = os.environ.get("OMP_NUM_THREADS", "")
    return min(processors, int(told) if told.isdecimal() and int(told) else processors, MOST_THREADS)
