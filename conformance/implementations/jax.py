"""``jax.scipy.special.rel_entr`` and ``kl_div``, eager and with 64-bit numbers enabled.

They take probabilities on both sides, so they are given ``exp(input)``, and ``exp(target)`` with ``log_target``; the
gradients go on through the exponential. They work element by element; the reductions are JAX's own.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import jax.scipy.special
import numpy as np

from conformance.record import Case, Implementation, Operand, Outcome, Result, UnsupportedError, as_result


class JaxScipy(Implementation):
    """A function of ``jax.scipy.special``."""

    def __init__(self, name: str) -> None:
        super().__init__(f"jax.scipy.special.{name}", "jax")
        self.function: Callable[..., jax.Array] = getattr(jax.scipy.special, name)

    def version(self) -> str:
        """Version of JAX."""
        return jax.__version__

    def compute(self, case: Case) -> Outcome:
        """Loss and its gradients by ``jax.vjp``."""
        if case.reduction not in ("none", "sum", "mean", "batchmean"):
            raise UnsupportedError("the function has no argument for the reduction")
        with jax.enable_x64(True), jax.default_device(jax.devices(self.device)[0]):
            arguments = _given(case.input), _given(case.target)
            if not case.gradients:
                return Outcome(_result(self._loss(case, *arguments)))
            loss, pullback = jax.vjp(lambda *both: self._loss(case, *both), *arguments)
            gradients = dict(zip(("input", "target"), map(_result, pullback(jnp.ones_like(loss))), strict=True))
            return Outcome(_result(loss), gradients)

    def _loss(self, case: Case, input: Any, target: Any) -> jax.Array:
        loss = self.function(jnp.exp(target) if case.log_target else target, jnp.exp(input))
        if case.reduction == "batchmean":
            loss = loss.sum(axis=tuple(range(1, loss.ndim)))
        if case.reduction == "none":
            return loss
        return jnp.sum(loss) if case.reduction == "sum" else jnp.mean(loss)


def _given(operand: Operand) -> Any:
    """Operand as a JAX array; an object as it is."""
    return jnp.asarray(operand.values, dtype=operand.dtype) if operand.is_array else operand.values


def _result(array: Any) -> Result:
    return as_result(np.asarray(array), array.dtype)


def implementations() -> Iterator[Implementation]:
    """The relative entropy, and the divergence that is never negative."""
    yield JaxScipy("rel_entr")
    yield JaxScipy("kl_div")
