"""``kldiv_xp`` on PyTorch, with its gradients by ``torch.func``."""

from collections.abc import Iterator

import torch

from conformance.implementations.kldiv_xp.torch import KLDivXP
from conformance.implementations.torch import as_outcome
from conformance.record import Case, Implementation, Outcome


class TorchFunc(KLDivXP):
    """``torch.func.vjp`` of the module."""

    gradients_by = "torch.func.vjp"

    def __init__(self, convention: str) -> None:
        super().__init__(convention, compiled=False, device="cpu")
        self.name = "kldiv_xp torch.func"

    def compute(self, case: Case) -> Outcome:
        """Loss and its gradients, of functions of tensors that require none."""
        arguments = (self.given(operand, requires_grad=False) for operand in (case.input, case.target))
        if not case.gradients:
            return as_outcome(self.loss(case)(*arguments), {})
        loss, pullback, *_ = torch.func.vjp(self.loss(case), *arguments)
        return as_outcome(loss, dict(zip(("input", "target"), pullback(torch.ones_like(loss)), strict=True)))


def implementations(convention: str) -> Iterator[Implementation]:
    """Eager, on the CPU."""
    yield TorchFunc(convention)
