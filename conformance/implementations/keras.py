"""``keras.losses.kl_divergence`` on the PyTorch backend: an environment with ``keras`` and ``torch``.

It takes probabilities on both sides, so it is given ``exp(input)``, and ``exp(target)`` with ``log_target``; the
gradients go on through the exponential. It sums over the last axis and has no other reduction: ``"batchmean"`` is the
mean over flattened rows, the other reductions get a last axis of length one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

os.environ["KERAS_BACKEND"] = "torch"

import keras
import torch

from conformance.record import Case, Implementation, Operand, Outcome, Result, UnsupportedError, as_result


class Keras(Implementation):
    """``keras.losses.kl_divergence``."""

    def __init__(self) -> None:
        super().__init__("keras.losses.kl_divergence", "keras")

    def version(self) -> str:
        """Version of Keras."""
        return str(keras.__version__)

    def compute(self, case: Case) -> Outcome:
        """Loss and its gradients by PyTorch's autograd."""
        if case.reduction not in ("none", "sum", "mean", "batchmean"):
            raise UnsupportedError("the function has no argument for the reduction")
        input, target = (_given(operand, case) for operand in (case.input, case.target))
        probabilities = torch.exp(target) if case.log_target else target
        loss = keras.losses.kl_divergence(probabilities, torch.exp(input) if case.input.is_array else input)
        if case.reduction != "none":
            loss = loss.sum() if case.reduction == "sum" else loss.mean()
        if case.gradients:
            loss.backward(torch.ones_like(loss))
        given = {"input": (input, case.input), "target": (target, case.target)}
        gradients = {name: (given[name][0].grad, given[name][1].values.shape) for name in case.gradients}
        return Outcome(
            _result(loss), {n: _result(gradient.reshape(shape)) for n, (gradient, shape) in gradients.items()}
        )


def _given(operand: Operand, case: Case) -> Any:
    """Operand as a tensor of the shape that the reduction needs; an object as it is."""
    if not operand.is_array:
        return operand.values
    shape = operand.values.shape
    rows = (*shape[:1], int(np.prod(shape[1:]))) if case.reduction == "batchmean" else (*shape, 1)
    tensor = torch.tensor(operand.values).to(dtype=getattr(torch, str(operand.dtype))).reshape(rows)
    return tensor.requires_grad_(bool(case.gradients))


def _result(tensor: Any) -> Result:
    tensor = tensor.detach()
    as_numpy = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
    return as_result(as_numpy.numpy(), tensor.dtype)


def implementations() -> Iterator[Implementation]:
    """The one function."""
    yield Keras()
