"""``torch.nn.KLDivLoss``: of PyTorch 2.13.0 it is the reference; ``make torch-1.10`` records the one of 1.10.2."""

from __future__ import annotations

import warnings
from typing import Any, Callable, Iterator

import torch

from conformance.record import Case, Implementation, Operand, Outcome, Result, UnsupportedError, as_result


class TorchTensors(Implementation):
    """Something that computes the loss of two tensors, with its gradients by autograd."""

    def __init__(self, name: str, *, device: str, convention: str | None = None, compiled: bool = False) -> None:
        name = name if device == "cpu" else f"{name} {device}"
        super().__init__(name, "torch", convention=convention, device=device, compiled=compiled)

    def version(self) -> str:
        """Version of PyTorch, whatever it was built for."""
        return str(torch.__version__).partition("+")[0]

    def not_run(self) -> str | None:
        """Reason if there is no such device."""
        return "no CUDA device" if self.device == "cuda" and not torch.cuda.is_available() else None

    def given(self, operand: Operand, requires_grad: bool) -> Any:
        """Operand as a tensor; an object as it is."""
        if not operand.is_array:
            return operand.values
        tensor = torch.tensor(operand.values).to(device=self.device, dtype=getattr(torch, str(operand.dtype)))
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
            try:
                loss = self.loss(case)(*arguments.values())
            except RuntimeError as error:
                raise UnsupportedError(_no_kernel(error, case)) from None
            try:
                if case.gradients:
                    torch.autograd.backward(loss, torch.ones_like(loss))
            except RuntimeError as error:
                return Outcome(_result(loss), unsupported=_no_kernel(error, case))
        return as_outcome(loss, {name: arguments[name].grad for name in case.gradients})


def as_outcome(loss: Any, gradients: dict[str, Any]) -> Outcome:
    """Outcome of tensors."""
    return Outcome(_result(loss), {name: _result(gradient) for name, gradient in gradients.items()})


def _no_kernel(error: RuntimeError, case: Case) -> str:
    """Message of an error which says that PyTorch cannot compute in a floating dtype; another error goes on."""
    if "not implemented for" not in str(error) or case.group == "refused":
        raise error
    return f"PyTorch {torch.__version__.partition('+')[0]}: {error}"


class TorchNN(TorchTensors):
    """``torch.nn.KLDivLoss``."""

    def __init__(self, device: str = "cpu") -> None:
        super().__init__("torch.nn.KLDivLoss", device=device)

    def loss(self, case: Case) -> Callable[[Any, Any], torch.Tensor]:
        """PyTorch's own module."""
        return torch.nn.KLDivLoss(reduction=case.reduction, log_target=case.log_target)


def _result(tensor: Any) -> Result:
    tensor = tensor.detach().cpu()
    as_numpy = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
    return as_result(as_numpy.numpy(), tensor.dtype)


def implementations() -> Iterator[Implementation]:
    """The module on each kind of device."""
    yield TorchNN()
    yield TorchNN("cuda")
