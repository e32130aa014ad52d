"""Shapes, of which a lazy library may not know every size before something is computed.

Such a size is NaN in Dask and ``None`` elsewhere, as in the standard. The sizes that are known are compared at once;
that the others are equal is checked by the library, when it computes.
"""

import math
from typing import Any

from array_api_compat import is_dask_namespace

from kldiv_xp import _dask, _mlx, _ndonnx

Array = Any
Namespace = Any
Shape = tuple[Any, ...]


def all_known(sizes: Shape) -> bool:
    """Whether none of the sizes has to be computed first."""
    return all(size is not None and size == size for size in sizes)  # NaN is not equal to itself


def may_be_equal(shape: Shape, other: Shape) -> bool:
    """Whether two shapes are equal, as far as they are known."""
    if shape == other:
        return True
    pairs = zip(shape, other, strict=False)
    return len(shape) == len(other) and all(not all_known(sizes) or sizes[0] == sizes[1] for sizes in pairs)


def of_equal_shape(x: Array, like: Array, xp: Namespace) -> Array:
    """``x``, whose computation fails if it turns out to have another shape than ``like``.

    Without this, a size that is 1 would be broadcast when it is computed, and the loss be a wrong number.
    """
    shape = tuple(x.shape)
    if all_known(shape) and shape == tuple(like.shape):
        return _mlx.of_fixed_shape(x) if _mlx.is_namespace(xp) else x
    if is_dask_namespace(xp):
        return _dask.of_equal_shape(x, like)
    if _ndonnx.is_namespace(xp):
        return _ndonnx.of_equal_shape(x, like)
    raise ValueError(
        f"arrays of {xp.__name__} must have known sizes, got {shape} and {tuple(like.shape)}: that those"
        " which are unknown are equal could not be checked; compute them first"
    )


def size_of_axes(x: Array, axes: int, dtype: Any, xp: Namespace) -> Array | float:
    """Product of the sizes of the first few axes: a number, or an array of ``dtype`` where some are not known."""
    sizes = tuple(x.shape)[:axes]
    if all_known(sizes):
        size = math.prod(sizes)
        # A float, because JAX takes a Python integer for an int32.
        return float(size) if type(size) is int else size
    if _ndonnx.is_namespace(xp):
        return _ndonnx.count(x, axes, dtype)
    ones = xp.ones_like(x, dtype=xp.int8)
    others = tuple(range(axes, x.ndim))
    if others:  # not a sum, which is 0 where one of them has no length
        ones = xp.prod(ones, axis=others)
    # In integers: 2**24 is the largest number of ones that float32 can count.
    return xp.astype(xp.sum(ones, dtype=xp.int64), dtype)
