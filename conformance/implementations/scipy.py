"""``scipy.special.rel_entr`` and ``kl_div``.

They take probabilities on both sides, so they are given ``exp(input)``, and ``exp(target)`` with ``log_target``. They
work element by element; the reductions are NumPy's own.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.special

from conformance.record import Case, Implementation, Operand, Outcome, UnsupportedError, as_result


class SciPy(Implementation):
    """A function of ``scipy.special``."""

    def __init__(self, name: str) -> None:
        super().__init__(f"scipy.special.{name}", "scipy")
        self.function: Callable[..., Any] = getattr(scipy.special, name)

    def version(self) -> str:
        """Version of SciPy."""
        return str(scipy.__version__)

    def compute(self, case: Case) -> Outcome:
        """Loss, without gradients."""
        if case.reduction not in ("none", "sum", "mean", "batchmean"):
            raise UnsupportedError("the function has no argument for the reduction")
        target = _given(case.target)
        loss = np.asarray(self.function(np.exp(target) if case.log_target else target, np.exp(_given(case.input))))
        if case.reduction == "batchmean":
            loss = loss.sum(axis=tuple(range(1, loss.ndim)))
        if case.reduction != "none":
            total = np.sum(loss)
            loss = total if case.reduction == "sum" else total / loss.size
        return Outcome(as_result(loss, loss.dtype), unsupported="SciPy has no gradients" if case.gradients else None)


def _given(operand: Operand) -> Any:
    """Operand as a NumPy array; an object as it is."""
    if operand.dtype == "bfloat16":
        raise UnsupportedError("NumPy has no bfloat16")
    return operand.values


def implementations() -> Iterator[Implementation]:
    """The relative entropy, and the divergence that is never negative."""
    yield SciPy("rel_entr")
    yield SciPy("kl_div")
