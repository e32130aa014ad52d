"""OneFlow's module and its function, for Python 3.7 to 3.10: ``make oneflow`` builds the environment."""

from __future__ import annotations

import ctypes
import site
from pathlib import Path
from typing import Any, Iterator

import numpy as np

from conformance.record import Case, Implementation, Operand, Outcome, Result, UnsupportedError, as_result

# The wheel of OneFlow 0.9.0 is linked against these, and finds them only if they are loaded already.
for _package in ("cublas", "cudnn"):
    for _library in sorted(Path(site.getsitepackages()[0]).glob(f"nvidia/{_package}/lib/*.so.*")):
        ctypes.CDLL(str(_library), mode=ctypes.RTLD_GLOBAL)

import oneflow  # noqa: E402
import oneflow.nn.functional  # noqa: E402


class OneFlow(Implementation):
    """``oneflow.nn.KLDivLoss`` or ``oneflow.nn.functional.kl_div``, with gradients by autograd."""

    def __init__(self, name: str) -> None:
        super().__init__(f"oneflow.nn.{name}", "oneflow")

    def version(self) -> str:
        """Version of OneFlow."""
        return str(oneflow.__version__)

    def given(self, operand: Operand, requires_grad: bool) -> Any:
        """Operand as a tensor; an object as it is."""
        if not operand.is_array:
            return operand.values
        if not hasattr(oneflow, str(operand.dtype)):
            raise UnsupportedError(f"OneFlow has no {operand.dtype}")
        tensor = oneflow.tensor(operand.values, dtype=getattr(oneflow, str(operand.dtype)))
        return tensor.requires_grad_(requires_grad)

    def compute(self, case: Case) -> Outcome:
        """Loss and its gradients by autograd."""
        try:
            return self._compute(case)
        except RuntimeError as error:
            if "Cannot find the kernel" in str(error):
                raise UnsupportedError(f"OneFlow has no kernel for {case.target.dtype} on the CPU") from None
            raise

    def _compute(self, case: Case) -> Outcome:
        input = self.given(case.input, "input" in case.gradients)
        target = self.given(case.target, "target" in case.gradients)
        options = {"reduction": case.reduction, "log_target": case.log_target}
        if self.name.endswith("KLDivLoss"):
            loss = oneflow.nn.KLDivLoss(**options)(input, target)
        else:
            loss = oneflow.nn.functional.kl_div(input, target, **options)
        if case.gradients:
            loss.sum().backward()
        gradients = {"input": input, "target": target}
        return Outcome(_result(loss), {name: _result(gradients[name].grad) for name in case.gradients})


def _result(tensor: Any) -> Result:
    return as_result(np.asarray(tensor.detach().numpy()), tensor.dtype)


def implementations() -> Iterator[Implementation]:
    """The module and the function."""
    yield OneFlow("KLDivLoss")
    yield OneFlow("functional.kl_div")
