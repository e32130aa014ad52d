"""``keras.losses.kl_divergence`` on the PyTorch backend: an environment with ``keras`` and ``torch``.

It takes probabilities on both sides, so the adapter passes ``exp(input)`` and, with ``log_target``, ``exp(target)``,
and differentiates through the exponential. It sums over the last axis and has no other reduction: ``"batchmean"`` is
the mean over flattened rows, and for the other reductions the adapter adds a last axis of length one. From logits it
moves the classes to the last axis, takes the softmax, and masks and reduces the rows, as a user would.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

os.environ["KERAS_BACKEND"] = "torch"

import keras
import torch

from conformance.implementations.torch import TorchTensors
from conformance.record import Case, Implementation, UnsupportedError


class Keras(TorchTensors):
    """``keras.losses.kl_divergence``."""

    def __init__(self) -> None:
        super().__init__("keras.losses.kl_divergence", "keras")

    def version(self) -> str:
        """Version of Keras."""
        return str(keras.__version__)

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


class OfSoftmaxes(Keras):
    """``keras.losses.kl_divergence`` of ``keras.ops.softmax`` of both logits over the temperature."""

    losses = False
    divergences = True

    def __init__(self) -> None:
        super().__init__()
        self.name += " of softmaxes"

    def loss(self, case: Case) -> Callable[[Any, Any], Any]:
        """Divergence of the rows, masked and reduced; with ``beta`` 1 of the exchanged arguments."""
        options = case.logits
        assert options is not None
        if options.beta not in (0.0, 1.0):
            raise UnsupportedError("Keras has no Jensen-Shannon divergence")
        counts = torch.tensor(case.counts)

        def loss(input: Any, target: Any) -> Any:
            pair = (input, target) if options.beta == 0.0 else (target, input)
            q, p = (keras.ops.softmax(torch.movedim(z / options.temperature, options.axis, -1)) for z in pair)
            rows = torch.where(counts, keras.losses.kl_divergence(p, q), 0)
            return rows if case.reduction == "none" else rows.sum() / case.divisor

        return loss


def _rows(array: Any, case: Case) -> Any:
    """Tensor of the shape that the reduction needs; Python objects unchanged."""
    if not isinstance(array, torch.Tensor):
        return array
    shape = array.shape
    return array.reshape((*shape[:1], int(np.prod(shape[1:]))) if case.reduction == "batchmean" else (*shape, 1))


def implementations() -> Iterator[Implementation]:
    """The function, of log-probabilities and of logits."""
    yield Keras()
    yield OfSoftmaxes()
