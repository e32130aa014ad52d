"""``mindspore.ops.kl_div`` on the CPU, which ``mindspore.nn.KLDivLoss`` calls: an environment with ``mindspore``.

It takes probabilities as targets. The function that takes log-probabilities, ``mindspore.mint.nn.functional.kl_div``,
has no kernel for the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mindspore

from conformance.record import Case, Implementation, Operand, Outcome, Result, UnsupportedError, as_result


class MindSpore(Implementation):
    """``mindspore.ops.kl_div``, eager."""

    def __init__(self) -> None:
        super().__init__("mindspore.ops.kl_div", "mindspore")
        mindspore.set_device("CPU")

    def version(self) -> str:
        """Version of MindSpore."""
        return str(mindspore.__version__)

    def compute(self, case: Case) -> Outcome:
        """Loss and its gradients by ``mindspore.grad``."""
        if case.log_target:
            raise UnsupportedError("the targets of this function are probabilities")
        arguments = _given(case.input), _given(case.target)

        def loss(input: Any, target: Any) -> Any:
            return mindspore.ops.kl_div(input, target, case.reduction)

        value = loss(*arguments)
        if not case.gradients:
            return Outcome(_result(value))
        gradients = mindspore.grad(lambda *both: loss(*both).sum(), grad_position=(0, 1))(*arguments)
        by = dict(zip(("input", "target"), gradients, strict=True))
        return Outcome(_result(value), {name: _result(by[name]) for name in case.gradients})


def _given(operand: Operand) -> Any:
    """Operand as a tensor; an object as it is."""
    if not operand.is_array:
        return operand.values
    if operand.dtype == "bfloat16":
        raise UnsupportedError("the function does not take bfloat16")
    return mindspore.Tensor(operand.values)


def _result(tensor: Any) -> Result:
    return as_result(tensor.asnumpy(), str(tensor.dtype).lower())  # MindSpore says Float32


def implementations() -> Iterator[Implementation]:
    """The one function."""
    yield MindSpore()
