"""``kldiv_xp`` as a program that ``torch.export`` made of it."""

from collections.abc import Callable, Iterator
from typing import Any

import torch

from conformance.implementations.kldiv_xp import CONVENTIONS
from conformance.implementations.kldiv_xp.sample import left_out_of_sample
from conformance.implementations.kldiv_xp.torch import KLDivXP
from conformance.record import Case, Implementation


class _Module(torch.nn.Module):
    """A function of two tensors."""

    def __init__(self, function: Callable[[Any, Any], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, input: Any, target: Any) -> torch.Tensor:
        """Result of the function."""
        return self.function(input, target)


class TorchExport(KLDivXP):
    """The module, exported for the shapes and dtypes of the case, and then run."""

    slow_to_start = True

    def __init__(self, convention: str) -> None:
        super().__init__(convention, compiled=False, device="cpu")
        self.name = "kldiv_xp torch.export"

    def left_out(self, case: Case) -> str | None:
        """Run a sample: each case is exported."""
        return left_out_of_sample(case, 24, self.convention)

    def loss(self, case: Case) -> Callable[[Any, Any], torch.Tensor]:
        """The exported program; exporting raises the errors of the loss itself."""
        loss: Any = _Module(super().loss(case))

        def exported(x: Any, y: Any) -> torch.Tensor:
            result: torch.Tensor = torch.export.export(loss, (x, y), strict=False).module()(x, y)
            return result

        return exported


def implementations() -> Iterator[Implementation]:
    """On the CPU."""
    for convention in CONVENTIONS:
        yield TorchExport(convention)
