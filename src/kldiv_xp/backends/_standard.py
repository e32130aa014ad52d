"""The evaluation of the loss for any library that follows the array API standard."""

import math
import sys
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Self

from array_api_compat import array_namespace, device

from kldiv_xp._arguments import (
    all_known,
    check_axis,
    check_cotangent,
    check_shapes,
    check_where,
    is_number,
    listed,
    shape_of_rows,
)
from kldiv_xp._formulas import guarded_loss_elements, loss_derivative, without_masked
from kldiv_xp._formulas_from_logits import (
    IMPOSSIBLE,
    Softmaxes,
    difference,
    divergence_terms,
    scores,
    shifted,
    softmaxes,
)
from kldiv_xp._misuse import warn_of_logarithms
from kldiv_xp._options import LogitsOptions, Options, Reduction

Array = Any
DType = Any


class Backend:
    """One array library.

    A library that departs from the standard, or has a faster way, has its own file in this folder, with a class that
    overrides some of these methods. Below, ``x`` and ``y`` are the input and the target, of the same shape.

    ==============================  ================================================================================
    method                          overridden by: why
    ==============================  ================================================================================
    ``arrays``                      MLX, NDOnnx, Dask, Cubed, Sparse, Autograd: one class, which ``owns`` looks up
    ``owns``                        Torch, NumPy, JAX, Strict, Blosc2, MArray: several classes, or no fixed place
    ``of``                          Torch, MLX, NDOnnx, Autograd, Refused: arrays that announce no namespace
    ``converts``                    JAX, Autograd: NumPy arrays may stand beside their own
    ``accepted``                    JAX, NumPy, Torch, Dask, Sparse, Autograd, Refused: they convert or refuse some
    ``supports``                    OnNumPy, Autograd: bfloat16 and a namespace without ``isdtype``
    ``device_of``                   JAX, Torch, MLX, Autograd: arrays without one device
    ``result_dtype``                OnNumPy, NumPy, Torch, Autograd: bfloat16, byte order, autocast
    ``computing_dtype``             OnNumPy, NumPy, Torch: bfloat16, and a quicker look-up
    ``adding_dtype``                OnNumPy, Strict: float64, because NumPy's float32 logarithm is biased
    ``of_equal_shape``              Dask, NDOnnx, MLX: sizes that are unknown, or may change
    ``count``                       NDOnnx: sizes that are arrays
    ``boolean``                     MLX: another name
    ``prepared``                    Torch: a traced program checks shapes again
    ``plain_loss``                  OnNumPy, JAX: they look at targets in memory
    ``elements``                    JAX, Torch, MLX, Autograd: the closed form as the derivative
    ``sum``                         Torch, MLX, NDOnnx: they add sequentially
    ``rounded``                     Torch: sums that are spread over processes
    ``quiet``                       OnNumPy: NumPy warns about intended NaN
    ``cast``                        NumPy, Torch, MLX, Autograd: a method in place of a function
    ``loss``                        NumPy, Torch, JAX: arrays in memory
    ``value_and_grad``              InBlocks, Torch: arrays in memory, and fake tensors
    ``loss_from_logits``            InRowBlocks, Torch, JAX, Sparse: arrays in memory, or a refusal
    ``value_and_grad_from_logits``  InRowBlocks, Torch, Sparse: arrays in memory, fake tensors, or a refusal
    ``divergences``                 JAX, Torch, MLX, Autograd, InChunks: the closed form as the derivative, or chunks
    ``derivative_from_logits``      InChunks: arrays that are computed later, chunk by chunk
    ``at_least``                    Torch: the compiler cannot trace a maximum with a number
    ``top``                         JAX, Torch, MLX, Autograd, NDOnnx: a constant to autodiff, or fewer operators
    ==============================  ================================================================================
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
        return self.xp.sum(self.xp.astype(where, self.xp.int8))  # in the library's default integer

    def elements(self, x: Array, y: Array, dtype: DType, options: Options) -> Array:
        """Loss of each element, computed in ``dtype``; autodiff may differentiate it."""
        return guarded_loss_elements(self.cast(x, dtype), self.cast(y, dtype), options, self.xp)

    def sum(self, x: Array, axis: int | None = None) -> Array:
        """Sum of all elements, or of those along an axis, which stays; in their dtype or a wider one."""
        return self.xp.sum(x, axis=axis, keepdims=axis is not None)

    def rounded(self, loss: Array, dtype: DType) -> Array:
        """The loss, in the dtype of the result."""
        return self.cast(loss, dtype)

    def quiet(self) -> AbstractContextManager[Any]:
        """Context without warnings about NaN and infinity."""
        return nullcontext()

    def cast(self, x: Array, dtype: DType) -> Array:
        """``x`` in another dtype; ``x`` itself if it has that dtype, so that nothing records or checks a cast."""
        return x if x.dtype == dtype else self.xp.astype(x, dtype)

    def notice(self, y: Array, options: Options, where: Array = None) -> None:
        """Warn if all targets are negative, and should not be. For concrete targets in memory, without a mask."""
        if options.log_target or where is not None or 0 in y.shape:
            return
        if float(y[(0,) * y.ndim]) < 0.0 and bool(self.xp.all(y < 0.0)):
            warn_of_logarithms(type(self).__module__.rpartition(".")[2])  # files are named after libraries

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
        self, input: Array, target: Array, where: Array = None, cotangent: Array = None, axis: int | None = None
    ) -> tuple[Array, Array, Array, Array]:
        """The caller's arrays, checked and converted; ``None`` for those that are missing.

        ``where`` is a mask of elements, or of the rows along ``axis``.
        """
        given = {"input": input, "target": target, "where": where, "cotangent": cotangent}
        arrays = {name: self.accepted(name, x) for name, x in given.items() if x is not None}
        devices = {name: self.device_of(x) for name, x in arrays.items()}
        known = [place for place in devices.values() if place is not None]
        if any(place != known[0] for place in known):
            raise ValueError(
                f"{listed(arrays)} must be on one device, got {listed(map(str, devices.values()))}; move them to one"
            )
        for name, x in arrays.items():
            # From logits, class indices are no target at all.
            self.check_dtype("logits of the target" if axis is not None and name == "target" else name, x)
        x, y = arrays["input"], arrays["target"]
        shape = tuple(x.shape)
        check_shapes(shape, tuple(y.shape), of_probabilities=axis is None)
        if axis is not None:
            axis = check_axis(axis, shape)
        if where is not None:
            of = "the input's shape" if axis is None else "the shape of the rows"
            check_where(tuple(arrays["where"].shape), shape_of_rows(shape, axis), of)
        return x, self.of_equal_shape(y, x), arrays.get("where"), arrays.get("cotangent")

    def check_dtype(self, name: str, x: Array) -> None:
        """Raise for an array of an unsupported dtype."""
        if name == "where":
            if x.dtype != self.boolean:
                raise TypeError(f"where must be a boolean array, got {x.dtype}; compare it, as in mask != 0")
        elif not self.supports(x.dtype):
            what = "convert it first"
            if name == "target":
                what = "convert class indices to one-hot probabilities, without log_target, and other numbers to floats"
            raise TypeError(f"{name} must have a real floating-point dtype of 16 bits or more, got {x.dtype}; {what}")

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
                # Cast first: some libraries do not combine scalars with arrays of 16 bits.
                x, y = without_masked(self.cast(x, computing), self.cast(y, computing), where, options, self.xp)
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
            count = self.cast(self.count_true(where), dtype) * each
            # NaN without dividing by zero, whose derivative is infinite: infinity times a gradient of 0 is NaN.
            none = count == 0.0
            return self.xp.where(none, self.xp.nan, value / self.xp.where(none, 1.0, count))
        return value / self.count(elements, axes, dtype) if axes else value

    def loss_from_logits(self, input: Array, target: Array, options: LogitsOptions, where: Array = None) -> Array:
        """The divergence between the softmaxes of the caller's arrays."""
        x, y, where, _ = self.prepared(input, target, where, axis=options.axis)
        return self.plain_loss_from_logits(x, y, options, where)

    def value_and_grad_from_logits(
        self,
        input: Array,
        target: Array,
        options: LogitsOptions,
        wanted: tuple[int, ...],
        cotangent: Array | float | None,
        where: Array = None,
    ) -> tuple[Array, list[Array]]:
        """The divergence between the softmaxes of the caller's arrays, and its gradients by those in ``wanted``."""
        if is_number(cotangent):
            x, y, where, _ = self.prepared(input, target, where, axis=options.axis)
            weight = 1.0 if cotangent is None else float(cotangent)
        else:
            x, y, where, weight = self.prepared(input, target, where, cotangent, axis=options.axis)
        rows = shape_of_rows(tuple(x.shape), options.axis % x.ndim)
        check_cotangent(cotangent, options.reduction, rows)
        loss = self.plain_loss_from_logits(x, y, options, where)
        return loss, self.gradients_from_logits(x, y, options, wanted, weight, where)

    def gradients_from_logits(
        self,
        x: Array,
        y: Array,
        options: LogitsOptions,
        wanted: Iterable[int],
        weight: Array | float,
        where: Array = None,
    ) -> list[Array]:
        """Gradients of the divergence of checked arrays, times ``weight``, which may have the shape of the loss."""
        xp, dtypes = self.xp, (x.dtype, y.dtype)
        computing = self.adding_dtype(self.result_dtype(x, y), x)
        axis = options.axis % x.ndim
        with self.quiet():
            x, y = self.cast(x, computing), self.cast(y, computing)
            x, y, rows = self._without_masked_rows(x, y, where, axis)
            if not isinstance(weight, float):
                weight = self.cast(weight, computing)
            if options.reduction == "none":
                if not all_known(tuple(x.shape)):
                    weight = self.of_equal_shape(weight, xp.max(x, axis=axis))
                weight = xp.expand_dims(weight, axis=axis)
            elif 0 not in x.shape:
                some = xp.squeeze(self.top(x, axis), axis=axis)  # a number for each row
                weight = self.averaged(weight, some, options.reduction, computing, where)
            gradients = [self.derivative_from_logits(x, y, argnum, weight, options) for argnum in wanted]
            if rows is not None:
                gradients = [xp.where(rows, gradient, 0.0) for gradient in gradients]
            return [self.cast(g, dtypes[argnum]) for argnum, g in zip(wanted, gradients, strict=True)]

    def plain_loss_from_logits(self, x: Array, y: Array, options: LogitsOptions, where: Array = None) -> Array:
        """The divergence of checked arrays in array API calls alone, which lazy and traced arrays need."""
        dtype = self.result_dtype(x, y)
        computing = self.adding_dtype(dtype, x)
        options = options._replace(axis=options.axis % x.ndim - x.ndim)  # also right for a batch of x
        axis = options.axis
        with self.quiet():
            x, y, _ = self._without_masked_rows(self.cast(x, computing), self.cast(y, computing), where, axis)
            rows = self.divergences(x, y, options)
            rows = self.xp.squeeze(rows, axis=axis)
            if options.reduction == "none":
                return self.rounded(rows, dtype)
            return self.rounded(self.averaged(self.sum(rows), rows, options.reduction, computing, where), dtype)

    def divergences(self, x: Array, y: Array, options: LogitsOptions) -> Array:
        """Divergence of each row, with the axis of the classes kept; autodiff may differentiate it."""
        return self.plain_divergences(x, y, options)

    def plain_divergences(self, x: Array, y: Array, options: LogitsOptions) -> Array:
        """The same in array API calls alone."""
        if 0 in x.shape:  # which has no maximum; without classes, none is possible
            return self.sum(x, options.axis) + (self.xp.nan if x.shape[options.axis] == 0 else 0.0)
        return self.sum(divergence_terms(self.softmaxes(x, y, options), options.beta, self.xp), options.axis)

    def derivative_from_logits(
        self, x: Array, y: Array, argnum: int, weight: Array | float, options: LogitsOptions
    ) -> Array:
        """Derivatives of the divergences by ``x`` (0) or ``y`` (1), times ``weight``; autodiff may differentiate it."""
        if 0 in x.shape:
            return (x, y)[argnum]
        return self.derivative_of_softmaxes(self.softmaxes(x, y, options), argnum, weight, options)

    def derivative_of_softmaxes(
        self, of: Softmaxes, argnum: int, weight: Array | float, options: LogitsOptions
    ) -> Array:
        """The same, given the softmaxes."""
        beta = options.beta
        if options.exchanged:
            argnum = 1 - argnum
        if beta == 0.0 and argnum == 0:
            return difference(of, self.xp) * (weight / options.temperature)
        if beta == 0.0:
            share, p, score = 1.0, of.p, of.r
        elif argnum == 0:
            share, p, score = 1.0 - beta, of.q, scores(of, beta, self.xp)[1]
        else:
            share, p, score = beta, of.p, scores(of, beta, self.xp)[0]
        return p * (score - self.sum(p * score, options.axis)) * (weight * (share / options.temperature))

    def softmaxes(self, x: Array, y: Array, options: LogitsOptions) -> Softmaxes:
        """Softmaxes of student and teacher."""
        xp, axis = self.xp, options.axis
        if options.exchanged:
            x, y = y, x
        x, y = (shifted(z, self.top(z, axis), options.temperature) for z in (x, y))
        log_sum_x, log_sum_y = (xp.log(self.sum(xp.exp(z), axis)) for z in (x, y))
        difference = self.at_least(y, IMPOSSIBLE) - self.at_least(x, IMPOSSIBLE)
        return softmaxes(x, y, difference, log_sum_x, log_sum_y, xp)

    def at_least(self, x: Array, bound: float) -> Array:
        """``x``, with smaller elements replaced by ``bound``, and NaN kept."""
        return self.xp.maximum(x, bound)

    def top(self, x: Array, axis: int) -> Array:
        """Largest number along an axis, which stays; a constant to autodiff, because a shift changes no softmax."""
        return self.xp.max(x, axis=axis, keepdims=True)

    def _without_masked_rows(self, x: Array, y: Array, where: Array, axis: int) -> tuple[Array, Array, Array]:
        """``x`` and ``y`` with zeros in the rows that do not count, and the mask, broadcasting against both."""
        if where is None:
            return x, y, None
        while where.ndim < x.ndim - 1:
            where = self.xp.expand_dims(where, axis=0)
        where = self.xp.expand_dims(where, axis=axis)
        return self.xp.where(where, x, 0.0), self.xp.where(where, y, 0.0), where
