"""What is particular to Dask. Imported with the library, so it must not import dask itself."""

import sys
from typing import Any

from kldiv_xp import _numpy

Array = Any


def refuse_blocks(name: str, x: Array) -> None:
    """Raise for an array in blocks of a subclass of NumPy's arrays, such as masked ones."""
    if _numpy.is_array(x._meta):
        _numpy.refuse_subclass(name, x._meta)


def of_equal_shape(x: Array, like: Array) -> Array:
    """``x``, each block of which is compared with that of ``like`` when it is computed; for chunks of unknown sizes.

    Dask pairs such chunks in their order, and broadcasts a chunk of length 1 against one of another length.
    """
    sizes = [tuple(map(_known, array.shape)) for array in (x, like)]
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
            "arrays must have the same shape, but sizes that were unknown are not equal: a chunk of"
            f" shape {x.shape} meets one of shape {like.shape}"
        )
    return x
