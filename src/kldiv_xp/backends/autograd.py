"""HIPS Autograd, which differentiates NumPy code by passing boxes that hold arrays."""

import sys
from collections.abc import Callable
from functools import cache
from typing import Any, ClassVar

from kldiv_xp._formulas import guarded_loss_elements, loss_derivative
from kldiv_xp._options import LogitsOptions, Options
from kldiv_xp.backends._on_numpy import OnNumPy
from kldiv_xp.backends._standard import Array, Backend, DType
from kldiv_xp.backends.numpy import NumPy, refuse_subclass


class Autograd(OnNumPy):
    """Boxes, alone or mixed with NumPy arrays."""

    arrays: ClassVar[tuple[str, str]] = ("autograd.numpy.numpy_boxes", "ArrayBox")

    @classmethod
    def of(cls, x: Array) -> "Autograd":  # noqa: ARG003
        """Backend; boxes do not announce a namespace."""
        return cls(sys.modules["autograd.numpy"])

    def converts(self, other: Backend) -> bool:
        """Whether one call may mix arrays of another library with boxes: NumPy's."""
        return isinstance(other, NumPy)

    def accepted(self, name: str, x: Array) -> Array:
        """The array; raise for a subclass of ``numpy.ndarray`` with its own semantics."""
        refuse_subclass(name, getattr(x, "_value", x))
        return x

    def supports(self, dtype: DType) -> bool:
        """Whether a dtype is real floating; all of NumPy's have 16 bits or more."""
        np = sys.modules["numpy"]
        return bool(np.issubdtype(dtype, np.floating))

    def device_of(self, x: Array) -> None:
        """``None``: NumPy has one device."""

    def result_dtype(self, x: Array, y: Array) -> DType:
        """Promoted dtype."""
        return self.xp.result_type(x.dtype, y.dtype)

    def cast(self, x: Array, dtype: DType) -> Array:
        """``x`` in another dtype; ``x`` itself if it has that dtype."""
        return x if x.dtype == dtype else x.astype(dtype)

    def elements(self, x: Array, y: Array, dtype: DType, options: Options) -> Array:
        """Loss of each element, with the derivative in closed form."""
        return _elements(options)(self.cast(x, dtype), self.cast(y, dtype))

    def divergences(self, x: Array, y: Array, options: LogitsOptions) -> Array:
        """Divergence of each row, with the derivative in closed form."""
        return _divergences(self, options)(x, y)

    def top(self, x: Array, axis: int) -> Array:
        """Largest number along an axis, which stays; a constant to autodiff."""
        from autograd.tracer import getval

        return super().top(getval(x), axis)


@cache
def _elements(options: Options) -> Any:
    from autograd import numpy

    xp: Any = numpy

    def derivative(x: Array, y: Array, argnum: int, weight: Array) -> Array:
        return loss_derivative(x, y, argnum, weight, options, xp)

    return _with_closed_form(
        lambda x, y: guarded_loss_elements(x, y, options, sys.modules["numpy"]), derivative, lambda tangent: tangent
    )


@cache
def _divergences(backend: Autograd, options: LogitsOptions) -> Any:
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
    from autograd.extend import defjvp, defvjp, primitive

    differentiable = primitive(function)

    def weighted(argnum: int, weight: Array, x: Array, y: Array) -> Array:
        with sys.modules["numpy"].errstate(all="ignore"):
            return derivative(x, y, argnum, weight)

    def pullback(argnum: int) -> Any:
        return lambda _, x, y: lambda weight: weighted(argnum, weight, x, y)

    def pushforward(argnum: int) -> Any:
        return lambda tangent, _, x, y: collected(weighted(argnum, tangent, x, y))

    defvjp(differentiable, pullback(0), pullback(1))
    defjvp(differentiable, pushforward(0), pushforward(1))
    return differentiable
