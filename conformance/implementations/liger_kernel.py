"""``LigerJSD`` of Liger Kernel, whose Triton kernels run in Triton's interpreter on the CPU.

It takes ``log_softmax`` of both logits over the temperature, in flattened rows, and gives the mean over the rows whose
label is not -100. The teacher has no gradient.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"

import torch
from liger_kernel.transformers import LigerJSD

from conformance.implementations.torch import OfStudent
from conformance.record import Case, Implementation, UnsupportedError


class Liger(OfStudent):
    """The module of the Jensen-Shannon divergence, which has both other divergences."""

    losses = False
    divergences = True

    def __init__(self) -> None:
        super().__init__("liger_kernel.transformers.LigerJSD interpreted", "liger_kernel")

    def version(self) -> str:
        """Version of Liger Kernel."""
        return version("liger-kernel")

    def loss(self, case: Case) -> Callable[[Any, Any], torch.Tensor]:
        """The module, over rows."""
        options = case.logits
        assert options is not None
        if case.reduction != "mean":
            raise UnsupportedError("the module has only the mean over the rows that count")
        labels = torch.where(torch.tensor(case.counts), 0, -100).reshape(-1)

        def loss(input: Any, target: Any) -> torch.Tensor:
            pair = (torch.movedim(z, options.axis, -1).reshape(-1, z.shape[options.axis]) for z in (input, target))
            log_q, log_p = (torch.log_softmax(z / options.temperature, -1) for z in pair)
            value: torch.Tensor = LigerJSD(options.beta)(log_q, log_p, labels)
            return value

        return loss


def implementations() -> Iterator[Implementation]:
    """The implementations of this file."""
    yield Liger()
