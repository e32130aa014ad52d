"""``GKDTrainer.generalized_jsd_loss`` of TRL, in an environment with ``trl`` and ``torch``.

The classes are its last axis; the adapter moves those of the case there. Rows that do not count have the label -100.
``"none"`` gives the elements, whose sums the adapter takes. With labels, ``"batchmean"`` divides by the rows that
count, as ``"mean"`` does here; TRL's own ``"mean"`` is that of the elements. ``"batchmean"`` with labels is
``num_items_in_batch``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

import torch
import trl
from trl.experimental.gkd import GKDTrainer

from conformance.implementations.torch import TorchTensors
from conformance.record import Case, Implementation, UnsupportedError


class TRL(TorchTensors):
    """The static method of the trainer."""

    losses = False
    divergences = True

    def __init__(self) -> None:
        super().__init__("trl.experimental.gkd.GKDTrainer.generalized_jsd_loss", "trl")

    def version(self) -> str:
        """Version of TRL."""
        return str(trl.__version__)

    def loss(self, case: Case) -> Callable[[Any, Any], torch.Tensor]:
        """The divergence of the rows, masked and reduced by the function."""
        options = case.logits
        assert options is not None
        masked = options.where is not None
        how: dict[str, Any] = {"beta": options.beta, "temperature": options.temperature}
        if masked and case.reduction == "none":
            raise UnsupportedError("the function drops the rows that do not count")
        if masked or case.reduction == "mean":
            labels = torch.where(torch.tensor(case.counts), 0, -100)
            how["labels"] = labels if labels.ndim else labels[None]
        if masked and case.reduction == "batchmean":
            how["num_items_in_batch"] = case.divisor

        def loss(input: Any, target: Any) -> torch.Tensor:
            x, y = (torch.movedim(z, options.axis, -1) if z.ndim > 1 else z[None] for z in (input, target))
            reduction = "batchmean" if case.reduction == "mean" else case.reduction
            value: torch.Tensor = GKDTrainer.generalized_jsd_loss(x, y, reduction=reduction, **how)
            return value.sum(-1).reshape(case.counts.shape) if reduction == "none" else value

        return loss


def implementations() -> Iterator[Implementation]:
    """The implementations of this file."""
    yield TRL()
