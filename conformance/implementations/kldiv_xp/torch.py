"""``kldiv_xp`` on PyTorch, eager and compiled."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import torch
import torch._dynamo

from conformance.implementations.kldiv_xp import CONVENTIONS, divergence_of
from conformance.implementations.kldiv_xp.sample import ON_GPU, left_out_of_sample
from conformance.implementations.torch import TorchTensors
from conformance.record import Case, Implementation, Operand
from kldiv_xp import JSDivWithLogitsLoss
from kldiv_xp.torch import JSDivWithLogitsLoss as JSDivModule
from kldiv_xp.torch import KLDivLoss


class KLDivXP(TorchTensors):
    """``kldiv_xp.torch.KLDivLoss``, eager or compiled."""

    gradients_by = "autograd"
    divergences = True

    def __init__(self, convention: str, *, compiled: bool, device: str) -> None:
        name = f"kldiv_xp {'torch.compile' if compiled else 'torch'}"
        super().__init__(name, device=device, convention=convention, compiled=compiled)

    @property
    def contracts(self) -> bool:  # type: ignore[override]
        """Whether the compiler fuses a product and a difference."""
        return self.compiled and self.not_run() is None and _contracts(self.device)

    def not_run(self) -> str | None:
        """Reason if there is no device, or no compiler where one is needed."""
        if self.compiled and shutil.which("g++") is None and shutil.which("clang++") is None:
            return "no C++ compiler, which torch.compile needs"
        return super().not_run()

    def left_out(self, case: Case) -> str | None:
        """Skip shapes with few cases, each of which takes seconds to compile; the edge cases share theirs."""
        if self.compiled and case.group in ("random", "close", "found"):
            return "one compilation a case, of seconds each; run with --all"
        if self.compiled and case.group != "edge" and self.convention != CONVENTIONS[0]:
            return "one compilation a case, of seconds each; run with --all"
        if self.compiled:
            return None if case.group == "edge" else left_out_of_sample(case, 1000, self.convention)
        return left_out_of_sample(case, ON_GPU, self.convention) if self.device == "cuda" else None

    def called(self, case: Case, input: Any, target: Any, cotangent: Any) -> tuple[Any, Mapping[str, Any]]:
        """Loss and its gradients by autograd."""
        try:
            return super().called(case, input, target, cotangent)
        finally:
            if self.compiled and case.group == "refused":
                torch.compiler.reset()  # otherwise PyTorch does not compile again after an error

    def loss(self, case: Case) -> Callable[[Any, Any], torch.Tensor]:
        """Our module, compiled into one graph if the implementation is compiled."""
        if case.logits is not None:
            return self._divergence(case)
        fullgraph = case.group != "refused"  # an error breaks the graph, and so reaches the caller unchanged
        return _module(case.reduction, case.log_target, str(self.convention), self.compiled, fullgraph)

    def _divergence(self, case: Case) -> Callable[[Any, Any], torch.Tensor]:
        where = case.logits.where if case.logits else None
        module = _divergence_module(divergence_of(case), self.compiled)
        return lambda x, y: module(x, y, None if where is None else self.mask(where))

    def mask(self, where: Operand) -> torch.Tensor:
        """Mask of the rows, of the kind of the arguments."""
        mask: torch.Tensor = self.given(where)
        return mask


@cache
def _divergence_module(loss: JSDivWithLogitsLoss, compiled: bool) -> Callable[..., torch.Tensor]:
    module = JSDivModule(loss.beta, loss.reduction, temperature=loss.temperature, axis=loss.axis)
    torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = 2**16
    return torch.compile(module, fullgraph=True, dynamic=False) if compiled else module


@cache
def _contracts(device: str) -> bool:
    # The square is 1 + 2**-11 + 2**-24, whose last term is lost if the product is rounded by itself.
    factor, rounded = torch.tensor([1 + 2**-12, 1 + 2**-11], device=device)
    compiled = torch.compile(lambda a, b: a * a - b)
    return bool(compiled(factor, rounded) != 0)


@cache
def _module(
    reduction: Any, log_target: bool, convention: Any, compiled: bool, fullgraph: bool
) -> Callable[[Any, Any], torch.Tensor]:
    loss = KLDivLoss(reduction=reduction, log_target=log_target, convention=convention)
    # The corpus needs a graph for each shape and dtype, which exceeds the default limit.
    torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = 2**16
    return torch.compile(loss, fullgraph=fullgraph, dynamic=False) if compiled else loss


def implementations() -> Iterator[Implementation]:
    """Eager and compiled, on each kind of device."""
    for convention in CONVENTIONS:
        for device in ("cpu", "cuda"):
            yield KLDivXP(convention, compiled=False, device=device)
            yield KLDivXP(convention, compiled=True, device=device)
