"""The evaluation of the loss for any library that follows the array API standard."""

import math
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Self

from array_api_compat import array_namespace, device

from kldiv_xp._arguments import all_known, check_cotangent, check_shapes, check_where, is_number, listed
from kldiv_xp._formulas import guarded_loss_elements, loss_derivative, without_masked
from kldiv_xp._options import Options, Reduction

Array = Any
DType = Any


class Backend:
    """One array library.

    A library that departs from the standard, or has a faster way, has its own file in this folder, with a class that
    overrides some of these methods. Below, ``x`` and ``y`` are the input and the target, of the same shape.

    ===================  ===============================================================================================
    method               overridden by: why
    ===================  ===============================================================================================
    ``arrays``           MLX, NDOnnx, Dask, Cubed, Sparse, Autograd: one class of arrays, which ``owns`` looks up
    ``owns``             Torch, NumPy, JAX, Strict, Blosc2, MArray: several classes, or none with a fixed place
    ``of``               Torch, MLX, NDOnnx, Autograd, Refused: arrays that announce no namespace
    ``converts``         JAX, Autograd: NumPy arrays may stand beside their own
    ``accepted``         JAX, NumPy, Torch, Dask, Sparse, Autograd, Refused: some arrays are converted or refused
    ``supports``         OnNumPy, Autograd: bfloat16 and a namespace without ``isdtype``
    ``device_of``        JAX, Torch, MLX, Autograd: arrays without one device
    ``result_dtype``     OnNumPy, NumPy, Torch, Autograd: bfloat16, byte order, autocast
    ``computing_dtype``  OnNumPy, NumPy, Torch: bfloat16, and a quicker look-up
    ``adding_dtype``     OnNumPy, Strict: float64, because NumPy's float32 logarithm is biased
    ``of_equal_shape``   Dask, NDOnnx, MLX: sizes that are unknown, or may change
    ``count``            NDOnnx: sizes that are arrays
    ``count_true``       MLX: its sum takes no dtype
    ``boolean``          MLX: another name
    ``elements``         JAX, Torch, MLX, Autograd: the closed form as the derivative
    ``sum``              Torch, MLX, NDOnnx: they add sequentially
    ``rounded``          Torch: sums that are spread over processes
    ``quiet``            OnNumPy: NumPy warns about intended NaN
    ``cast``             NumPy, Torch, MLX, Autograd: a method in place of a function
    ``loss``             NumPy, Torch, JAX: arrays in memory
    ``value_and_grad``   InBlocks: arrays in memory
    ===================  ===============================================================================================
    """

    arrays: ClassVar[tuple[str, str]] = ("", "")
    """Module and name of the library's class of arrays."""

    def __init__(self, xp: Any) -> None:
        self.xp = xp

    @classmethod
    def owns(cls, kind: type) -> bool:
        """Whether arrays of this type belong to the library; ``find`` uses this class if no library owns the type."""
        module, name = cls.arrays
        library = sys.modules.get(module)  # never imported here: there are arrays only after the caller has done so
        return library is not None and issubclass(kind, getattr(library, name))

    @classmethod
    def of(cls, x: Array) -> Self:
        """Backend for the namespace of an array."""
        return cls(array_namespace(x))

    def converts(self, other: "Backend") -> bool:
        """Whether one call may mix arrays of another library with arrays of this one."""
        return False

    def accepted(self, name: str, x: Array) -> Array:
        """The caller's array, converted if necessary; raise if the loss would ignore what it means.

        ``name`` is the name of the argument, for the error message.
        """
        return x

    def supports(self, dtype: DType) -> bool:
        """Whether a dtype is real floating with 16 bits or more."""
        try:
            return bool(self.xp.isdtype(dtype, "real floating")) and self.xp.finfo(dtype).bits >= 16
        except TypeError:  # raised for dtypes of other packages and of random keys
            return False

    def device_of(self, x: Array) -> Any:
        """Device of ``x``, or ``None`` if it is not bound to one."""
        return device(x)

    def result_dtype(self, x: Array, y: Array) -> DType:
        """Dtype of the loss."""
        return self.xp.result_type(x, y)

    def computing_dtype(self, dtype: DType) -> DType:
        """Dtype to compute in: at least float32, because sums and cancelling terms need more than 16 bits."""
        return self.xp.float32 if self.xp.finfo(dtype).bits < 32 else dtype

    def adding_dtype(self, dtype: DType, x: Array) -> DType:
        """Dtype to compute a reduced loss in."""
        return self.computing_dtype(dtype)

    def of_equal_shape(self, x: Array, like: Array) -> Array:
        """``x``, whose computation raises if its shape turns out to differ from that of ``like``.

        Otherwise an unknown size that turns out to be 1 would broadcast, and the loss would be wrong.
        """
        shape, other = tuple(x.shape), tuple(like.shape)
        if not all_known(shape) or shape != other:
            raise ValueError(
                f"arrays of {self.xp.__name__} must have known sizes, got {shape} and {other}, and unknown sizes"
                " cannot be compared; compute them first"
            )
        return x

    def count(self, x: Array, axes: int, dtype: DType) -> Array | float:
        """Product of the sizes of the first axes: a number, or an array of ``dtype`` if a size is unknown."""
        sizes = tuple(x.shape)[:axes]
        if all_known(sizes):
            size = math.prod(sizes)
            return float(size) if type(size) is int else size  # an integer could be converted to 32 bits
        ones = self.xp.ones_like(x, dtype=self.xp.int8)
        others = tuple(range(axes, x.ndim))
        if others:  # not a sum, which is 0 along an axis of length 0
            ones = self.xp.prod(ones, axis=others)
        # In integers: float32 counts ones only up to 2**24.
        return self.xp.astype(self.xp.sum(ones, dtype=self.xp.int64), dtype)

    def count_true(self, where: Array) -> Array:
        """Number of elements of a mask that are true."""
        return self.xp.sum(self.xp.astype(where, self.xp.int8), dtype=self.xp.int64)

    def elements(self, x: Array, y: Array, dtype: DType, options: Options) -> Array:
        """Loss of each element, computed in ``dtype``; autodiff may differentiate it."""
        return guarded_loss_elements(self.cast(x, dtype), self.cast(y, dtype), options, self.xp)

    def sum(self, x: Array) -> Array:
        """Sum of all elements, in their dtype or a wider one."""
        return self.xp.sum(x)

    def rounded(self, loss: Array, dtype: DType) -> Array:
        """The loss, in the dtype of the result."""
        return self.cast(loss, dtype)

    def quiet(self) -> AbstractContextManager[Any]:
        """Context without warnings about NaN and infinity."""
        return nullcontext()

    def cast(self, x: Array, dtype: DType) -> Array:
        """``x`` in another dtype; ``x`` itself if it has that dtype, so that nothing records or checks a cast."""
        return x if x.dtype == dtype else self.xp.astype(x, dtype)

    def loss(self, input: Array, target: Array, options: Options, where: Array = None) -> Array:
        """The loss of the caller's arrays."""
        x, y, where, _ = self.prepared(input, target, where)
        return self.plain_loss(x, y, options, where)

    def value_and_grad(
        self,
        input: Array,
        target: Array,
        options: Options,
        wanted: tuple[int, ...],
        cotangent: Array | float | None,
        where: Array = None,
    ) -> tuple[Array, list[Array]]:
        """The loss of the caller's arrays, and its gradients by the arguments in ``wanted``."""
        if is_number(cotangent):
            x, y, where, _ = self.prepared(input, target, where)
            weight = 1.0 if cotangent is None else float(cotangent)
        else:
            x, y, where, weight = self.prepared(input, target, where, cotangent)
        check_cotangent(cotangent, options.reduction, tuple(x.shape))
        computing = self.computing_dtype(self.result_dtype(x, y))
        loss = self.plain_loss(x, y, options, where)
        with self.quiet():
            wide_x, wide_y = self.cast(x, computing), self.cast(y, computing)
            if not isinstance(weight, float):
                weight = self.of_equal_shape(weight, x) if options.reduction == "none" else weight
                weight = self.cast(weight, computing)
            if 0 not in x.shape:  # otherwise there is no element to weight
                weight = self.averaged(weight, wide_x, options.reduction, computing, where)
            if where is not None:
                wide_x, wide_y = without_masked(wide_x, wide_y, where, options, self.xp)
            gradients = [loss_derivative(wide_x, wide_y, argnum, weight, options, self.xp) for argnum in wanted]
            if where is not None:
                gradients = [self.xp.where(where, gradient, 0.0) for gradient in gradients]
            return loss, [self.cast(g, (x, y)[argnum].dtype) for argnum, g in zip(wanted, gradients, strict=True)]

    def prepared(
        self, input: Array, target: Array, where: Array = None, cotangent: Array = None
    ) -> tuple[Array, Array, Array, Array]:
        """The caller's arrays, checked and converted; ``None`` for those that are missing."""
        given = {"input": input, "target": target, "where": where, "cotangent": cotangent}
        arrays = {name: self.accepted(name, x) for name, x in given.items() if x is not None}
        devices = {name: self.device_of(x) for name, x in arrays.items()}
        known = [place for place in devices.values() if place is not None]
        if any(place != known[0] for place in known):
            raise ValueError(
                f"{listed(arrays)} must be on one device, got {listed(map(str, devices.values()))}; move them to one"
            )
        for name, x in arrays.items():
            self.check_dtype(name, x)
        x, y = arrays["input"], arrays["target"]
        check_shapes(tuple(x.shape), tuple(y.shape))
        if where is not None:
            check_where(tuple(arrays["where"].shape), tuple(x.shape))
        return x, self.of_equal_shape(y, x), arrays.get("where"), arrays.get("cotangent")

    def check_dtype(self, name: str, x: Array) -> None:
        """Raise for an array of an unsupported dtype."""
        if name == "where":
            if x.dtype != self.boolean:
                raise TypeError(f"where must be a boolean array, got {x.dtype}; compare it, as in mask != 0")
        elif not self.supports(x.dtype):
            raise TypeError(
                f"{name} must have a real floating-point dtype of 16 bits or more, got {x.dtype};"
                " convert it first, class indices to one-hot probabilities"
            )

    @property
    def boolean(self) -> DType:
        """Dtype of a mask."""
        return self.xp.bool

    def plain_loss(self, x: Array, y: Array, options: Options, where: Array = None) -> Array:
        """The loss of checked arrays in array API calls alone, which lazy and traced arrays need."""
        dtype = self.result_dtype(x, y)
        computing = self.computing_dtype(dtype) if options.reduction == "none" else self.adding_dtype(dtype, x)
        with self.quiet():
            if where is not None:
                x, y = without_masked(x, y, where, options, self.xp)
            loss = self.elements(x, y, computing, options)
            if options.reduction != "none":
                loss = self.averaged(self.sum(loss), loss, options.reduction, computing, where)
            return self.rounded(loss, dtype)

    def averaged(self, value: Array, elements: Array, reduction: Reduction, dtype: DType, where: Array = None) -> Array:
        """``value``, divided by the number of elements that count (``"mean"``) or of rows (``"batchmean"``)."""
        axes = {"mean": elements.ndim, "batchmean": min(elements.ndim, 1)}.get(reduction, 0)
        if where is not None and reduction == "mean":
            # Each element of the mask stands for as many of the input.
            each = self.count(elements, axes, dtype) / self.count(where, where.ndim, dtype)
            return value / (self.cast(self.count_true(where), dtype) * each)
        return value / self.count(elements, axes, dtype) if axes else value
