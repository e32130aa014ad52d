"""``paddle.nn.functional.kl_div`` on the CPU: an environment with ``paddlepaddle``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import paddle

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


class Paddle(Taped):
    """``paddle.nn.functional.kl_div``."""

    layouts = NO_NEGATIVE_STRIDES

    def __init__(self) -> None:
        super().__init__("paddle.nn.functional.kl_div", "paddle")
        paddle.set_device("cpu")

    def version(self) -> str:
        """Version of PaddlePaddle."""
        return str(paddle.__version__)

    def given(self, operand: Operand) -> Any:
        """Operand as a tensor; Python objects unchanged."""
        if not operand.is_array:
            return operand.values
        values = operand.laid_out()
        if operand.layout == "contiguous":
            return paddle.to_tensor(values, dtype=operand.dtype)
        memory, strides, offset = storage(values)
        whole = paddle.to_tensor(memory, dtype=operand.dtype)
        size = whole.element_size()
        return paddle.as_strided(whole, list(values.shape), list(strides), offset * size)

    def result(self, array: Any) -> Result:
        """Values of a tensor."""
        as_numpy = array.astype("float32") if array.dtype == paddle.bfloat16 else array
        return as_result(np.asarray(as_numpy.detach().numpy()), array.dtype)

    def tracked(self, array: Any) -> Any:
        """The tensor itself."""
        array.stop_gradient = False
        return array

    def loss(self, case: Case) -> Callable[[Any, Any], Any]:
        """The function."""
        return partial(paddle.nn.functional.kl_div, reduction=case.reduction, log_target=case.log_target)

    def gradients(self, loss: Any, arrays: Sequence[Any], cotangent: Any, *, again: bool) -> Sequence[Any]:
        """Gradients by autograd; ``None`` where Paddle gives none without an error."""
        cotangent = paddle.ones_like(loss) if cotangent is None else cotangent
        gradients: Sequence[Any] = paddle.grad(loss, arrays, cotangent, retain_graph=again, allow_unused=True)
        return gradients

    def overwrite(self, array: Any) -> None:
        """Double the elements of a tensor."""
        array.scale_(2)

    def called(self, case: Case, input: Any, target: Any, cotangent: Any) -> tuple[Any, Mapping[str, Any]]:
        """Loss and gradients of the call that the case describes."""
        try:
            return super().called(case, input, target, cotangent)
        except RuntimeError as error:
            if "is not registered" in str(error) and case.group != "refused":
                raise UnsupportedError(f"Paddle has no kernel for {case.input.dtype} on the CPU") from None
            raise


def implementations() -> Iterator[Implementation]:
    """The implementations of this file."""
    yield Paddle()
