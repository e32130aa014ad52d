"""``kldiv_xp`` on JAX: eager and jitted, with its gradients by autodiff."""

from collections.abc import Iterator, Mapping
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from conformance.implementations.kldiv_xp import CONVENTIONS, loss_of
from conformance.implementations.kldiv_xp.sample import ON_GPU, left_out_of_sample
from conformance.record import Case, Implementation, Operand, Outcome, Result, as_result


def _evaluated(
    loss: Any, wanted: tuple[str, ...], call: str, arguments: dict[str, Any], cotangent: Any
) -> tuple[Any, tuple[Any, ...]]:
    """Loss and the gradients that are wanted."""
    if not wanted:
        return loss(**arguments), ()

    def of_wanted(*arrays: Any) -> Any:
        return loss(**arguments | dict(zip(wanted, arrays, strict=True)))

    given = [arguments[name] for name in wanted]
    if call == "in a graph":
        weighted = jax.grad(
            lambda *arrays: (of_wanted(*(array * 1 for array in arrays)) * cotangent).sum(), tuple(range(len(given)))
        )
        return of_wanted(*given), weighted(*given)
    value, pullback = jax.vjp(of_wanted, *given)
    weight = jnp.ones_like(value) if cotangent is None else cotangent
    if call == "backward twice":
        pullback(weight)
    return value, pullback(weight)


@cache
def _contracts(platform: str) -> bool:
    # The square is 1 + 2**-11 + 2**-24, whose last term is lost if the product is rounded by itself.
    with jax.default_device(jax.devices(platform)[0]):
        factor, rounded = jnp.float32(1 + 2**-12), jnp.float32(1 + 2**-11)
        return bool(jax.jit(lambda a, b: a * a - b)(factor, rounded) != 0)


class KLDivXP(Implementation):
    """JAX arrays, with 64-bit numbers enabled."""

    gradients_by = "autodiff"
    slow_to_start = True
    divergences = True
    mutable = False
    calls = ("in a graph", "backward twice")

    def __init__(self, convention: str, *, jit: bool, platform: str) -> None:
        name = f"kldiv_xp {'jax.jit' if jit else 'jax'}{'' if platform == 'cpu' else f' {platform}'}"
        super().__init__(name, "jax", convention=convention, device=platform, compiled=jit)
        self.wrap = partial(jax.jit, static_argnums=(0, 1, 2)) if jit else lambda function: function

    @property
    def contracts(self) -> bool:  # type: ignore[override]
        """Whether a product and a difference are one operation, as they are where the processor has one.

        The loss is compiled without the caller's ``jit``, too.
        """
        return _contracts(self.device)

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

    def left_out(self, case: Case) -> str | None:
        """Skip shapes with few cases, each of which needs a compilation; the edge cases share theirs."""
        one_in = 12 if self.device == "cpu" else ON_GPU
        return None if case.group == "edge" else left_out_of_sample(case, one_in, self.convention)

    def given(self, operand: Operand) -> Any:
        """Operand as a JAX array; Python objects unchanged."""
        return jnp.asarray(operand.values, dtype=operand.dtype) if operand.is_array else operand.values

    def result(self, array: Any) -> Result:
        """Values of a JAX array."""
        return as_result(np.asarray(array), array.dtype)

    def compute(self, case: Case) -> Outcome:
        """Outcome with 64-bit numbers, on the device."""
        with jax.enable_x64(True), jax.default_device(jax.devices(self.device)[0]):
            return super().compute(case)

    def evaluate(self, case: Case, input: Any, target: Any, cotangent: Any) -> tuple[Any, Mapping[str, Any]]:
        """Loss and its gradients by ``jax.vjp``."""
        loss = loss_of(case, self.convention, self.given)
        arguments = {"input": input, "target": target}
        call = case.call if case.call in self.calls else "once"  # the other calls need no new compilation
        value, gradients = self.wrap(_evaluated)(loss, case.gradients, call, arguments, cotangent)
        return value, dict(zip(case.gradients, gradients, strict=True))


def implementations() -> Iterator[Implementation]:
    """Eager and jitted, on each kind of device."""
    for convention in CONVENTIONS:
        for platform in ("cpu", "cuda"):
            yield KLDivXP(convention, jit=False, platform=platform)
            yield KLDivXP(convention, jit=True, platform=platform)
