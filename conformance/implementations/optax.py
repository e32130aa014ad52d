"""Optax's two functions, one for probabilities and one for log-probabilities, eager and with 64-bit numbers enabled.

They sum over axes and have no other reduction: ``"none"`` is a sum over no axis, ``"sum"`` one over all of them, and
the means are what a user would write, ``jnp.mean`` of single elements or of the sums of the rows.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from conformance.record import Case, Implementation, Operand, Outcome, Result, UnsupportedError, as_result


class Optax(Implementation):
    """``optax.losses.kl_divergence`` or ``optax.losses.kl_divergence_with_log_targets``."""

    def __init__(self, name: str, *, log_target: bool) -> None:
        super().__init__(f"optax.losses.{name}", "optax")
        self.function: Callable[..., jax.Array] = getattr(optax.losses, name)
        self.log_target = log_target

    def version(self) -> str:
        """Version of Optax."""
        return str(optax.__version__)

    def compute(self, case: Case) -> Outcome:
        """Loss and its gradients by ``jax.vjp``."""
        if case.log_target != self.log_target:
            kind = "log-probabilities" if self.log_target else "probabilities"
            raise UnsupportedError(f"the targets of this function are {kind}; the other kind has a function of its own")
        if case.reduction not in ("none", "sum", "mean", "batchmean"):
            raise UnsupportedError("Optax has no argument for the reduction")
        with jax.enable_x64(True), jax.default_device(jax.devices(self.device)[0]):
            arguments = _given(case.input), _given(case.target)
            if not case.gradients:
                return Outcome(_result(self._loss(case.reduction, *arguments)))
            loss, pullback = jax.vjp(lambda *both: self._loss(case.reduction, *both), *arguments)
            gradients = dict(zip(("input", "target"), map(_result, pullback(jnp.ones_like(loss))), strict=True))
            return Outcome(_result(loss), gradients)

    def _loss(self, reduction: str, input: Any, target: Any) -> jax.Array:
        if reduction == "sum":
            return self.function(input, target, axis=None)
        axes = tuple(range(1, jnp.ndim(input))) if reduction == "batchmean" else ()
        loss = self.function(input, target, axis=axes)
        return loss if reduction == "none" else jnp.mean(loss)


def _given(operand: Operand) -> Any:
    """Operand as a JAX array; an object as it is."""
    return jnp.asarray(operand.values, dtype=operand.dtype) if operand.is_array else operand.values


def _result(array: Any) -> Result:
    return as_result(np.asarray(array), array.dtype)


def implementations() -> Iterator[Implementation]:
    """Both functions."""
    yield Optax("kl_divergence", log_target=False)
    yield Optax("kl_divergence_with_log_targets", log_target=True)
