"""What is particular to MLX. Imported with the library, so it must not import mlx itself.

This module is the namespace of MLX arrays: MLX's own, with what it lacks or gets wrong in its place.
"""

import sys
from functools import cache
from typing import Any

from kldiv_xp._formulas import loss_derivative, loss_elements
from kldiv_xp._options import Convention

Array = Any

BLOCK = 4096
"""Numbers that are added one behind the other."""


def is_array(x: object) -> bool:
    mx = sys.modules.get("mlx.core")
    return mx is not None and isinstance(x, mx.array)


def namespace() -> Any:
    return sys.modules[__name__]


def is_namespace(xp: Any) -> bool:
    name: str = xp.__name__
    return name == __name__


def __getattr__(name: str) -> Any:
    if "mlx.core" not in sys.modules:
        raise AttributeError(name)
    return getattr(sys.modules["mlx.core"], name)


def differentiable_loss_elements(x: Array, y: Array, log_target: bool, convention: Convention) -> Array:
    """Loss of each element, with the closed form as its derivative.

    As JAX does, MLX differentiates the derivative of the logarithm, ``1 / y``, to a division by ``y**2``, which is
    zero for a float32 target below 1e-23; and where ``1 / y`` is infinite, so is the derivative by autodiff.
    """
    result: Array = _with_closed_form(log_target, convention)(x, y)
    return result


def astype(x: Array, dtype: Any, /, *, copy: bool = True) -> Array:  # noqa: ARG001
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
    """Sum of all elements: on the CPU in float64, of that dtype, and in blocks.

    MLX adds one number behind the other there, which in float32 drifts; see https://github.com/ml-explore/mlx/issues/4379.
    GPUs have no float64, and add in blocks.
    """
    import mlx.core as mx

    if not _on_cpu():
        return mx.sum(x)
    if x.size <= BLOCK:
        return mx.sum(x.astype(mx.float64))
    rows = mx.pad(mx.flatten(x), (0, -x.size % BLOCK)).reshape(-1, BLOCK)
    return mx.sum(mx.sum(rows.astype(mx.float64), axis=1))


def of_fixed_shape(x: Array) -> Array:
    """``x``, of the shape that it has now.

    With ``mx.compile(shapeless=True)`` shapes would be compared, and sums be divided, when the function is traced, and
    not be looked at again. Of a function with a derivative of its own MLX cannot infer the shape, so that it refuses.
    """
    result: Array = _itself()(x)
    return result


@cache
def _with_closed_form(log_target: bool, convention: Convention) -> Any:
    import mlx.core as mx

    options: tuple[Any, ...] = (log_target, convention, namespace())

    @mx.custom_function
    def elements(x: Array, y: Array) -> Array:
        return loss_elements(x, y, *options)

    @elements.vjp
    def pullback(primals: tuple[Array, Array], cotangent: Array, _: Array) -> tuple[Array, ...]:
        return tuple(loss_derivative(*primals, argnum, cotangent, *options) for argnum in (0, 1))

    @elements.jvp
    def pushforward(primals: tuple[Array, Array], tangents: tuple[Array | None, Array | None]) -> Array:
        first, *second = [
            loss_derivative(*primals, argnum, tangent, *options)
            for argnum, tangent in enumerate(tangents)
            if tangent is not None
        ]
        return first + second[0] if second else first

    return elements


@cache
def _itself() -> Any:
    import mlx.core as mx

    itself = mx.custom_function(lambda x: x)
    itself.vjp(lambda _x, cotangent, _result: cotangent)  # without it MLX forgets the function
    itself.jvp(lambda _x, tangent: tangent)
    return itself


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
    def pullback(_: Array, cotangent: Array, p: Array) -> Array:
        return cotangent * p

    @exponential.jvp
    def pushforward(x: Array, tangent: Array) -> Array:
        return exponential(x) * tangent

    return exponential


def _on_cpu() -> bool:
    import mlx.core as mx

    on_cpu: bool = mx.default_device().type == mx.DeviceType.cpu
    return on_cpu
