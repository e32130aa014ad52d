"""``scipy.special.rel_entr`` and ``kl_div``.

They take probabilities on both sides, so the adapter passes ``exp(input)`` and, with ``log_target``, ``exp(target)``.
They work element by element; the reductions are NumPy's own.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import scipy.special

from conformance.record import LAYOUTS, Case, Implementation, Operand, Result, UnsupportedError, as_result


class SciPy(Implementation):
    """A function of ``scipy.special``."""

    layouts = LAYOUTS

    def __init__(self, name: str) -> None:
        super().__init__(f"scipy.special.{name}", "scipy")
        self.function: Callable[..., Any] = getattr(scipy.special, name)

    def version(self) -> str:
        """Version of SciPy."""
        return str(scipy.__version__)

    def given(self, operand: Operand) -> Any:
        """Operand as a NumPy array; Python objects unchanged."""
        if operand.dtype == "bfloat16":
            raise UnsupportedError("NumPy has no bfloat16")
        return operand.laid_out() if operand.is_array else operand.values

    def result(self, array: Any) -> Result:
        """Result of a NumPy array."""
        return as_result(array, array.dtype)

    def evaluate(self, case: Case, input: Any, target: Any, cotangent: Any) -> tuple[Any, Mapping[str, Any]]:
        """Loss, without gradients."""
        if case.reduction not in ("none", "sum", "mean", "batchmean"):
            raise UnsupportedError("the function has no argument for the reduction")
        loss = np.asarray(self.function(np.exp(target) if case.log_target else target, np.exp(input)))
        if case.reduction == "batchmean":
            loss = loss.sum(axis=tuple(range(1, loss.ndim)))
        if case.reduction != "none":
            total = np.sum(loss)
            loss = total if case.reduction == "sum" else total / loss.size
        if case.gradients:
            raise UnsupportedError("SciPy has no gradients", loss)
        return loss, {}


def implementations() -> Iterator[Implementation]:
    """The relative entropy, and the non-negative divergence."""
    yield SciPy("rel_entr")
    yield SciPy("kl_div")
