"""``paddle.nn.functional.kl_div`` on the CPU: an environment with ``paddlepaddle``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import paddle

from conformance.record import Case, Implementation, Operand, Outcome, Result, UnsupportedError, as_result

# A defect to act on, and not a lack: ``.grad`` stays None, and a model behind the label is not trained.
_NAMES = {"input": "input", "target": "label"}


class Paddle(Implementation):
    """``paddle.nn.functional.kl_div``."""

    def __init__(self) -> None:
        super().__init__("paddle.nn.functional.kl_div", "paddle")
        paddle.set_device("cpu")

    def version(self) -> str:
        """Version of PaddlePaddle."""
        return str(paddle.__version__)

    def compute(self, case: Case) -> Outcome:
        """Loss and its gradients by autograd."""
        try:
            return _compute(case)
        except RuntimeError as error:
            if "is not registered" in str(error) and case.group != "refused":
                raise UnsupportedError(f"Paddle has no kernel for {case.input.dtype} on the CPU") from None
            raise


def _compute(case: Case) -> Outcome:
    arguments = {
        name: _given(operand, requires_grad=name in case.gradients)
        for name, operand in (("input", case.input), ("target", case.target))
    }
    loss = paddle.nn.functional.kl_div(*arguments.values(), reduction=case.reduction, log_target=case.log_target)
    if not case.gradients:
        return Outcome(_result(loss))
    loss.backward(paddle.ones_like(loss))
    gradients = {name: arguments[name].grad for name in case.gradients}
    missing = [name for name, gradient in gradients.items() if gradient is None]
    return Outcome(
        _result(loss),
        {name: _result(gradient) for name, gradient in gradients.items() if gradient is not None},
        unsupported=f"Paddle gives no gradient by the {_NAMES[missing[0]]}, and no error" if missing else None,
    )


def _given(operand: Operand, requires_grad: bool) -> Any:
    """Operand as a tensor; an object as it is."""
    if not operand.is_array:
        return operand.values
    return paddle.to_tensor(operand.values, dtype=operand.dtype, stop_gradient=not requires_grad)


def _result(tensor: Any) -> Result:
    as_numpy = tensor.astype("float32") if tensor.dtype == paddle.bfloat16 else tensor
    return as_result(np.asarray(as_numpy.detach().numpy()), tensor.dtype)


def implementations() -> Iterator[Implementation]:
    """The one function."""
    yield Paddle()
