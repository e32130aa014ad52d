"""``kldiv_xp`` on PyTorch, with its gradients by ``torch.func``."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from conformance.implementations.kldiv_xp import CONVENTIONS
from conformance.implementations.kldiv_xp.sample import left_out_off_the_edges
from conformance.implementations.kldiv_xp.torch import KLDivXP
from conformance.record import Case, Implementation


class TorchFunc(KLDivXP):
    """``torch.func.vjp`` of the module."""

    gradients_by = "torch.func.vjp"
    calls = ("in a graph", "backward twice")

    def __init__(self, convention: str) -> None:
        super().__init__(convention, compiled=False, device="cpu")
        self.name = "kldiv_xp torch.func"

    def left_out(self, case: Case) -> str | None:
        """Run each convention at the edges, and one everywhere."""
        return left_out_off_the_edges(case, self.convention)

    def called(self, case: Case, input: Any, target: Any, cotangent: Any) -> tuple[Any, Mapping[str, Any]]:
        """Loss and its gradients, of functions of tensors that require none."""
        return Implementation.called(self, case, input, target, cotangent)

    def evaluate(self, case: Case, input: Any, target: Any, cotangent: Any) -> tuple[Any, Mapping[str, Any]]:
        """Loss and its gradients by ``torch.func.vjp``."""
        function, arguments = self.loss(case), {"input": input, "target": target}
        if not case.gradients:
            refused = case.group == "refused"
            return function(input, target) if refused else torch.func.vjp(lambda x: function(x, target), input)[0], {}

        def of_wanted(*wanted: Any) -> torch.Tensor:
            if case.call == "in a graph":
                wanted = tuple(tensor * 1 for tensor in wanted)
            loss = function(*(arguments | dict(zip(case.gradients, wanted, strict=True))).values())
            return loss * cotangent if case.call == "in a graph" else loss

        loss, pullback, *_ = torch.func.vjp(of_wanted, *(arguments[name] for name in case.gradients))
        weight = torch.ones_like(loss) if cotangent is None or case.call == "in a graph" else cotangent
        if case.call == "backward twice":
            pullback(weight, retain_graph=True)
        gradients = dict(zip(case.gradients, pullback(weight), strict=True))
        return function(input, target) if case.call == "in a graph" else loss, gradients


def implementations() -> Iterator[Implementation]:
    """Eager, on the CPU."""
    for convention in CONVENTIONS:
        yield TorchFunc(convention)
