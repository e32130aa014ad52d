"""Optax's two functions, one for probabilities and one for log-probabilities, eager and with 64-bit numbers enabled.

Their only reduction is a sum over axes. ``"none"`` sums over no axis, ``"sum"`` over all axes. The means are
``jnp.mean`` of the elements or of the sums of the rows, as a user would write them.

From logits, the adapter passes ``jax.nn.log_softmax`` and ``jax.nn.softmax`` to the first function, with its argument
``where``. It divides the sum of the rows as the reduction says.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from conformance.record import Case, Implementation, Operand, Outcome, Result, UnsupportedError, as_result


class Optax(Implementation):
    """``optax.losses.kl_divergence`` or ``optax.losses.kl_divergence_with_log_targets``."""

    mutable = False

    def __init__(self, name: str, *, log_target: bool) -> None:
        super().__init__(f"optax.losses.{name}", "optax")
        self.function: Callable[..., jax.Array] = getattr(optax.losses, name)
        self.log_target = log_target

    def version(self) -> str:
        """Version of Optax."""
        return str(optax.__version__)

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
        if case.log_target != self.log_target:
            kind = "log-probabilities" if self.log_target else "probabilities"
            raise UnsupportedError(f"the targets of this function are {kind}; the other kind has a function of its own")
        if case.reduction not in ("none", "sum", "mean", "batchmean"):
            raise UnsupportedError("Optax has no argument for the reduction")
        arguments = {"input": input, "target": target}
        if not case.gradients:
            return self._loss(case, **arguments), {}

        def of_wanted(*wanted: Any) -> jax.Array:
            return self._loss(case, **arguments | dict(zip(case.gradients, wanted, strict=True)))

        loss, pullback = jax.vjp(of_wanted, *(arguments[name] for name in case.gradients))
        gradients = pullback(jnp.ones_like(loss) if cotangent is None else cotangent)
        return loss, dict(zip(case.gradients, gradients, strict=True))

    def _loss(self, case: Case, input: Any, target: Any) -> jax.Array:
        """The function of probabilities, and the reduction around it."""
        if case.reduction == "sum":
            return self.function(input, target, axis=None)
        axes = tuple(range(1, jnp.ndim(input))) if case.reduction == "batchmean" else ()
        loss = self.function(input, target, axis=axes)
        return loss if case.reduction == "none" else jnp.mean(loss)


class OfSoftmaxes(Optax):
    """``optax.losses.kl_divergence`` of ``jax.nn.log_softmax`` and ``jax.nn.softmax``."""

    losses = False
    divergences = True

    def __init__(self) -> None:
        super().__init__("kl_divergence", log_target=False)
        self.name += " of softmaxes"

    def _loss(self, case: Case, input: Any, target: Any) -> jax.Array:
        """Divergence of the rows, masked by the function, and reduced; with ``beta`` 1 of the exchanged arguments."""
        options = case.logits
        assert options is not None
        if options.beta not in (0.0, 1.0):
            raise UnsupportedError("Optax has no Jensen-Shannon divergence")
        student, teacher = (input, target) if options.beta == 0.0 else (target, input)
        log_predictions = jax.nn.log_softmax(student / options.temperature, options.axis)
        targets = jax.nn.softmax(teacher / options.temperature, options.axis)
        where = None if options.where is None else jnp.expand_dims(jnp.asarray(case.counts), options.axis)
        rows = self.function(log_predictions, targets, axis=options.axis, where=where)
        return rows if case.reduction == "none" else jnp.sum(rows) / case.divisor


def implementations() -> Iterator[Implementation]:
    """Both functions, and the first one of softmaxes."""
    yield Optax("kl_divergence", log_target=False)
    yield Optax("kl_divergence_with_log_targets", log_target=True)
    yield OfSoftmaxes()
