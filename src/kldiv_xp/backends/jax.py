"""JAX: one jitted function, which traces inline. The derivative is in closed form."""

import sys
from collections.abc import Callable
from functools import cache, partial
from itertools import count
from typing import Any

from kldiv_xp._formulas import guarded_loss_elements, loss_derivative
from kldiv_xp._formulas_from_logits import IMPOSSIBLE, shifted, softmaxes
from kldiv_xp._misuse import warn_of_logarithms
from kldiv_xp._options import LogitsOptions, Options
from kldiv_xp.backends._standard import Array, Backend, DType
from kldiv_xp.backends.numpy import NumPy, refuse_subclass

CLOSE = 0.01
"""Divergence below which float32 sums of terms of either sign have lost too many digits."""
LOOKS = 100
"""Calls that look at their targets, and the number of calls of which one looks later."""
SHORT = 2**11
"""Classes of a row whose exponentials stay in the cache. Those of a longer row are faster computed again than read."""


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
        self._calls = count()
        self._jitted = cache(self._jitted_for)
        self._jitted_from_logits = cache(self._jitted_from_logits_for)

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
        """The loss of the caller's arrays in one jitted call, which autodiff splits into two."""
        if self._can_jit(input, target, where):
            try:
                loss = self._jitted(options)(input, target, where)
            except (TypeError, ValueError):
                pass  # raise the error again below, without JAX's note about its own frames
            else:
                if not sys.modules["jax"].config.jax_disable_jit:  # then plain_loss has looked
                    self._look_at(target, loss, options, where)
                return loss
        return super().loss(input, target, options, where)

    def plain_loss(self, x: Array, y: Array, options: Options, where: Array = None) -> Array:
        """The loss of checked arrays in array API calls alone."""
        loss = super().plain_loss(x, y, options, where)
        self._look_at(y, loss, options, where)
        return loss

    def _look_at(self, y: Array, loss: Array, options: Options, where: Array) -> None:
        """Warn of targets that are all negative, unless JAX traces, or would have to wait for a device.

        Reading an array takes a third of the time of a call, so only the first calls look, and then some of them.
        """
        if options.log_target or where is not None or isinstance(y, self._tracer) or isinstance(loss, self._tracer):
            return
        calls = next(self._calls)
        if calls >= LOOKS and calls % LOOKS:
            return
        at_hand = getattr(y.device, "platform", "") == "cpu" and y.is_ready()  # several devices are a sharding
        # By NumPy: an outer trace would record JAX's functions.
        if at_hand and y.size and (sys.modules["numpy"].asarray(y) < 0.0).all():
            warn_of_logarithms("jax")

    def loss_from_logits(self, input: Array, target: Array, options: LogitsOptions, where: Array = None) -> Array:
        """The divergence between the softmaxes of the caller's arrays; in one jitted call, as above."""
        if self._can_jit(input, target, where):
            temperature = options.temperature
            try:
                return self._jitted_from_logits(options._replace(temperature=1.0))(input, target, where, temperature)
            except (TypeError, ValueError):
                pass
        return super().loss_from_logits(input, target, options, where)

    def _can_jit(self, x: Array, y: Array, where: Array) -> bool:
        """Whether all are arrays of JAX, on one device if they are concrete."""
        if not all(z is None or isinstance(z, self._array) for z in (x, y, where)):
            return False
        places = [self.device_of(z) for z in (x, y)]
        return None in places or places[0] == places[1]

    def elements(self, x: Array, y: Array, dtype: DType, options: Options) -> Array:
        """Loss of each element, with the derivative in closed form.

        JAX's second derivative of the logarithm is ``-1 / y**2``, which divides by zero for a float32 target below
        1e-19. In the closed form this term has cancelled.
        """
        return _elements(options)(self.cast(x, dtype), self.cast(y, dtype))

    def divergences(self, x: Array, y: Array, options: LogitsOptions) -> Array:
        """Divergence of each row, with the derivative in closed form: autodiff would keep both distributions."""
        return _divergences(self, options._replace(temperature=1.0))(x, y, options.temperature)

    def top(self, x: Array, axis: int) -> Array:
        """Largest number along an axis, which stays; a constant to autodiff."""
        return sys.modules["jax"].lax.stop_gradient(super().top(x, axis))

    def _jitted_for(self, options: Options) -> Callable[..., Array]:
        # Tracing checks the arguments, once for each combination of shapes and dtypes.
        loss = super().loss
        jit = sys.modules["jax"].jit
        compiled: Callable[..., Array] = jit(lambda x, y, where: loss(x, y, options, where), inline=True)
        return compiled

    def _jitted_from_logits_for(self, options: LogitsOptions) -> Callable[..., Array]:
        loss = super().loss_from_logits

        def of(x: Array, y: Array, where: Array, temperature: Array) -> Array:  # whose change needs no new program
            return loss(x, y, options._replace(temperature=temperature), where)

        compiled: Callable[..., Array] = sys.modules["jax"].jit(of, inline=True)
        return compiled


@cache
def _elements(options: Options) -> Any:
    import jax
    import jax.numpy as jnp

    xp: Any = jnp

    # One dispatch when differentiated without jit; inlined into a trace. Guarded for NaN checkers. The final mask of
    # the guarded form changes no value, but speeds up XLA's CPU compiler, which fuses a sum with a logarithm and not
    # with a select: without the mask it would materialise both guarded arrays, and take 1.7 times as long.
    @partial(jax.jit, inline=True)
    def elements(x: Array, y: Array) -> Array:
        return guarded_loss_elements(x, y, options, xp)

    def derivative(x: Array, y: Array, argnum: int, weight: Array) -> Array:
        return loss_derivative(x, y, argnum, weight, options, xp)

    return _with_closed_form(elements, derivative)


@cache
def _divergences(backend: JAX, options: LogitsOptions) -> Any:
    import jax

    def divergences(beside_derivative: bool, x: Array, y: Array, temperature: Array) -> Array:
        given = options._replace(temperature=temperature)

        def plain(x: Array, y: Array) -> Array:
            return backend.plain_divergences(x, y, given)

        def quick(x: Array, y: Array) -> Array:
            student, teacher = (y, x) if options.exchanged else (x, y)
            rows = _without_masks(backend, student, teacher, given, beside_derivative)
            suffices = ((rows >= CLOSE) & (rows < -0.1 * IMPOSSIBLE)).all()
            return jax.lax.cond(suffices, lambda: rows, lambda: plain(x, y))

        if options.beta or 0 in x.shape:
            return plain(x, y)
        return jax.lax.platform_dependent(x, y, cpu=quick, default=plain)

    def tangent(x: Array, y: Array, temperature: Array, argnum: int, weight: Array) -> Array:
        given = options._replace(temperature=temperature)
        return backend.sum(backend.derivative_from_logits(x, y, argnum, weight, given), options.axis)

    return _with_closed_form(
        jax.jit(partial(divergences, False), inline=True), tangent, beside_derivative=partial(divergences, True)
    )


def _without_masks(backend: JAX, x: Array, y: Array, options: LogitsOptions, beside_derivative: bool) -> Array:
    """``KL(p || q)``, or a huge number where the student makes a class impossible.

    XLA's CPU compiler fuses a sum with arithmetic, and not with the masks of the plain formula. Beside the derivative,
    it shares the probabilities and the sum of ``p r``.
    """
    import jax.numpy as xp

    axis = options.axis
    x, y = (shifted(z, backend.top(z, axis), options.temperature) for z in (x, y))
    of_x, of_y = xp.exp(x), xp.exp(y)
    sum_x, sum_y = backend.sum(of_x, axis), backend.sum(of_y, axis)
    difference = backend.at_least(y, IMPOSSIBLE) - backend.at_least(x, IMPOSSIBLE)
    p, q, r = softmaxes(x, y, difference, xp.log(sum_x), xp.log(sum_y), xp)
    if not beside_derivative and x.shape[axis] <= SHORT:
        p, q = of_y / sum_y, of_x / sum_x
    impossible = xp.maximum(r, -0.5 * IMPOSSIBLE) + 0.5 * IMPOSSIBLE  # else 0, without a select
    if beside_derivative:
        return backend.sum(p * r, axis) + backend.sum(q - p + impossible, axis)
    return backend.sum(p * r + (q - p + impossible), axis)


def _with_closed_form(
    function: Callable[..., Array],
    derivative: Callable[..., Array],
    beside_derivative: Callable[..., Array] | None = None,
) -> Any:
    """``function`` of two arrays and maybe constants, whose tangent is the sum of ``derivative(..., argnum, tangent)``.

    ``beside_derivative`` computes the same as ``function``, if that is faster where the derivative is wanted too.
    """
    import jax
    from jax.custom_derivatives import SymbolicZero

    functions = [jax.custom_jvp(each) for each in (function, beside_derivative or function)]

    def tangent_of(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
        # A symbolic zero times an infinite derivative is zero.
        wanted = [argnum for argnum, tangent in enumerate(tangents[:2]) if not isinstance(tangent, SymbolicZero)]
        terms = [derivative(*primals, argnum, tangents[argnum]) for argnum in wanted]
        return functions[1](*primals), sum(terms[1:], start=terms[0])

    for each in functions:
        each.defjvp(tangent_of, symbolic_zeros=True)
    return functions[0]
