"""JAX: concrete arrays are evaluated in one dispatch, tracers by the plain formulas.

The derivative of both is in closed form.
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
        """Whether one call may mix arrays of another library with JAX arrays: NumPy's, as in JAX itself."""
        return isinstance(other, NumPy)

    def accepted(self, name: str, x: Array) -> Array:
        """The array; a NumPy array is converted to a JAX array."""
        if isinstance(x, self._array):
            return x
        refuse_subclass(name, x)
        self.check_dtype(name, x)
        return self.xp.asarray(x)

    def device_of(self, x: Array) -> Any:
        """Devices that ``x`` is committed to; ``None`` for tracers and uncommitted arrays."""
        if isinstance(x, self._tracer):
            return None
        return x.devices() if x.committed else None

    def loss(self, input: Array, target: Array, options: Options, where: Array = None) -> Array:
        """The loss of the caller's arrays; one jitted call for concrete arrays."""
        kind = type(input)
        if (
            type(target) is kind
            and (where is None or type(where) is kind)
            and not issubclass(kind, self._tracer)
            and not (input.committed and target.committed and input.devices() != target.devices())
        ):
            try:
                return self._jitted(options)(input, target, where)
            except (TypeError, ValueError):
                pass  # raise the error again below, without JAX's note about its own frames
        return super().loss(input, target, options, where)

    def elements(self, x: Array, y: Array, dtype: DType, options: Options) -> Array:
        """Loss of each element, with the derivative in closed form.

        JAX's second derivative of the logarithm is ``-1 / y**2``, which divides by zero for a float32 target below
        1e-19. In the closed form this term has cancelled.
        """
        return _with_closed_form(options)(self.cast(x, dtype), self.cast(y, dtype))

    def _jitted_for(self, options: Options) -> Callable[..., Array]:
        # Tracing checks the arguments, once for each combination of shapes and dtypes.
        loss = super().loss
        compiled: Callable[..., Array] = sys.modules["jax"].jit(lambda x, y, where: loss(x, y, options, where))
        return compiled


@cache
def _with_closed_form(options: Options) -> Any:
    import jax
    import jax.numpy as jnp
    from jax.custom_derivatives import SymbolicZero

    xp: Any = jnp

    @jax.custom_jvp
    @partial(jax.jit, inline=True)  # one dispatch when differentiated without jit; inlined into a trace
    def elements(x: Array, y: Array) -> Array:
        # Guarded for NaN checkers. The final mask changes no value, but speeds up XLA's CPU compiler, which fuses a sum
        # with a logarithm and not with a select: without the mask it would materialise both guarded arrays, and take
        # 1.7 times as long.
        return guarded_loss_elements(x, y, options, xp)

    def tangent_of_elements(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
        # A symbolic zero times an infinite derivative is zero.
        wanted = [argnum for argnum, tangent in enumerate(tangents) if not isinstance(tangent, SymbolicZero)]
        terms = [loss_derivative(*primals, argnum, tangents[argnum], options, xp) for argnum in wanted]
        return elements(*primals), sum(terms[1:], start=terms[0])

    elements.defjvp(tangent_of_elements, symbolic_zeros=True)
    return elements
