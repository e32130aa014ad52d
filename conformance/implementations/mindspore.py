"""``mindspore.ops.kl_div`` on the CPU, which ``mindspore.nn.KLDivLoss`` calls: an environment with ``mindspore``.

It takes probabilities as targets. The function that takes log-probabilities, ``mindspore.mint.nn.functional.kl_div``,
has no kernel for the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import mindspore

from conformance.record import Case, Implementation, Operand, Result, UnsupportedError, as_result


class MindSpore(Implementation):
    """``mindspore.ops.kl_div``, eager."""

    def __init__(self) -> None:
        super().__init__("mindspore.ops.kl_div", "mindspore")
        mindspore.set_device("CPU")

    def version(self) -> str:
        """Version of MindSpore."""
        return str(mindspore.__version__)

    def given(self, operand: Operand) -> Any:
        """Operand as a tensor; Python objects unchanged."""
        if not operand.is_array:
            return operand.values
        if operand.dtype == "bfloat16":
            raise UnsupportedError("the function does not take bfloat16")
        return mindspore.Tensor(operand.values)

    def result(self, array: Any) -> Result:
        """Values of a tensor."""
        return as_result(array.asnumpy(), str(array.dtype).lower())  # MindSpore says Float32

    def evaluate(self, case: Case, input: Any, target: Any, cotangent: Any) -> tuple[Any, Mapping[str, Any]]:
        """Loss and its gradients by ``mindspore.grad``."""
        if case.log_target:
            raise UnsupportedError("the targets of this function are probabilities")

        def loss(input: Any, target: Any) -> Any:
            return mindspore.ops.kl_div(input, target, case.reduction)

        def weighted(input: Any, target: Any) -> Any:
            value = loss(input, target)
            return (value if cotangent is None else value * cotangent).sum()

        if not case.gradients:
            return loss(input, target), {}
        if input is target:  # for either argument, MindSpore returns the gradient by the shared tensor
            by_both = mindspore.grad(lambda both: weighted(both, both))(input)
            return loss(input, target), {"input": by_both, "target": mindspore.ops.zeros_like(by_both)}
        gradients = mindspore.grad(weighted, grad_position=(0, 1))(input, target)
        by = dict(zip(("input", "target"), gradients, strict=True))
        return loss(input, target), {name: by[name] for name in case.gradients}


def implementations() -> Iterator[Implementation]:
    """The implementations of this file."""
    yield MindSpore()
