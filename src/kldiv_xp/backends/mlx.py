"""MLX, which has no array API namespace, and whose CPU exponential and sum are inaccurate."""

import sys
from collections.abc import Callable
from functools import cache
from typing import Any, ClassVar

from kldiv_xp._formulas import loss_derivative, loss_elements
from kldiv_xp._options import LogitsOptions, Options
from kldiv_xp.backends._standard import Array, Backend, DType

BLOCK = 16
"""Numbers in a block, which are added sequentially: a large one may lose half a unit for each of the others."""


class MLX(Backend):
    """MLX arrays."""

    arrays: ClassVar[tuple[str, str]] = ("mlx.core", "array")

    @classmethod
    def of(cls, x: Array) -> "MLX":  # noqa: ARG003
        """Backend; the arrays do not announce a namespace."""
        return cls(_Namespace())

    def device_of(self, x: Array) -> None:
        """``None``: all devices share the memory."""

    def of_equal_shape(self, x: Array, like: Array) -> Array:
        """``x``, in a form that ``mx.compile(shapeless=True)`` rejects.

        Shapeless code would compare shapes, and compute the divisor of a mean, only while tracing. MLX cannot infer
        the output shape of a custom function, so it raises for this one.
        """
        return _itself()(x)

    def elements(self, x: Array, y: Array, dtype: DType, options: Options) -> Array:
        """Loss of each element, with the derivative in closed form.

        MLX's second derivative of the logarithm divides by ``y**2``, which is zero for a float32 target below 1e-23.
        Its first derivative is infinite where ``1 / y`` is.
        """
        return _elements(options, self.xp)(self.cast(x, dtype), self.cast(y, dtype))

    def divergences(self, x: Array, y: Array, options: LogitsOptions) -> Array:
        """Divergence of each row, with the derivative in closed form."""
        return _divergences(self, options)(x, y)

    def top(self, x: Array, axis: int) -> Array:
        """Largest number along an axis, which stays; a constant to autodiff."""
        return self.xp.stop_gradient(super().top(x, axis))

    @property
    def boolean(self) -> DType:
        """Dtype of a mask, which is not named as in the standard."""
        return sys.modules["mlx.core"].bool_

    def cast(self, x: Array, dtype: DType) -> Array:
        """``x`` in another dtype."""
        return x.astype(dtype)

    def sum(self, x: Array, axis: int | None = None) -> Array:
        """Sum of all elements: on the CPU in float64 and in blocks, with a float64 result. Or sums along an axis.

        On the CPU MLX adds sequentially, which loses digits in float32; see
        https://github.com/ml-explore/mlx/issues/4379. GPUs have no float64, and add in blocks.
        """
        import mlx.core as mx

        if axis is not None:
            return mx.sum(x.astype(mx.float64) if _on_cpu() else x, axis=axis, keepdims=True).astype(x.dtype)
        if not _on_cpu():
            return mx.sum(x)
        x = mx.flatten(x).astype(mx.float64)
        while x.size > BLOCK:
            x = mx.sum(mx.pad(x, (0, -x.size % BLOCK)).reshape(-1, BLOCK), axis=1)
        return mx.sum(x)


class _Namespace:
    """MLX's functions, with an exponential that has the precision and the range of the dtype, as a derivative, too.

    On the CPU, MLX computes the float64 exponential in float32, and the float32 one with errors of 30 roundings; see
    https://github.com/ml-explore/mlx/issues/4158 and https://github.com/ml-explore/mlx/issues/1341.
    """

    __name__ = "mlx.core"

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.modules["mlx.core"], name)

    def exp(self, x: Array, /) -> Array:
        return _exp_on_cpu()(x) if _on_cpu() else sys.modules["mlx.core"].exp(x)

    def expm1(self, x: Array, /) -> Array:
        return _expm1_on_cpu()(x) if _on_cpu() else sys.modules["mlx.core"].expm1(x)


@cache
def _elements(options: Options, xp: Any) -> Any:
    def derivative(x: Array, y: Array, argnum: int, weight: Array) -> Array:
        return loss_derivative(x, y, argnum, weight, options, xp)

    return _with_closed_form(lambda x, y: loss_elements(x, y, options, xp), derivative, lambda tangent: tangent)


@cache
def _divergences(backend: MLX, options: LogitsOptions) -> Any:
    def derivative(x: Array, y: Array, argnum: int, weight: Array) -> Array:
        return backend.derivative_from_logits(x, y, argnum, weight, options)

    return _with_closed_form(
        lambda x, y: backend.plain_divergences(x, y, options),
        derivative,
        lambda tangent: backend.sum(tangent, options.axis),
    )


def _with_closed_form(
    function: Callable[..., Array], derivative: Callable[..., Array], collected: Callable[[Array], Array]
) -> Any:
    """``function``, with derivatives times the cotangent, and with the tangent that is ``collected`` from them."""
    import mlx.core as mx

    differentiable = mx.custom_function(function)

    @differentiable.vjp
    def pullback(primals: tuple[Array, Array], cotangent: Array, _: Array) -> tuple[Array, ...]:
        return tuple(derivative(*primals, argnum, cotangent) for argnum in (0, 1))

    @differentiable.jvp
    def pushforward(primals: tuple[Array, Array], tangents: tuple[Array | None, Array | None]) -> Array:
        first, *second = [
            derivative(*primals, argnum, tangent) for argnum, tangent in enumerate(tangents) if tangent is not None
        ]
        return collected(first + second[0] if second else first)

    return differentiable


@cache
def _itself() -> Any:
    import mlx.core as mx

    itself = mx.custom_function(lambda x: x)
    itself.vjp(lambda _x, cotangent, _result: cotangent)  # without a vjp MLX drops the custom function
    itself.jvp(lambda _x, tangent: tangent)
    return itself


@cache
def _exp_on_cpu() -> Any:
    import mlx.core as mx

    @mx.custom_function
    def exponential(x: Array) -> Array:
        # expm1 is accurate in every dtype. Halving the argument keeps the reciprocal of the exponential normal. For a
        # positive argument, adding 1 to expm1 loses no digits.
        half = x / 2
        negative = half < 0
        root = mx.expm1(mx.where(negative, -half, half)) + 1
        root = mx.where(negative, 1 / root, root)
        return root * root

    # Otherwise MLX would derive these from expm1, whose derivative is MLX's own exponential.
    @exponential.vjp
    def pullback(_: Array, cotangent: Array, p: Array) -> Array:
        return cotangent * p

    @exponential.jvp
    def pushforward(x: Array, tangent: Array) -> Array:
        return exponential(x) * tangent

    return exponential


@cache
def _expm1_on_cpu() -> Any:
    import mlx.core as mx

    accurate = mx.custom_function(mx.expm1)
    exp = _exp_on_cpu()
    accurate.vjp(lambda x, cotangent, _: cotangent * exp(x))
    accurate.jvp(lambda x, tangent: tangent * exp(x))
    return accurate


def _on_cpu() -> bool:
    import mlx.core as mx

    on_cpu: bool = mx.default_device().type == mx.DeviceType.cpu
    return on_cpu
