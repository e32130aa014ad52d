"""``torch.nn.KLDivLoss``: that of PyTorch 2.13.0 is the reference; ``make torch-1.10`` records that of 1.10.2."""

from __future__ import annotations

import warnings
from typing import Any, Callable, Iterator, Mapping, Sequence

import torch

from conformance.record import (
    NO_NEGATIVE_STRIDES,
    Case,
    Implementation,
    Operand,
    Result,
    Taped,
    UnsupportedError,
    as_result,
    storage,
)


class TorchTensors(Taped):
    """Base of the adapters of losses of two tensors, with gradients by autograd."""

    layouts = NO_NEGATIVE_STRIDES

    def __init__(
        self,
        name: str,
        library: str = "torch",
        *,
        device: str = "cpu",
        convention: str | None = None,
        compiled: bool = False,
    ) -> None:
        name = name if device == "cpu" else f"{name} {device}"
        super().__init__(name, library, convention=convention, device=device, compiled=compiled)

    def version(self) -> str:
        """Version of PyTorch."""
        return _version()

    def not_run(self) -> str | None:
        """Reason if there is no such device."""
        return "no CUDA device" if self.device == "cuda" and not torch.cuda.is_available() else None

    def given(self, operand: Operand) -> Any:
        """Operand as a tensor; Python objects unchanged."""
        if not operand.is_array:
            return operand.values
        values = operand.laid_out()
        memory, strides, offset = storage(values)
        whole = torch.tensor(memory).to(device=self.device, dtype=getattr(torch, str(operand.dtype)))
        return whole.as_strided(values.shape, strides, offset)

    def result(self, array: Any) -> Result:
        """Values of a tensor."""
        tensor = array.detach().cpu()
        as_numpy = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
        return as_result(as_numpy.numpy(), tensor.dtype)

    def tracked(self, array: Any) -> Any:
        """The tensor itself."""
        return array.requires_grad_() if isinstance(array, torch.Tensor) else array

    def gradients(self, loss: Any, arrays: Sequence[Any], cotangent: Any, *, again: bool) -> Sequence[Any]:
        """Gradients by autograd."""
        cotangent = torch.ones_like(loss) if cotangent is None else cotangent
        return torch.autograd.grad(loss, arrays, cotangent, retain_graph=again)

    def overwrite(self, array: Any) -> None:
        """Double the elements of a tensor."""
        array.mul_(2)

    def called(self, case: Case, input: Any, target: Any, cotangent: Any) -> tuple[Any, Mapping[str, Any]]:
        """Loss and gradients of the call that the case describes."""
        with warnings.catch_warnings():
            # PyTorch warns about broadcast shapes and about "mean"; the verdicts show both.
            warnings.simplefilter("ignore")
            try:
                return super().called(case, input, target, cotangent)
            except RuntimeError as error:
                if "not implemented for" not in str(error) or case.group == "refused":
                    raise
                loss = self._without_gradients(case, input, target)
                raise UnsupportedError(f"PyTorch {_version()}: {error}", loss) from None

    def _without_gradients(self, case: Case, input: Any, target: Any) -> Any:
        """The loss, if PyTorch has a kernel for it."""
        try:
            return self.loss(case)(input, target)
        except RuntimeError:
            return None


class OfStudent(TorchTensors):
    """Base of the adapters of losses with gradients by the student alone."""

    def gradients(self, loss: Any, arrays: Sequence[Any], cotangent: Any, *, again: bool) -> Sequence[Any]:
        """Gradients by autograd; ``None`` by the teacher."""
        cotangent = torch.ones_like(loss) if cotangent is None else cotangent
        return torch.autograd.grad(loss, arrays, cotangent, retain_graph=again, allow_unused=True)


class TorchNN(TorchTensors):
    """``torch.nn.KLDivLoss``."""

    def __init__(self, device: str = "cpu") -> None:
        super().__init__("torch.nn.KLDivLoss", device=device)

    def loss(self, case: Case) -> Callable[[Any, Any], torch.Tensor]:
        """PyTorch's own module."""
        return torch.nn.KLDivLoss(reduction=case.reduction, log_target=case.log_target)


def _version() -> str:
    """Version of PyTorch, without its build tag."""
    return str(torch.__version__).partition("+")[0]


def implementations() -> Iterator[Implementation]:
    """The module on each kind of device."""
    yield TorchNN()
    yield TorchNN("cuda")
