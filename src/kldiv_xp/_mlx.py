"""What is particular to MLX. Imported with the library, so it must not import mlx itself.

This module is the namespace of MLX arrays: MLX's own, with what it lacks or gets wrong in its place.
"""

import sys
from functools import cache
from typing import Any

from kldiv_xp._formulas import loss_derivatives, loss_elements
from kldiv_xp._options import Convention

Array = Any

BLOCK = 4096
"""Terms that are added one behind the other; in float64 they lose a digit at most."""


def is_array(x: object) -> bool:
    mx = sys.modules.get("mlx.core")
    return mx is not None and isinstance(x, mx.array)


def namespace() -> Any:
    return sys.modules[__name__]


def __getattr__(name: str) -> Any:
    if "mlx.core" not in sys.modules:
        raise AttributeError(name)
    return getattr(sys.modules["mlx.core"], name)


def differentiable_loss_elements(x: Array, y: Array, *, log_target: bool, convention: Convention) -> Array:
    """Loss of each element, with the closed form as its derivative.

    As JAX does, MLX differentiates the derivative of the logarithm, ``1 / y``, to a division by ``y**2``, which is zero for
    a float32 target below 1e-23; and where ``1 / y`` is infinite, so is the derivative by autodiff, times ``y`` or not.
    """
    result: Array = _with_closed_form(log_target, convention)(x, y)
    return result


def astype(x: Array, dtype: Any, /, *, copy: bool = True) -> Array:
    """Array of another dtype; MLX takes no ``copy``, and makes none of what no one can change."""
    return x.astype(dtype)


def exp(x: Array, /) -> Array:
    """Exponential, in the precision and the range of the dtype.

    On the CPU, MLX computes that of a float64 in float32, and that of a float32 to 30 roundings; see
    https://github.com/ml-explore/mlx/issues/4158 and https://github.com/ml-explore/mlx/issues/1341.
    """
    import mlx.core as mx

    return _exp_on_cpu()(x) if _on_cpu() else mx.exp(x)


def sum(x: Array, /) -> Array:
    """Sum of all elements: in float64 and in blocks on the CPU, where MLX's is a running total.

    See https://github.com/ml-explore/mlx/issues/4379. GPUs have no float64, and add in blocks anyway.
    """
    import mlx.core as mx

    if not _on_cpu():
        return mx.sum(x)
    total = x.astype(mx.float64)
    while total.ndim:
        length = total.shape[-1]
        if length > BLOCK:
            total = mx.pad(total, [(0, 0)] * (total.ndim - 1) + [(0, -length % BLOCK)])
            total = mx.unflatten(total, -1, (-1, BLOCK))
        total = mx.sum(total, axis=-1)
    return total.astype(x.dtype)


@cache
def _with_closed_form(log_target: bool, convention: Convention) -> Any:
    import mlx.core as mx

    options = {"log_target": log_target, "convention": convention, "xp": namespace()}

    @mx.custom_function
    def elements(x: Array, y: Array) -> Array:
        return loss_elements(x, y, **options)

    @elements.vjp
    def pullback(primals: tuple[Array, Array], cotangent: Array, loss: Array) -> tuple[Array, ...]:
        return tuple(derivative * cotangent for derivative in loss_derivatives(*primals, **options))

    @elements.jvp
    def pushforward(primals: tuple[Array, Array], tangents: tuple[Array | None, Array | None]) -> Array:
        derivatives = loss_derivatives(*primals, **options)
        first, *second = [d * t for d, t in zip(derivatives, tangents, strict=True) if t is not None]
        return first + second[0] if second else first

    return elements


@cache
def _exp_on_cpu() -> Any:
    import mlx.core as mx

    @mx.custom_function
    def exponential(x: Array) -> Array:
        # expm1 is right in every dtype. Of half the argument, whose exponential has a reciprocal that is no subnormal
        # number; and of a positive one, from whose expm1 adding one takes no digits.
        half = x / 2
        negative = half < 0
        root = mx.expm1(mx.where(negative, -half, half)) + 1
        root = mx.where(negative, 1 / root, root)
        return root * root

    # Else MLX derives them from the derivative of expm1, which is its own exponential.
    @exponential.vjp
    def pullback(x: Array, cotangent: Array, p: Array) -> Array:
        return cotangent * p

    @exponential.jvp
    def pushforward(x: Array, tangent: Array) -> Array:
        return exponential(x) * tangent

    return exponential


def _on_cpu() -> bool:
    import mlx.core as mx

    on_cpu: bool = mx.default_device().type == mx.DeviceType.cpu
    return on_cpu
