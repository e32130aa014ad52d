"""What the array API standard gives: the evaluation of the loss for any library that speaks it."""

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self

from array_api_compat import array_namespace, device

from kldiv_xp._arguments import all_known, check_cotangent, check_shapes, is_number, listed
from kldiv_xp._formulas import guarded_loss_elements, loss_derivative
from kldiv_xp._options import Options, Reduction

Array = Any
DType = Any


class Backend:
    """One array library.

    A library that departs from the standard, or has a faster way, has a file of its own in this folder, with a class
    that replaces some of these methods. Below, ``x`` and ``y`` are input and target, of one shape.

    ===================  ===============================================================================================
    method               replaced by
    ===================  ===============================================================================================
    ``owns``             every library with a file of its own
    ``of``               PyTorch, MLX and ndonnx, whose namespaces are not those that they announce
    ``converts``         JAX, which takes NumPy arrays beside its own
    ``taken``            JAX, which converts those; libraries with arrays of which the loss would be a wrong number
    ``takes``            NumPy and Dask, which hold numbers of bfloat16
    ``device_of``        JAX, PyTorch and MLX, whose arrays need not be bound to one device
    ``result_dtype``     NumPy and Dask, for bfloat16; PyTorch, for autocast
    ``computing_dtype``  NumPy and Dask, for bfloat16
    ``adding_dtype``     what computes with NumPy, whose float32 logarithm errs to one side
    ``of_equal_shape``   Dask and ndonnx, whose sizes may be unknown; MLX, whose may change
    ``count``            ndonnx, whose sizes are arrays
    ``elements``         JAX, PyTorch and MLX, with the closed form as the derivative
    ``sum``              PyTorch, MLX and ndonnx, which add one number behind the other
    ``rounded``          PyTorch, whose sums may be spread over processes
    ``quiet``            what computes with NumPy, which warns of NaN that is meant to be
    ``loss``             NumPy, PyTorch and JAX, for arrays in memory
    ``value_and_grad``   NumPy and PyTorch, likewise
    ===================  ===============================================================================================
    """

    def __init__(self, xp: Any) -> None:
        self.xp = xp

    @classmethod
    def owns(cls, kind: type) -> bool:  # noqa: ARG003
        """Whether arrays of this type belong to the library; the standard's own backend takes what no other does."""
        return False

    @classmethod
    def of(cls, x: Array) -> Self:
        """Backend for the namespace of an array."""
        return cls(array_namespace(x))

    def converts(self, other: "Backend") -> bool:
        """Whether arrays of another library may stand beside those of this one."""
        return False

    def taken(self, name: str, x: Array) -> Array:
        """An array that a caller passes, as one to compute with; raise if its meaning would be lost.

        ``name`` is the caller's argument, for the error message.
        """
        return x

    def takes(self, dtype: DType) -> bool:
        """Whether a dtype is real floating, and has 16 bits or more."""
        try:
            return bool(self.xp.isdtype(dtype, "real floating")) and self.xp.finfo(dtype).bits >= 16
        except TypeError:  # a library may refuse the question for dtypes of other packages and for those of random keys
            return False

    def device_of(self, x: Array) -> Any:
        """Device that ``x`` is bound to, or ``None``."""
        return device(x)

    def result_dtype(self, x: Array, y: Array) -> DType:
        """Dtype of the loss."""
        return self.xp.result_type(x, y)

    def computing_dtype(self, dtype: DType) -> DType:
        """Dtype to compute in: 16 bits are too few for sums, and for the terms that cancel."""
        return self.xp.float32 if self.xp.finfo(dtype).bits < 32 else dtype

    def adding_dtype(self, dtype: DType, x: Array) -> DType:
        """Dtype to compute in where the loss is reduced."""
        return self.computing_dtype(dtype)

    def of_equal_shape(self, x: Array, like: Array) -> Array:
        """``x``, whose computation fails if it turns out to have another shape than ``like``.

        Without this, a size that is 1 would be broadcast when it is computed, and the loss be a wrong number.
        """
        shape, other = tuple(x.shape), tuple(like.shape)
        if not all_known(shape) or shape != other:
            raise ValueError(
                f"arrays of {self.xp.__name__} must have known sizes, got {shape} and {other}: that those"
                " which are unknown are equal could not be checked; compute them first"
            )
        return x

    def count(self, x: Array, axes: int, dtype: DType) -> Array | float:
        """Product of the sizes of the first few axes: a number, or an array of ``dtype`` where some are not known."""
        sizes = tuple(x.shape)[:axes]
        if all_known(sizes):
            size = math.prod(sizes)
            return float(size) if type(size) is int else size  # an integer may be taken for one of 32 bits
        ones = self.xp.ones_like(x, dtype=self.xp.int8)
        others = tuple(range(axes, x.ndim))
        if others:  # not a sum, which is 0 where one of them has no length
            ones = self.xp.prod(ones, axis=others)
        # In integers: 2**24 is the largest number of ones that float32 can count.
        return self.xp.astype(self.xp.sum(ones, dtype=self.xp.int64), dtype)

    def elements(self, x: Array, y: Array, dtype: DType, options: Options) -> Array:
        """Loss of each element, computed in ``dtype``; autodiff may go through it."""
        return guarded_loss_elements(self.cast(x, dtype), self.cast(y, dtype), options, self.xp)

    def sum(self, x: Array) -> Array:
        """Sum of all elements, of a dtype that is not narrower than theirs."""
        return self.xp.sum(x)

    def rounded(self, loss: Array, dtype: DType) -> Array:
        """The loss, in the dtype of the result."""
        return self.cast(loss, dtype)

    def quiet(self) -> AbstractContextManager[Any]:
        """Context without warnings of NaN and infinity."""
        return nullcontext()

    def cast(self, x: Array, dtype: DType) -> Array:
        """``x`` in another dtype; itself where it has that already, so that no cast is recorded or checked for NaN."""
        return x if x.dtype == dtype else self.xp.astype(x, dtype)

    def loss(self, input: Array, target: Array, options: Options) -> Array:
        """The loss of what a caller passes."""
        x, y = self.take(input=input, target=target)
        return self.plain_loss(x, self.of_same_shape(x, y), options)

    def value_and_grad(
        self, input: Array, target: Array, options: Options, wanted: tuple[int, ...], cotangent: Array | float | None
    ) -> tuple[Array, list[Array]]:
        """The loss of what a caller passes, and its gradients by the arguments in ``wanted``."""
        if is_number(cotangent):
            x, y = self.take(input=input, target=target)
            weight = 1.0 if cotangent is None else float(cotangent)
        else:
            x, y, weight = self.take(input=input, target=target, cotangent=cotangent)
        y = self.of_same_shape(x, y)
        check_cotangent(cotangent, options.reduction, tuple(x.shape))
        computing = self.computing_dtype(self.result_dtype(x, y))
        loss = self.plain_loss(x, y, options)
        with self.quiet():
            wide_x, wide_y = self.cast(x, computing), self.cast(y, computing)
            if not isinstance(weight, float):
                weight = self.of_equal_shape(weight, x) if options.reduction == "none" else weight
                weight = self.cast(weight, computing)
            if 0 not in x.shape:  # there is nothing to weight otherwise
                weight = self.averaged(weight, wide_x, options.reduction, computing)
            gradients = [loss_derivative(wide_x, wide_y, argnum, weight, options, self.xp) for argnum in wanted]
            return loss, [self.cast(g, (x, y)[argnum].dtype) for argnum, g in zip(wanted, gradients, strict=True)]

    def take(self, **given: Array) -> list[Array]:
        """Arrays that may be computed with together; raise if these may not.

        The keywords are the names of the caller's arguments, for the error messages.
        """
        arrays = {name: self.taken(name, x) for name, x in given.items()}
        devices = {name: self.device_of(x) for name, x in arrays.items()}
        known = [place for place in devices.values() if place is not None]
        if any(place != known[0] for place in known):
            raise ValueError(
                f"{listed(arrays)} must be on one device, got {listed(map(str, devices.values()))}; move them to one"
            )
        for name, x in arrays.items():
            self.check_dtype(name, x)
        return list(arrays.values())

    def check_dtype(self, name: str, x: Array) -> None:
        """Raise for an array of a dtype that is not taken."""
        if not self.takes(x.dtype):
            raise TypeError(
                f"{name} must have a real floating-point dtype of 16 bits or more, got {x.dtype}; convert it first"
            )

    def of_same_shape(self, x: Array, y: Array) -> Array:
        """``y``, of the shape of ``x``; raise for another one, at the latest when it is computed."""
        check_shapes(tuple(x.shape), tuple(y.shape))
        return self.of_equal_shape(y, x)

    def plain_loss(self, x: Array, y: Array, options: Options) -> Array:
        """The loss by the array API alone, of arrays that were taken: lazy ones and such as are traced among them."""
        dtype = self.result_dtype(x, y)
        computing = self.computing_dtype(dtype) if options.reduction == "none" else self.adding_dtype(dtype, x)
        with self.quiet():
            loss = self.elements(x, y, computing, options)
            if options.reduction != "none":
                loss = self.averaged(self.sum(loss), loss, options.reduction, computing)
            return self.rounded(loss, dtype)

    def averaged(self, value: Array, elements: Array, reduction: Reduction, dtype: DType) -> Array:
        """``value`` divided by the number of the elements or of their rows, as the reduction asks."""
        axes = {"mean": elements.ndim, "batchmean": min(elements.ndim, 1)}.get(reduction, 0)
        return value / self.count(elements, axes, dtype) if axes else value
