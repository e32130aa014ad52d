"""MLX, which has no namespace of the standard, and whose exponential and sum on the CPU lose digits."""

import sys
from functools import cache
from typing import Any

from kldiv_xp._formulas import loss_derivative, loss_elements
from kldiv_xp._options import Options
from kldiv_xp.backends._standard import Array, Backend, DType

BLOCK = 4096
"""Numbers that are added one behind the other."""


class MLX(Backend):
    """MLX arrays."""

    @classmethod
    def owns(cls, kind: type) -> bool:
        """Whether arrays of this type are MLX's."""
        mx = sys.modules.get("mlx.core")
        return mx is not None and issubclass(kind, mx.array)

    @classmethod
    def of(cls, x: Array) -> "MLX":  # noqa: ARG003
        """Backend for these arrays, which announce no namespace."""
        return cls(_Namespace())

    def device_of(self, x: Array) -> None:
        """``None``: the memory is shared by all devices."""

    def of_equal_shape(self, x: Array, like: Array) -> Array:
        """``x``, of the shape that it has now.

        With ``mx.compile(shapeless=True)`` shapes would be compared, and sums be divided, when the function is traced,
        and not be looked at again. Of a function with a derivative of its own MLX cannot infer the shape, so that it
        refuses.
        """
        return _itself()(x)

    def elements(self, x: Array, y: Array, dtype: DType, options: Options) -> Array:
        """Loss of each element, with the closed form as its derivative.

        As JAX does, MLX differentiates the derivative of the logarithm, ``1 / y``, to a division by ``y**2``, which is
        zero for a float32 target below 1e-23; and where ``1 / y`` is infinite, so is the derivative by autodiff.
        """
        return _with_closed_form(options, self.xp)(self.cast(x, dtype), self.cast(y, dtype))

    def cast(self, x: Array, dtype: DType) -> Array:
        """``x`` in another dtype."""
        return x.astype(dtype)

    def sum(self, x: Array) -> Array:
        """Sum of all elements: on the CPU in float64, of that dtype, and in blocks.

        MLX adds one number behind the other there, which in float32 drifts; see
        https://github.com/ml-explore/mlx/issues/4379. GPUs have no float64, and add in blocks.
        """
        import mlx.core as mx

        if not _on_cpu():
            return mx.sum(x)
        if x.size <= BLOCK:
            return mx.sum(x.astype(mx.float64))
        rows = mx.pad(mx.flatten(x), (0, -x.size % BLOCK)).reshape(-1, BLOCK)
        return mx.sum(mx.sum(rows.astype(mx.float64), axis=1))


class _Namespace:
    """MLX's functions, with an exponential that keeps the precision and the range of the dtype.

    On the CPU, MLX computes that of a float64 in float32, and that of a float32 to 30 roundings; see
    https://github.com/ml-explore/mlx/issues/4158 and https://github.com/ml-explore/mlx/issues/1341.
    """

    __name__ = "mlx.core"

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.modules["mlx.core"], name)

    def exp(self, x: Array, /) -> Array:
        return _exp_on_cpu()(x) if _on_cpu() else sys.modules["mlx.core"].exp(x)


@cache
def _with_closed_form(options: Options, xp: Any) -> Any:
    import mlx.core as mx

    @mx.custom_function
    def elements(x: Array, y: Array) -> Array:
        return loss_elements(x, y, options, xp)

    @elements.vjp
    def pullback(primals: tuple[Array, Array], cotangent: Array, _: Array) -> tuple[Array, ...]:
        return tuple(loss_derivative(*primals, argnum, cotangent, options, xp) for argnum in (0, 1))

    @elements.jvp
    def pushforward(primals: tuple[Array, Array], tangents: tuple[Array | None, Array | None]) -> Array:
        first, *second = [
            loss_derivative(*primals, argnum, tangent, options, xp)
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
