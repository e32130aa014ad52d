"""``scipy.special.rel_entr`` and ``kl_div``, and ``rel_entr`` of softmaxes.

They take probabilities on both sides, so the adapter passes ``exp(input)`` and, with ``log_target``, ``exp(target)``.
They work element by element; the reductions are NumPy's own. From logits, the adapter passes the ``softmax`` of both
over the temperature, as a user would, and writes the Jensen-Shannon divergence with the mixture of both.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import scipy.special

from conformance.record import LAYOUTS, Case, FromLogits, Implementation, Operand, Result, UnsupportedError, as_result


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


class OfSoftmaxes(SciPy):
    """``scipy.special.rel_entr`` of two ``scipy.special.softmax``."""

    losses = False
    divergences = True

    def __init__(self) -> None:
        super().__init__("rel_entr")
        self.name += " of softmaxes"

    def evaluate(self, case: Case, input: Any, target: Any, cotangent: Any) -> tuple[Any, Mapping[str, Any]]:
        """Divergence of the rows, masked and reduced, without gradients."""
        options = case.logits
        assert options is not None
        q, p = (scipy.special.softmax(z / options.temperature, axis=options.axis) for z in (input, target))
        rows = np.where(case.counts, self._rows(p, q, options), 0)
        loss = rows if case.reduction == "none" else rows.sum() / case.divisor
        if case.gradients:
            raise UnsupportedError("SciPy has no gradients", loss)
        return loss, {}

    def _rows(self, p: Any, q: Any, options: FromLogits) -> Any:
        def divergence(p: Any, q: Any) -> Any:
            return np.sum(self.function(p, q), axis=options.axis)

        beta = options.beta
        if beta in (0.0, 1.0):
            return divergence(q, p) if beta else divergence(p, q)
        m = beta * p + (1 - beta) * q
        return beta * divergence(p, m) + (1 - beta) * divergence(q, m)


def implementations() -> Iterator[Implementation]:
    """The relative entropy, the non-negative divergence, and the relative entropy of softmaxes."""
    yield SciPy("rel_entr")
    yield SciPy("kl_div")
    yield OfSoftmaxes()
