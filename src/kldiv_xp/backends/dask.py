"""Dask, whose arrays are computed later, block by block, and may have unknown sizes until then."""

import sys
from typing import Any

from kldiv_xp._arguments import all_known
from kldiv_xp.backends._on_numpy import OnNumPy
from kldiv_xp.backends._standard import Array
from kldiv_xp.backends.numpy import refuse_subclass


class Dask(OnNumPy):
    """Arrays of Dask."""

    arrays = ("dask.array", "Array")
    lazy = has_bfloat16 = True

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


def _known(size: Any) -> Any:
    return size if size == size else None  # NaN is not equal to itself


def _block_of_equal_shape(x: Any, like: Any) -> Any:
    if x.shape != like.shape:
        raise ValueError(
            "arrays must have the same shape, but their unknown sizes turn out to differ: a chunk of"
            f" shape {x.shape} meets one of shape {like.shape}"
        )
    return x
