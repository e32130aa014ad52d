"""``keras.losses.kl_divergence`` on the PyTorch backend: an environment with ``keras`` and ``torch``.

It takes probabilities on both sides, so the adapter passes ``exp(input)`` and, with ``log_target``, ``exp(target)``,
and differentiates through the exponential. It sums over the last axis and has no other reduction: ``"batchmean"`` is
the mean over flattened rows, and for the other reductions the adapter adds a last axis of length one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

os.environ["KERAS_BACKEND"] = "torch"

import keras
import torch

from conformance.record import (
    NO_NEGATIVE_STRIDES,
    Case,
    Implementation,
    Operand,
    Result,
    Taped,
    UnsupportedError,
    as_result,
    storage,
)


class Keras(Taped):
    """``keras.losses.kl_divergence``."""

    layouts = NO_NEGATIVE_STRIDES

    def __init__(self) -> None:
        super().__init__("keras.losses.kl_divergence", "keras")

    def version(self) -> str:
        """Version of Keras."""
        return str(keras.__version__)

    def given(self, operand: Operand) -> Any:
        """Operand as a tensor; Python objects unchanged."""
        if not operand.is_array:
            return operand.values
        values = operand.laid_out()
        memory, strides, offset = storage(values)
        return torch.tensor(memory).to(getattr(torch, str(operand.dtype))).as_strided(values.shape, strides, offset)

    def result(self, array: Any) -> Result:
        """Values of a tensor."""
        tensor = array.detach()
        as_numpy = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
        return as_result(as_numpy.numpy(), tensor.dtype)

    def tracked(self, array: Any) -> Any:
        """The tensor itself."""
        return array.requires_grad_()

    def loss(self, case: Case) -> Callable[[Any, Any], Any]:
        """The function, of probabilities in rows, and the reduction around it."""
        if case.reduction not in ("none", "sum", "mean", "batchmean"):
            raise UnsupportedError("the function has no argument for the reduction")

        def loss(input: Any, target: Any) -> Any:
            x, y = _rows(input, case), _rows(target, case)
            of_rows = keras.losses.kl_divergence(
                torch.exp(y) if case.log_target else y, torch.exp(x) if case.input.is_array else x
            )
            if case.reduction == "none":
                return of_rows
            return of_rows.sum() if case.reduction == "sum" else of_rows.mean()

        return loss

    def gradients(self, loss: Any, arrays: Sequence[Any], cotangent: Any, *, again: bool) -> Sequence[Any]:
        """Gradients by PyTorch's autograd."""
        cotangent = torch.ones_like(loss) if cotangent is None else cotangent
        return torch.autograd.grad(loss, arrays, cotangent, retain_graph=again)

    def overwrite(self, array: Any) -> None:
        """Double the elements of a tensor."""
        array.mul_(2)


def _rows(array: Any, case: Case) -> Any:
    """Tensor of the shape that the reduction needs; Python objects unchanged."""
    if not isinstance(array, torch.Tensor):
        return array
    shape = array.shape
    return array.reshape((*shape[:1], int(np.prod(shape[1:]))) if case.reduction == "batchmean" else (*shape, 1))


def implementations() -> Iterator[Implementation]:
    """The implementations of this file."""
    yield Keras()
