"""What is particular to ndonnx. Imported with the library, so it must not import ndonnx itself.

This module is the namespace of ndonnx arrays: ndonnx's own, with a sum that does not drift.
"""

import sys
from typing import Any

Array = Any

BLOCK = 256
"""Numbers that are added one behind the other."""
LEVELS = 3
"""Of blocks of blocks: what is left to add of an array with 2**24 elements is one number."""


def is_array(x: object) -> bool:
    ndx = sys.modules.get("ndonnx")
    return ndx is not None and isinstance(x, ndx.Array)


def namespace() -> Any:
    return sys.modules[__name__]


def is_namespace(xp: Any) -> bool:
    name: str = xp.__name__
    return name == __name__


def __getattr__(name: str) -> Any:
    if "ndonnx" not in sys.modules:
        raise AttributeError(name)
    return getattr(sys.modules["ndonnx"], name)


def sum(x: Array, /) -> Array:
    """Sum of all elements, in blocks: onnxruntime adds one number behind the other.

    Not in float64, which few other runtimes have on the devices that they run on.
    """
    import ndonnx as ndx

    blocks = x
    for _ in range(LEVELS):
        if blocks.size is not None and blocks.size <= BLOCK:
            break
        flat = ndx.reshape(blocks, (-1,))
        padding = ndx.full(-flat.dynamic_shape % BLOCK, 0.0, dtype=flat.dtype)
        blocks = ndx.sum(ndx.reshape(ndx.concat([flat, padding]), (-1, BLOCK)), axis=1)
    return ndx.sum(blocks)


def count(x: Array, axes: int, dtype: Any) -> Array:
    """Product of the sizes that the first few axes have when it is computed."""
    import ndonnx as ndx

    return ndx.prod(x.dynamic_shape[:axes]).astype(dtype)


def of_equal_shape(x: Array, like: Array) -> Array:
    """``x``, whose computation fails if it has another shape than ``like`` then."""
    import ndonnx as ndx

    shape, wanted = x.dynamic_shape, like.dynamic_shape
    refused = -2  # no size, so that the runtime raises
    return ndx.reshape(x, ndx.where(shape == wanted, wanted, refused))
