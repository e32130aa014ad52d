"""``kldiv_xp`` on PyTorch, with its gradients by ``torch.func``."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from conformance.implementations.kldiv_xp.torch import KLDivXP
from conformance.record import Case, Implementation, UnsupportedError


class TorchFunc(KLDivXP):
    """``torch.func.vjp`` of the module."""

    gradients_by = "torch.func.vjp"

    def __init__(self, convention: str) -> None:
        super().__init__(convention, compiled=False, device="cpu")
        self.name = "kldiv_xp torch.func"

    def called(self, case: Case, input: Any, target: Any, cotangent: Any) -> tuple[Any, Mapping[str, Any]]:
        """Loss and its gradients, of functions of tensors that require none."""
        function, arguments = self.loss(case), {"input": input, "target": target}
        if case.call not in ("once", "backward twice"):
            raise UnsupportedError("torch.func differentiates functions, which are called once")
        if not case.gradients:
            return function(input, target), {}

        def of_wanted(*wanted: Any) -> torch.Tensor:
            return function(*(arguments | dict(zip(case.gradients, wanted, strict=True))).values())

        loss, pullback, *_ = torch.func.vjp(of_wanted, *(arguments[name] for name in case.gradients))
        cotangent = torch.ones_like(loss) if cotangent is None else cotangent
        if case.call == "backward twice":
            pullback(cotangent, retain_graph=True)
        return loss, dict(zip(case.gradients, pullback(cotangent), strict=True))


def implementations(convention: str) -> Iterator[Implementation]:
    """Eager, on the CPU."""
    yield TorchFunc(convention)
