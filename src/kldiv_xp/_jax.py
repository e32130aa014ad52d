"""What is particular to JAX. Imported with the library, so it must not import jax itself."""

import sys
from collections.abc import Callable
from functools import cache, partial
from typing import Any

from kldiv_xp._formulas import guarded_loss_elements, loss_derivative
from kldiv_xp._options import Convention, Reduction

Array = Any


def placement(x: Array) -> Any:
    """Devices that ``x`` is bound to; ``None`` if JAX is free to choose (for a tracer, or an uncommitted array)."""
    if isinstance(x, sys.modules["jax"].core.Tracer):
        return None
    return x.devices() if x.committed else None


def is_ordinary_type(kind: type) -> bool:
    """Whether arrays of this type have their values: tracers have none."""
    jax = sys.modules.get("jax")
    return jax is not None and issubclass(kind, jax.Array) and not issubclass(kind, jax.core.Tracer)


def is_ordinary(x: Array, y: Any) -> bool:
    """Whether one computation may take ``x``, which is of an ordinary type, and ``y``."""
    return type(y) is type(x) and not (x.committed and y.committed and x.devices() != y.devices())


def loss(x: Array, y: Array, reduction: Reduction, log_target: bool, convention: Convention) -> Array:
    """Loss of ordinary arrays, in one dispatch."""
    try:
        return _jitted(reduction, log_target, convention)(x, y)
    except (TypeError, ValueError):
        pass
    from kldiv_xp._loss import plain_loss

    # Once more for the error, without what JAX adds to one about its own frames.
    return plain_loss(x, y, reduction, log_target, convention)


@cache
def _jitted(reduction: Reduction, log_target: bool, convention: Convention) -> Callable[[Array, Array], Array]:
    import jax

    from kldiv_xp._loss import plain_loss

    # Whether the arrays fit together is looked at when their shapes and dtypes are seen first.
    compiled: Callable[[Array, Array], Array] = jax.jit(
        lambda x, y: plain_loss(x, y, reduction, log_target, convention)
    )
    return compiled


def differentiable_loss_elements(x: Array, y: Array, log_target: bool, convention: Convention) -> Array:
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

    options: tuple[Any, ...] = (log_target, convention, jnp)

    @jax.custom_jvp
    @partial(jax.jit, inline=True)  # one dispatch where it is differentiated without jit; inlined into a trace
    def elements(x: Array, y: Array) -> Array:
        # Guarded for checkers of NaN. The last mask changes no value. But XLA's CPU compiler joins a sum with a
        # logarithm and not with a select: without that mask it would write down both guarded arrays, in 1.7 times the
        # time.
        return guarded_loss_elements(x, y, *options)

    def tangent_of_elements(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
        # A symbolic zero times an infinite derivative is zero.
        wanted = [argnum for argnum, tangent in enumerate(tangents) if not isinstance(tangent, SymbolicZero)]
        terms = [loss_derivative(*primals, argnum, tangents[argnum], *options) for argnum in wanted]
        return elements(*primals), sum(terms[1:], start=terms[0])

    elements.defjvp(tangent_of_elements, symbolic_zeros=True)
    return elements
