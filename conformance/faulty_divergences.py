"""Divergences from logits with a fault, which the suite must catch."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from conformance.implementations.composition import Composition
from conformance.implementations.kldiv_xp import torch as on_torch
from conformance.record import Case, FromLogits

Loss = Callable[[Any, Any], torch.Tensor]
Fault = Callable[[Callable[[Case], Loss], Case], Loss]
"""From the right losses and a case: the wrong loss of that case."""


def _of_another_case(change: Callable[[Case, FromLogits], Case]) -> Fault:
    def wrong(loss: Callable[[Case], Loss], case: Case) -> Loss:
        assert case.logits is not None
        return loss(change(case, case.logits))

    return wrong


def _with(**changes: Any) -> Fault:
    return _of_another_case(lambda case, options: replace(case, logits=replace(options, **changes)))


def _with_result(change: Callable[[torch.Tensor], torch.Tensor]) -> Fault:
    return lambda loss, case: lambda x, y: change(loss(case)(x, y))


def _with_arguments(change: Callable[[torch.Tensor], torch.Tensor]) -> Fault:
    return lambda loss, case: lambda x, y: loss(case)(change(x), change(y))


def _without_value(loss: torch.Tensor) -> torch.Tensor:
    """0 where the loss is finite; its gradient is right."""
    return torch.where(loss.isfinite(), loss - loss.detach(), loss)


def _with_gradient_times(factor: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda loss: torch.where(loss.isfinite(), loss + (factor - 1.0) * (loss - loss.detach()), loss)


FAULTS: dict[str, Fault] = {
    "ignores the temperature": _with(temperature=1.0),
    "takes the last axis always": _with(axis=-1),
    "counts every row": _with(where=None),
    "exchanges input and target": _of_another_case(lambda case, o: replace(case, logits=replace(o, beta=1 - o.beta))),
    "ignores beta": _with(beta=0.5),
    "takes the mean over the batch": _of_another_case(
        lambda case, _: replace(case, reduction="batchmean") if case.reduction == "mean" else case
    ),
    "takes the sum for the mean": _of_another_case(
        lambda case, _: replace(case, reduction="sum") if case.reduction == "mean" else case
    ),
    "is 0": _with_result(_without_value),
    "is 0 for 16 bits": _with_result(lambda loss: _without_value(loss) if loss.dtype.itemsize == 2 else loss),
    "has gradients twice as large": _with_result(_with_gradient_times(2.0)),
    "has gradients larger by a thousandth": _with_result(_with_gradient_times(1.001)),
    "clamps impossible classes": _with_arguments(lambda logits: logits.clamp(min=-100.0)),
    "computes 16 bits as the composition does": lambda loss, case: (
        Composition().loss(case) if case.input.dtype in ("float16", "bfloat16") else loss(case)
    ),
    "rounds the logits to 16 bits": _with_arguments(lambda logits: logits.to(torch.bfloat16).to(logits.dtype)),
}


class FaultyDivergence(on_torch.KLDivXP):
    """``kldiv_xp`` on PyTorch, with a fault in its divergences; its loss of probabilities has none."""

    def __init__(self, fault: str) -> None:
        super().__init__("oneflow", compiled=False, device="cpu")
        self.fault = fault

    def loss(self, case: Case) -> Loss:
        """The wrong divergence."""
        return super().loss(case) if case.logits is None else FAULTS[self.fault](super().loss, case)
