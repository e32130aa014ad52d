"""What is particular to JAX. Imported with the library, so it must not import jax itself."""

import sys
from functools import cache
from typing import Any

from kldiv_xp._formulas import loss_derivatives, loss_elements
from kldiv_xp._options import Convention

Array = Any


def placement(x: Array) -> Any:
    """Devices that ``x`` is bound to; ``None`` if JAX is free to choose (for a tracer, or an uncommitted array)."""
    if isinstance(x, sys.modules["jax"].core.Tracer):
        return None
    return x.devices() if x.committed else None


def differentiable_loss_elements(x: Array, y: Array, *, log_target: bool, convention: Convention) -> Array:
    """Loss of each element, with the closed form as its derivative.

    JAX differentiates the logarithm's derivative ``1 / y`` to ``-1 / y**2``, which divides by zero for a float32 target
    below 1e-19. Of the closed form, which is what is left after a cancellation that JAX cannot see, that is not so.
    """
    result: Array = _with_closed_form(log_target, convention)(x, y)
    return result


@cache
def _with_closed_form(log_target: bool, convention: Convention) -> Any:
    import jax
    import jax.numpy as jnp
    from jax.custom_derivatives import SymbolicZero

    @jax.custom_jvp
    def elements(x: Array, y: Array) -> Array:
        return loss_elements(x, y, log_target=log_target, convention=convention, xp=jnp)

    def tangent_of_elements(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
        derivatives = loss_derivatives(*primals, log_target=log_target, convention=convention, xp=jnp)
        # A symbolic zero times an infinite derivative is zero.
        terms = [d * t for d, t in zip(derivatives, tangents, strict=True) if not isinstance(t, SymbolicZero)]
        return elements(*primals), sum(terms[1:], start=terms[0])

    elements.defjvp(tangent_of_elements, symbolic_zeros=True)
    return elements
