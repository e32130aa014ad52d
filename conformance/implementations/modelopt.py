"""``LogitsDistillationLoss`` of NVIDIA's Model Optimizer, in an environment with ``nvidia-modelopt`` and ``torch``.

The classes are its last axis; the adapter moves those of the case there. It multiplies by the square of the
temperature, which the adapter divides by. Its ``"mean"`` is that of the elements, and it has no mask: for these the
adapter takes ``"none"``, and reduces as its documentation says. The teacher has no gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import modelopt
import torch
from modelopt.torch.distill.losses import LogitsDistillationLoss

from conformance.implementations.torch import OfStudent
from conformance.record import Case, Implementation, UnsupportedError


class ModelOpt(OfStudent):
    """The module; with ``beta`` 1 of the exchanged arguments."""

    losses = False
    divergences = True

    def __init__(self) -> None:
        super().__init__("modelopt.torch.distill.losses.LogitsDistillationLoss", "modelopt")

    def version(self) -> str:
        """Version of Model Optimizer."""
        return str(modelopt.__version__)

    def loss(self, case: Case) -> Callable[[Any, Any], torch.Tensor]:
        """The divergence of the rows, masked and reduced."""
        options = case.logits
        assert options is not None
        if options.beta not in (0.0, 1.0):
            raise UnsupportedError("the module has no Jensen-Shannon divergence")
        of_rows = options.where is not None or case.reduction == "mean" or not case.counts.ndim
        module = LogitsDistillationLoss(options.temperature, "none" if of_rows else case.reduction)
        counts = torch.tensor(case.counts)

        def loss(input: Any, target: Any) -> torch.Tensor:
            pair = (input, target) if options.beta == 0.0 else (target, input)
            value: torch.Tensor = module(*(torch.movedim(z, options.axis, -1) for z in pair)) / options.temperature**2
            if not of_rows:
                return value
            rows = torch.where(counts, value, 0)
            return rows if case.reduction == "none" else rows.sum() / case.divisor

        return loss


def implementations() -> Iterator[Implementation]:
    """The implementations of this file."""
    yield ModelOpt()
