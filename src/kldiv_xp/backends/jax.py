"""JAX: arrays with values are evaluated in one dispatch, traced ones by the plain formulas.

Both have the closed form as their derivative.
"""

import sys
from collections.abc import Callable
from functools import cache, partial
from typing import Any

from kldiv_xp._formulas import guarded_loss_elements, loss_derivative
from kldiv_xp._options import Options
from kldiv_xp.backends._standard import Array, Backend, DType
from kldiv_xp.backends.numpy import NumPy, refuse_subclass


class JAX(Backend):
    """JAX arrays and tracers."""

    @classmethod
    def owns(cls, kind: type) -> bool:
        """Whether arrays of this type are JAX's."""
        jax = sys.modules.get("jax")
        return jax is not None and issubclass(kind, (jax.Array, jax.core.Tracer))

    def __init__(self, xp: Any) -> None:
        super().__init__(xp)
        self._array, self._tracer = sys.modules["jax"].Array, sys.modules["jax"].core.Tracer
        self._jitted = cache(self._jitted_for)

    def converts(self, other: Backend) -> bool:
        """Whether arrays of another library may stand beside those of this one: NumPy's, as in JAX itself."""
        return isinstance(other, NumPy)

    def taken(self, name: str, x: Array) -> Array:
        """The array; one of NumPy as one of JAX."""
        if isinstance(x, self._array):
            return x
        refuse_subclass(name, x)
        self.check_dtype(name, x)
        return self.xp.asarray(x)

    def device_of(self, x: Array) -> Any:
        """Devices that ``x`` is bound to; ``None`` if JAX is free to choose (for a tracer, or an uncommitted array)."""
        if isinstance(x, self._tracer):
            return None
        return x.devices() if x.committed else None

    def loss(self, input: Array, target: Array, options: Options) -> Array:
        """The loss of what a caller passes: of arrays that have their values in one dispatch."""
        kind = type(input)
        if (
            type(target) is kind
            and not issubclass(kind, self._tracer)
            and not (input.committed and target.committed and input.devices() != target.devices())
        ):
            try:
                return self._jitted(options)(input, target)
            except (TypeError, ValueError):
                pass  # once more for the error, without what JAX adds to one about its own frames
        return super().loss(input, target, options)

    def elements(self, x: Array, y: Array, dtype: DType, options: Options) -> Array:
        """Loss of each element, with the closed form as its derivative.

        JAX differentiates the logarithm's derivative ``1 / y`` to ``-1 / y**2``, which divides by zero for a float32
        target below 1e-19. Of the closed form, which is what is left after a cancellation that JAX cannot see, that is
        not so.
        """
        return _with_closed_form(options)(self.cast(x, dtype), self.cast(y, dtype))

    def _jitted_for(self, options: Options) -> Callable[[Array, Array], Array]:
        # Whether the arrays fit together is looked at when their shapes and dtypes are seen first.
        loss = super().loss
        compiled: Callable[[Array, Array], Array] = sys.modules["jax"].jit(lambda x, y: loss(x, y, options))
        return compiled


@cache
def _with_closed_form(options: Options) -> Any:
    import jax
    import jax.numpy as jnp
    from jax.custom_derivatives import SymbolicZero

    xp: Any = jnp

    @jax.custom_jvp
    @partial(jax.jit, inline=True)  # one dispatch where it is differentiated without jit; inlined into a trace
    def elements(x: Array, y: Array) -> Array:
        # Guarded for checkers of NaN. The last mask changes no value. But XLA's CPU compiler joins a sum with a
        # logarithm and not with a select: without that mask it would write down both guarded arrays, in 1.7 times the
        # time.
        return guarded_loss_elements(x, y, options, xp)

    def tangent_of_elements(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
        # A symbolic zero times an infinite derivative is zero.
        wanted = [argnum for argnum, tangent in enumerate(tangents) if not isinstance(tangent, SymbolicZero)]
        terms = [loss_derivative(*primals, argnum, tangents[argnum], options, xp) for argnum in wanted]
        return elements(*primals), sum(terms[1:], start=terms[0])

    elements.defjvp(tangent_of_elements, symbolic_zeros=True)
    return elements
