"""ndonnx, whose arrays are traced into an ONNX model, and may have dynamic sizes."""

import sys
from importlib import import_module
from typing import Any, ClassVar

from kldiv_xp._arguments import all_known
from kldiv_xp.backends._standard import Array, Backend, DType

BLOCK = 256
"""Numbers in a block, which are added sequentially."""
LEVELS = 3
"""Levels of blocks of blocks: three reduce 2**24 elements to one number."""


class NDOnnx(Backend):
    """Arrays of ndonnx."""

    arrays: ClassVar[tuple[str, str]] = ("ndonnx", "Array")

    @classmethod
    def of(cls, x: Array) -> "NDOnnx":  # noqa: ARG003
        """Backend; the arrays do not announce a namespace."""
        return cls(sys.modules["ndonnx"])

    def sum(self, x: Array, axis: int | None = None) -> Array:
        """Sum of all elements, or sums along an axis, in blocks: onnxruntime adds sequentially.

        Not in float64, which few runtimes support on their devices.
        """
        ndx: Any = self.xp
        if axis is not None:
            size = x.shape[axis]
            few = size is not None and size <= BLOCK
            return ndx.sum(x if few else self._sums_of_blocks(x, axis % x.ndim), axis=axis, keepdims=True)
        blocks = x
        for _ in range(LEVELS):
            if blocks.size is not None and blocks.size <= BLOCK:
                break
            flat = ndx.reshape(blocks, (-1,))
            padding = ndx.full(-flat.dynamic_shape % BLOCK, 0.0, dtype=flat.dtype)
            blocks = ndx.sum(ndx.reshape(ndx.concat([flat, padding]), (-1, BLOCK)), axis=1)
        return ndx.sum(blocks)

    def top(self, x: Array, axis: int) -> Array:
        """Largest number along an axis, which stays, by ONNX's operator; what it gives for NaN does not matter.

        ``max`` of ndonnx adds a branch for empty arrays: more than half as many operators again in the whole model.
        """
        onnx: Any = import_module("spox.opset.ai.onnx.v21")
        top = onnx.reduce_max(x.unwrap_spox(), onnx.constant(value_ints=[axis]), keepdims=1)
        return self.xp.asarray(top)

    def _sums_of_blocks(self, x: Array, axis: int) -> Array:
        """Sums of blocks along an axis. Each has about as many numbers as there are blocks."""
        ndx: Any = self.xp
        shape = x.dynamic_shape
        before, size, after = shape[:axis], shape[axis : axis + 1], shape[axis + 1 :]
        length = ndx.sqrt(size.astype(ndx.float32)).astype(ndx.int64) + 1
        number = -(-size // length)
        padding = ndx.full(ndx.concat([before, number * length - size, after]), 0.0, dtype=x.dtype)
        blocks = ndx.reshape(ndx.concat([x, padding], axis=axis), ndx.concat([before, number, length, after]))
        return ndx.sum(blocks, axis=axis + 1)

    def count(self, x: Array, axes: int, dtype: DType) -> Array | float:
        """Product of the sizes of the first axes, as they are when computed."""
        if all_known(tuple(x.shape)[:axes]):
            return super().count(x, axes, dtype)
        return self.xp.prod(x.dynamic_shape[:axes]).astype(dtype)

    def of_equal_shape(self, x: Array, like: Array) -> Array:
        """``x``, whose computation raises if its shape then differs from that of ``like``."""
        if all_known(tuple(x.shape)) and tuple(x.shape) == tuple(like.shape):
            return x
        shape, wanted = x.dynamic_shape, like.dynamic_shape
        refused = -2  # not a size: the runtime raises
        return self.xp.reshape(x, self.xp.where(shape == wanted, wanted, refused))
