"""The composition that the divergences from logits replace: ``log_softmax``, ``softmax`` and ``torch.nn.KLDivLoss``.

It is the reference for them, and computes in the dtype of the logits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn.functional import log_softmax, softmax

from conformance.implementations.torch import TorchTensors
from conformance.record import Case, Implementation


class Composition(TorchTensors):
    """PyTorch's functions, one after the other."""

    losses = False
    divergences = True

    def __init__(self) -> None:
        super().__init__("torch.nn.KLDivLoss of softmaxes")

    def loss(self, case: Case) -> Callable[[Any, Any], torch.Tensor]:
        """The divergence of the rows, masked and reduced."""
        options = case.logits
        assert options is not None
        where = None if options.where is None else self.given(options.where)

        def reduced(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            rows = _rows(x / options.temperature, y / options.temperature, options.beta, options.axis)
            if where is not None:
                rows = torch.where(where, rows, 0)
            if case.reduction == "none":
                return rows
            count = 1 if case.reduction == "sum" else rows.shape[0] if rows.ndim else 1
            if case.reduction == "mean":
                count = rows.numel() if where is None else int(where.expand(rows.shape).sum())
            return rows.sum() / count

        return reduced


def _rows(x: torch.Tensor, y: torch.Tensor, beta: float, axis: int) -> torch.Tensor:
    if beta == 1.0:
        return _rows(y, x, 0.0, axis)
    loss = torch.nn.KLDivLoss(reduction="none")
    log_q, p = log_softmax(x, axis), softmax(y, axis)
    if beta == 0.0:
        rows: torch.Tensor = loss(log_q, p).sum(axis)
        return rows
    weighted = [log_softmax(y, axis) + math.log(beta), log_q + math.log1p(-beta)]
    log_m = torch.logsumexp(torch.stack(weighted), 0)
    mixed: torch.Tensor = beta * loss(log_m, p).sum(axis) + (1 - beta) * loss(log_m, softmax(x, axis)).sum(axis)
    return mixed


def implementations() -> Iterator[Implementation]:
    """On the CPU."""
    yield Composition()
