"""``torch.nn.KLDivLoss``, the reference, and ``kldiv_xp`` on PyTorch, eager and compiled."""

import shutil
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch._dynamo

from conformance.corpus import Case, Operand
from conformance.implementation import Implementation, Outcome, Result, as_result
from kldiv_xp.torch import KLDivLoss


class _Torch(Implementation):
    """Something that computes the loss of two tensors, with its gradients by autograd."""

    def __init__(self, name: str, convention: str | None, device: str) -> None:
        super().__init__(name if device == "cpu" else f"{name} {device}", convention)
        self.device = device

    def version(self) -> str:
        """Version of PyTorch."""
        return f"torch {torch.__version__}"

    def not_run(self) -> str | None:
        """Reason if there is no such device."""
        return "no CUDA device" if self.device == "cuda" and not torch.cuda.is_available() else None

    def given(self, operand: Operand, *, requires_grad: bool) -> Any:
        """Operand as a tensor; an object as it is."""
        if not operand.is_array:
            return operand.values
        dtype = getattr(torch, str(operand.dtype))
        tensor = torch.tensor(operand.values).to(device=self.device, dtype=dtype)
        return tensor.requires_grad_(requires_grad)

    def loss(self, case: Case) -> Callable[[Any, Any], torch.Tensor]:
        """Loss function with the options of the case."""
        raise NotImplementedError

    def compute(self, case: Case) -> Outcome:
        """Loss and its gradients by autograd."""
        arguments = {
            name: self.given(operand, requires_grad=name in case.gradients)
            for name, operand in (("input", case.input), ("target", case.target))
        }
        with warnings.catch_warnings():
            # PyTorch warns of broadcast shapes and of "mean"; both are for the verdict to tell.
            warnings.simplefilter("ignore")
            loss = self.loss(case)(*arguments.values())
            if case.gradients:
                torch.autograd.backward(loss, torch.ones_like(loss))
        return Outcome(_result(loss), {name: _result(arguments[name].grad) for name in case.gradients})


class TorchNN(_Torch):
    """``torch.nn.KLDivLoss``."""

    def __init__(self, device: str = "cpu") -> None:
        super().__init__("torch.nn.KLDivLoss", None, device)

    def loss(self, case: Case) -> Callable[[Any, Any], torch.Tensor]:
        """PyTorch's own module."""
        return torch.nn.KLDivLoss(reduction=case.reduction, log_target=case.log_target)


class KLDivXP(_Torch):
    """``kldiv_xp.torch.KLDivLoss``, eager or compiled."""

    def __init__(self, convention: str, *, compile: bool, device: str) -> None:
        super().__init__(f"kldiv_xp {'torch.compile' if compile else 'torch'}", convention, device)
        self.compile = compile

    def not_run(self) -> str | None:
        """Reason if there is no device, or no compiler where one is needed."""
        if self.compile and shutil.which("g++") is None and shutil.which("clang++") is None:
            return "no C++ compiler, which torch.compile needs"
        return super().not_run()

    def left_out(self, case: Case) -> str | None:
        """Leave out what would need a compilation for a case or two: each takes seconds."""
        if self.compile and case.group in ("random", "close", "real") and not _worth_compiling(case):
            return "one compilation a case, of seconds each; run with --all"
        return None

    def loss(self, case: Case) -> Callable[[Any, Any], torch.Tensor]:
        """Our module, compiled into one graph where asked for."""
        fullgraph = case.group != "refused"  # an error breaks the graph, so that it reaches the caller as it is
        return _module(case.reduction, case.log_target, str(self.convention), self.compile, fullgraph)


@cache
def _module(
    reduction: Any, log_target: bool, convention: Any, compile: bool, fullgraph: bool
) -> Callable[[Any, Any], torch.Tensor]:
    loss = KLDivLoss(reduction, log_target, convention=convention)
    # One graph for each shape and dtype of the corpus: more than a program has, so that the limit has to go.
    torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = 2**16
    return torch.compile(loss, fullgraph=fullgraph, dynamic=False) if compile else loss


def _worth_compiling(case: Case) -> bool:
    return case.reduction in ("none", "batchmean") and "temperature-0.25/float" in case.id


def _result(tensor: Any) -> Result:
    tensor = tensor.detach().cpu()
    as_numpy = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
    return as_result(as_numpy.numpy(), tensor.dtype)
