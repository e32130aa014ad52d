"""``jax.scipy.special.rel_entr`` and ``kl_div``, eager and with 64-bit numbers enabled.

They take probabilities on both sides, so the adapter passes ``exp(input)`` and, with ``log_target``,
``exp(target)``, and differentiates through the exponential. They work element by element; the reductions are JAX's own.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import jax.scipy.special
import numpy as np

from conformance.record import Case, Implementation, Operand, Outcome, Result, UnsupportedError, as_result


class JaxScipy(Implementation):
    """A function of ``jax.scipy.special``."""

    mutable = False

    def __init__(self, name: str) -> None:
        super().__init__(f"jax.scipy.special.{name}", "jax")
        self.function: Callable[..., jax.Array] = getattr(jax.scipy.special, name)

    def version(self) -> str:
        """Version of JAX."""
        return jax.__version__

    def given(self, operand: Operand) -> Any:
        """Operand as a JAX array; Python objects unchanged."""
        return jnp.asarray(operand.values, dtype=operand.dtype) if operand.is_array else operand.values

    def result(self, array: Any) -> Result:
        """Values of a JAX array."""
        return as_result(np.asarray(array), array.dtype)

    def compute(self, case: Case) -> Outcome:
        """Outcome with 64-bit numbers."""
        with jax.enable_x64(True), jax.default_device(jax.devices(self.device)[0]):
            return super().compute(case)

    def evaluate(self, case: Case, input: Any, target: Any, cotangent: Any) -> tuple[Any, Mapping[str, Any]]:
        """Loss and its gradients by ``jax.vjp``."""
        if case.reduction not in ("none", "sum", "mean", "batchmean"):
            raise UnsupportedError("the function has no argument for the reduction")
        arguments = {"input": input, "target": target}
        if not case.gradients:
            return self._loss(case, **arguments), {}

        def of_wanted(*wanted: Any) -> jax.Array:
            return self._loss(case, **arguments | dict(zip(case.gradients, wanted, strict=True)))

        loss, pullback = jax.vjp(of_wanted, *(arguments[name] for name in case.gradients))
        gradients = pullback(jnp.ones_like(loss) if cotangent is None else cotangent)
        return loss, dict(zip(case.gradients, gradients, strict=True))

    def _loss(self, case: Case, input: Any, target: Any) -> jax.Array:
        loss = self.function(jnp.exp(target) if case.log_target else target, jnp.exp(input))
        if case.reduction == "batchmean":
            loss = loss.sum(axis=tuple(range(1, loss.ndim)))
        if case.reduction == "none":
            return loss
        return jnp.sum(loss) if case.reduction == "sum" else jnp.mean(loss)


def implementations() -> Iterator[Implementation]:
    """The relative entropy, and the non-negative divergence."""
    yield JaxScipy("rel_entr")
    yield JaxScipy("kl_div")
