"""OneFlow's module and its function, for Python 3.7 to 3.10: ``make oneflow`` builds the environment."""

from __future__ import annotations

import ctypes
import site
from functools import partial
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping, Sequence

import numpy as np

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

# The wheel of OneFlow 0.9.0 is linked against these, and finds them only if they are loaded already.
for _package in ("cublas", "cudnn"):
    for _library in sorted(Path(site.getsitepackages()[0]).glob(f"nvidia/{_package}/lib/*.so.*")):
        ctypes.CDLL(str(_library), mode=ctypes.RTLD_GLOBAL)

import oneflow  # noqa: E402
import oneflow.nn.functional  # noqa: E402


class OneFlow(Taped):
    """``oneflow.nn.KLDivLoss`` or ``oneflow.nn.functional.kl_div``, with gradients by autograd."""

    layouts = NO_NEGATIVE_STRIDES

    def __init__(self, name: str) -> None:
        super().__init__(f"oneflow.nn.{name}", "oneflow")

    def version(self) -> str:
        """Version of OneFlow."""
        return str(oneflow.__version__)

    def given(self, operand: Operand) -> Any:
        """Operand as a tensor; Python objects unchanged."""
        if not operand.is_array:
            return operand.values
        if not hasattr(oneflow, str(operand.dtype)):
            raise UnsupportedError(f"OneFlow has no {operand.dtype}")
        dtype, values = getattr(oneflow, str(operand.dtype)), operand.laid_out()
        if operand.layout == "contiguous":
            return oneflow.tensor(values, dtype=dtype)
        memory, strides, offset = storage(values)
        whole = oneflow.tensor(memory, dtype=dtype)
        return oneflow.as_strided(whole, list(values.shape), list(strides), offset).detach()

    def result(self, array: Any) -> Result:
        """Values of a tensor."""
        return as_result(np.asarray(array.detach().numpy()), array.dtype)

    def tracked(self, array: Any) -> Any:
        """The tensor itself."""
        return array.requires_grad_() if isinstance(array, oneflow.Tensor) else array

    def loss(self, case: Case) -> Callable[[Any, Any], Any]:
        """The module, or the function."""
        options = {"reduction": case.reduction, "log_target": case.log_target}
        if self.name.endswith("KLDivLoss"):
            module: Callable[[Any, Any], Any] = oneflow.nn.KLDivLoss(**options)
            return module
        return partial(oneflow.nn.functional.kl_div, **options)

    def gradients(self, loss: Any, arrays: Sequence[Any], cotangent: Any, *, again: bool) -> Sequence[Any]:
        """Gradients by autograd."""
        cotangent = oneflow.ones_like(loss) if cotangent is None else cotangent
        gradients: Sequence[Any] = oneflow.autograd.grad(loss, arrays, cotangent, retain_graph=again)
        return gradients

    def overwrite(self, array: Any) -> None:
        """Double the elements of a tensor."""
        array.mul_(2)

    def called(self, case: Case, input: Any, target: Any, cotangent: Any) -> tuple[Any, Mapping[str, Any]]:
        """Loss and gradients of the call that the case describes."""
        try:
            return super().called(case, input, target, cotangent)
        except RuntimeError as error:
            if "Cannot find the kernel" in str(error):
                raise UnsupportedError(f"OneFlow has no kernel for {case.target.dtype} on the CPU") from None
            raise


def implementations() -> Iterator[Implementation]:
    """The module and the function."""
    yield OneFlow("KLDivLoss")
    yield OneFlow("functional.kl_div")
