"""``mlx.nn.losses.kl_div_loss`` on the CPU: an environment with ``mlx`` and ``mlx-cpu``.

It takes log-probabilities on both sides and sums over the last axis before it reduces: ``"batchmean"`` is its mean of
flattened rows, the other reductions get a last axis of length one.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import mlx.nn
import numpy as np

from conformance.record import Case, Implementation, Operand, Outcome, Result, UnsupportedError, as_result


class MLX(Implementation):
    """``mlx.nn.losses.kl_div_loss``."""

    def __init__(self) -> None:
        super().__init__("mlx.nn.losses.kl_div_loss", "mlx")
        mx.set_default_device(mx.cpu)

    def version(self) -> str:
        """Version of MLX."""
        return importlib.metadata.version("mlx")

    def compute(self, case: Case) -> Outcome:
        """Loss and its gradients by ``mlx.core.vjp``."""
        if not case.log_target:
            raise UnsupportedError("the targets of this function are log-probabilities")
        arguments = _given(case.input, case.reduction), _given(case.target, case.reduction)
        reduction = "mean" if case.reduction == "batchmean" else case.reduction

        def loss(input: Any, target: Any) -> Any:
            return mlx.nn.losses.kl_div_loss(input, target, reduction=reduction)

        value = loss(*arguments)
        if not case.gradients:
            return Outcome(_result(value))
        _, gradients = mx.vjp(loss, arguments, (mx.ones_like(value),))
        by_input = mx.reshape(gradients[0], case.input.values.shape)
        by_target = mx.reshape(gradients[1], case.target.values.shape)
        return Outcome(_result(value), {"input": _result(by_input), "target": _result(by_target)})


def _given(operand: Operand, reduction: str) -> Any:
    """Operand as an MLX array of the shape that the reduction needs; an object as it is."""
    if not operand.is_array:
        return operand.values
    shape = operand.values.shape
    rows = (*shape[:1], int(np.prod(shape[1:]))) if reduction == "batchmean" else (*shape, 1)
    return mx.array(operand.values, dtype=getattr(mx, str(operand.dtype))).reshape(rows)


def _result(array: Any) -> Result:
    return as_result(array.astype(mx.float32) if array.dtype == mx.bfloat16 else array, array.dtype)


def implementations() -> Iterator[Implementation]:
    """The one function."""
    yield MLX()
