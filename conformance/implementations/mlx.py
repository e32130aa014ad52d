"""``mlx.nn.losses.kl_div_loss`` on the CPU: an environment with ``mlx`` and ``mlx-cpu``.

It takes log-probabilities on both sides and sums over the last axis before it reduces: ``"batchmean"`` is its mean of
flattened rows, and for the other reductions the adapter adds a last axis of length one.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Mapping
from typing import Any

import mlx.core as mx
import mlx.nn
import numpy as np

from conformance.record import (
    LAYOUTS,
    Case,
    Implementation,
    Operand,
    Result,
    UnsupportedError,
    as_result,
    storage,
)


class MLX(Implementation):
    """``mlx.nn.losses.kl_div_loss``."""

    layouts = LAYOUTS
    mutable = False

    def __init__(self) -> None:
        super().__init__("mlx.nn.losses.kl_div_loss", "mlx")
        mx.set_default_device(mx.cpu)

    def version(self) -> str:
        """Version of MLX."""
        return importlib.metadata.version("mlx")

    def given(self, operand: Operand) -> Any:
        """Operand as an MLX array; Python objects unchanged."""
        if not operand.is_array:
            return operand.values
        dtype, values = getattr(mx, str(operand.dtype)), operand.laid_out()
        if operand.layout == "contiguous":
            return mx.array(values, dtype=dtype)
        memory, strides, offset = storage(values)
        return mx.as_strided(mx.array(memory, dtype=dtype), values.shape, strides, offset)

    def result(self, array: Any) -> Result:
        """Values of an MLX array."""
        return as_result(array.astype(mx.float32) if array.dtype == mx.bfloat16 else array, array.dtype)

    def evaluate(self, case: Case, input: Any, target: Any, cotangent: Any) -> tuple[Any, Mapping[str, Any]]:
        """Loss and its gradients by ``mlx.core.vjp``."""
        if not case.log_target:
            raise UnsupportedError("the targets of this function are log-probabilities")
        arguments = {"input": input, "target": target}

        def loss(*wanted: Any) -> Any:
            input, target = (arguments | dict(zip(case.gradients, wanted, strict=False))).values()
            reduction = "mean" if case.reduction == "batchmean" else case.reduction
            of_rows = mlx.nn.losses.kl_div_loss(_rows(input, case), _rows(target, case), reduction=reduction)
            return of_rows.reshape(input.shape) if case.reduction == "none" else of_rows

        value = loss()
        if not case.gradients:
            return value, {}
        wanted = [arguments[name] for name in case.gradients]
        _, gradients = mx.vjp(loss, wanted, [mx.ones_like(value) if cotangent is None else cotangent])
        return value, dict(zip(case.gradients, gradients, strict=True))


def _rows(array: Any, case: Case) -> Any:
    """Array of the shape that the reduction needs; Python objects unchanged."""
    if not isinstance(array, mx.array):
        return array
    shape = array.shape
    return array.reshape((*shape[:1], int(np.prod(shape[1:]))) if case.reduction == "batchmean" else (*shape, 1))


def implementations() -> Iterator[Implementation]:
    """The implementations of this file."""
    yield MLX()
