"""ndonnx: arrays that are traced into an ONNX model, whose sizes may be open."""

import sys
from typing import Any

from kldiv_xp._arguments import all_known
from kldiv_xp.backends._standard import Array, Backend, DType

BLOCK = 256
"""Numbers that are added one behind the other."""
LEVELS = 3
"""Of blocks of blocks: what is left to add of an array with 2**24 elements is one number."""


class NDOnnx(Backend):
    """Arrays of ndonnx."""

    @classmethod
    def owns(cls, kind: type) -> bool:
        """Whether arrays of this type are ndonnx's."""
        library = sys.modules.get("ndonnx")
        return library is not None and issubclass(kind, library.Array)

    @classmethod
    def of(cls, x: Array) -> "NDOnnx":  # noqa: ARG003
        """Backend for these arrays, which announce no namespace."""
        return cls(sys.modules["ndonnx"])

    def sum(self, x: Array) -> Array:
        """Sum of all elements, in blocks: onnxruntime adds one number behind the other.

        Not in float64, which few other runtimes have on the devices that they run on.
        """
        ndx: Any = self.xp
        blocks = x
        for _ in range(LEVELS):
            if blocks.size is not None and blocks.size <= BLOCK:
                break
            flat = ndx.reshape(blocks, (-1,))
            padding = ndx.full(-flat.dynamic_shape % BLOCK, 0.0, dtype=flat.dtype)
            blocks = ndx.sum(ndx.reshape(ndx.concat([flat, padding]), (-1, BLOCK)), axis=1)
        return ndx.sum(blocks)

    def count(self, x: Array, axes: int, dtype: DType) -> Array | float:
        """Product of the sizes that the first few axes have when it is computed."""
        if all_known(tuple(x.shape)[:axes]):
            return super().count(x, axes, dtype)
        return self.xp.prod(x.dynamic_shape[:axes]).astype(dtype)

    def of_equal_shape(self, x: Array, like: Array) -> Array:
        """``x``, whose computation fails if it has another shape than ``like`` then."""
        if all_known(tuple(x.shape)) and tuple(x.shape) == tuple(like.shape):
            return x
        shape, wanted = x.dynamic_shape, like.dynamic_shape
        refused = -2  # no size, so that the runtime raises
        return self.xp.reshape(x, self.xp.where(shape == wanted, wanted, refused))
