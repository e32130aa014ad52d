"""Dask, whose arrays are computed later, block by block, and may have unknown sizes until then."""

import math
import sys
from collections.abc import Callable
from typing import Any, ClassVar

from kldiv_xp._arguments import all_known
from kldiv_xp.backends._chunks import InChunks, InTurn
from kldiv_xp.backends._on_numpy import OnNumPy
from kldiv_xp.backends._standard import Array, Backend
from kldiv_xp.backends.numpy import NumPy, refuse_subclass


class Chunk(InTurn, NumPy):
    """A chunk of a Dask array."""


class Dask(InChunks, OnNumPy):
    """Arrays of Dask."""

    arrays: ClassVar[tuple[str, str]] = ("dask.array", "Array")
    lazy = has_bfloat16 = True
    of_chunks: ClassVar[type[Backend]] = Chunk

    def __init__(self, xp: Any) -> None:
        super().__init__(_Namespace(xp))

    def accepted(self, name: str, x: Array) -> Array:
        """The array; raise for blocks that are masked arrays or another subclass of ``numpy.ndarray``."""
        refuse_subclass(name, x._meta)
        return x

    def of_equal_shape(self, x: Array, like: Array) -> Array:
        """``x``, with chunks of unknown sizes that are compared with those of ``like`` when computed.

        Dask pairs such chunks in order, and broadcasts a chunk of length 1 against a longer one.
        """
        sizes = [tuple(map(_known, array.shape)) for array in (x, like)]
        if sizes[0] == sizes[1] and all_known(sizes[0]):
            return x
        unknown = [axis for axis, pair in enumerate(zip(*sizes, strict=True)) if None in pair]
        if sizes[0] != sizes[1] or any(x.numblocks[axis] != like.numblocks[axis] for axis in unknown):
            raise ValueError(
                f"chunks whose sizes are unknown cannot be matched with others: got arrays of shape {tuple(x.shape)} in"
                f" {x.numblocks} chunks and {tuple(like.shape)} in {like.numblocks}; call compute_chunk_sizes() on each"
            )
        axes = tuple(range(x.ndim))
        da = sys.modules["dask.array"]
        result: Array = da.blockwise(_block_of_equal_shape, axes, x, axes, like, axes, dtype=x.dtype, meta=x._meta)
        return result

    def are_complete(self, x: Array, y: Array, axis: int) -> bool:
        """Whether the chunks of both arrays are NumPy arrays, and hold complete rows."""
        numpy_array = sys.modules["numpy"].ndarray
        return all(isinstance(z._meta, numpy_array) for z in (x, y)) and super().are_complete(x, y, axis)

    def mapped(self, function: Callable[[Array, Array], Array], x: Array, y: Array, axis: int | None) -> Array:
        """Results of the function for each pair of chunks; of length 1 along ``axis``."""
        axes = tuple(range(x.ndim))
        adjusted = {} if axis is None else {axis % x.ndim: 1}
        return sys.modules["dask.array"].blockwise(
            function, axes, x, axes, y, axes, dtype=x.dtype, meta=x._meta, adjust_chunks=adjusted
        )


class _Namespace:
    """Dask's functions, with two that take what Dask's own ones do not: unknown sizes, and chunks without rows."""

    def __init__(self, xp: Any) -> None:
        self._xp, self.__name__ = xp, xp.__name__

    def __getattr__(self, name: str) -> Any:
        return getattr(self._xp, name)

    def expand_dims(self, x: Array, /, *, axis: int) -> Array:
        return x[(slice(None),) * (axis % (x.ndim + 1)) + (None,)]

    def max(self, x: Array, /, *, axis: int, keepdims: bool = False) -> Array:
        return sys.modules["dask.array"].reduction(
            x, chunk=_max, aggregate=_max, axis=axis, keepdims=keepdims, dtype=x.dtype, name="max"
        )


def _known(size: Any) -> Any:
    return size if size == size else None  # NaN is not equal to itself


def _max(x: Any, axis: tuple[int, ...], keepdims: bool) -> Any:
    if all(x.shape[i] for i in axis):
        return x.max(axis=axis, keepdims=keepdims)
    return x.sum(axis=axis, keepdims=keepdims) - math.inf  # of nothing


def _block_of_equal_shape(x: Any, like: Any) -> Any:
    if x.shape != like.shape:
        raise ValueError(
            "arrays must have the same shape, but their unknown sizes turn out to differ: a chunk of"
            f" shape {x.shape} meets one of shape {like.shape}"
        )
    return x
