"""``kldiv_xp`` on JAX: eager and jitted, with its gradients by autodiff."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from conformance.record import Case, Implementation, Operand, Outcome, Result, as_result
from kldiv_xp import KLDivLoss


def _loss_and_gradients(loss: KLDivLoss, input: Any, target: Any) -> tuple[Any, tuple[Any, Any]]:
    value, pullback = jax.vjp(loss, input, target)
    return value, pullback(jnp.ones_like(value))


def _loss(loss: KLDivLoss, input: Any, target: Any) -> tuple[Any, tuple[()]]:
    return loss(input, target), ()


class KLDivXP(Implementation):
    """JAX arrays, with 64-bit numbers enabled."""

    gradients_by = "autodiff"

    def __init__(self, convention: str, *, jit: bool, platform: str) -> None:
        name = f"kldiv_xp {'jax.jit' if jit else 'jax'}{'' if platform == 'cpu' else f' {platform}'}"
        super().__init__(name, "jax", convention=convention, device=platform, compiled=jit)
        self.wrap = partial(jax.jit, static_argnums=0) if jit else lambda function: function

    def version(self) -> str:
        """Version of JAX."""
        return jax.__version__

    def not_run(self) -> str | None:
        """Reason if JAX sees no such device."""
        try:
            jax.devices(self.device)
        except RuntimeError:
            return f"no {self.device.upper()} device"
        return None

    def given(self, operand: Operand) -> Any:
        """Operand as a JAX array; an object as it is."""
        return jnp.asarray(operand.values, dtype=operand.dtype) if operand.is_array else operand.values

    def compute(self, case: Case) -> Outcome:
        """Loss and its gradients by ``jax.vjp``."""
        with jax.enable_x64(True), jax.default_device(jax.devices(self.device)[0]):
            loss = KLDivLoss(case.reduction, case.log_target, convention=self.convention)  # type: ignore[arg-type]
            function = self.wrap(_loss_and_gradients if case.gradients else _loss)
            value, gradients = function(loss, self.given(case.input), self.given(case.target))
            return Outcome(_result(value), dict(zip(("input", "target"), map(_result, gradients), strict=False)))


def _result(array: Any) -> Result:
    return as_result(np.asarray(array), array.dtype)


def implementations(convention: str) -> Iterator[Implementation]:
    """Eager and jitted, on each kind of device."""
    for platform in ("cpu", "cuda"):
        yield KLDivXP(convention, jit=False, platform=platform)
        yield KLDivXP(convention, jit=True, platform=platform)
