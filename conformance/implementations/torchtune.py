"""torchtune's losses from logits, in an environment with ``torchtune``, ``torchao`` and ``torch``.

They have no temperature; the adapter divides the logits by that of the case, as a user would. The classes are the last
axis, and the rows are flattened. Rows that do not count have the label -100. ``"mean"`` is the default, and ``"sum"``
is ``normalize=False``. ``SymmetricKLLoss`` adds the divergences of both directions: no Jensen-Shannon divergence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from typing import Any

import torch
from torchtune.modules import loss as losses

from conformance.implementations.torch import TorchTensors
from conformance.record import Case, Implementation, UnsupportedError


class Torchtune(TorchTensors):
    """A module of ``torchtune.modules.loss``."""

    losses = False
    divergences = True

    def __init__(self, name: str, options: Mapping[float, Mapping[str, float]]) -> None:
        super().__init__(f"torchtune.modules.loss.{name}", "torchtune")
        self.module = getattr(losses, name)
        self.options = options
        """Options of the module for each ``beta`` that it has."""

    def version(self) -> str:
        """Version of torchtune."""
        return version("torchtune")

    def loss(self, case: Case) -> Callable[[Any, Any], torch.Tensor]:
        """The module, over rows."""
        options = case.logits
        assert options is not None
        if options.beta not in self.options:
            raise UnsupportedError("the module computes another divergence")
        if case.reduction not in ("mean", "sum"):
            raise UnsupportedError("the module has only the sum, and the mean over the rows that count")
        module = self.module(**self.options[options.beta])
        labels = torch.where(torch.tensor(case.counts), 0, -100).reshape(-1)

        def loss(input: Any, target: Any) -> torch.Tensor:
            x, y = (torch.movedim(z, options.axis, -1).reshape(-1, z.shape[options.axis]) for z in (input, target))
            value: torch.Tensor = module(
                x / options.temperature, y / options.temperature, labels, normalize=case.reduction == "mean"
            )
            return value

        return loss


def implementations() -> Iterator[Implementation]:
    """Both directions, and their weighted sum."""
    yield Torchtune("ForwardKLLoss", {0.0: {}})
    yield Torchtune("ReverseKLLoss", {1.0: {}})
    yield Torchtune("SymmetricKLLoss", {0.0: {"sym_kd_ratio": 1.0}, 1.0: {"sym_kd_ratio": 0.0}})
