"""Losses and gradients of arrays in memory, evaluated on the CPU in blocks that fit into its cache.

The temporaries of a block stay in the cache, and do not grow with the arrays. A small array is one block, and takes
microseconds, so this code avoids function calls.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar

from kldiv_xp._arguments import check_where, is_number
from kldiv_xp._formulas import derivative_by_log_target, derivative_off_edge, edge_of, loss_off_edge, without_masked
from kldiv_xp._options import Options, Reduction
from kldiv_xp.backends._scratch import Into, Scratch, SpareMemory
from kldiv_xp.backends._standard import Array, Backend, DType


class InBlocks(Backend, ABC):
    """A library with arrays in memory.

    Blocks use the library's own namespace ``native``, whose functions are faster to call than the wrapped ones.
    """

    native: Any
    float64: DType
    """The dtype that an array of float64 has, which is a key of scratch memory."""
    ordinary: tuple[type, ...]
    """Types of arrays that mean nothing but their elements."""
    few: ClassVar[int]
    """Largest number of elements that is evaluated at once, mostly in new memory."""
    spare_memory: SpareMemory
    """For the temporaries of blocks."""

    @abstractmethod
    def is_ordinary(self, x: Array, y: Any) -> bool:
        """Whether ``x`` and ``y`` are plain arrays in memory, of one shape and of known dtypes."""

    @abstractmethod
    def needs_grad(self, *arrays: Array) -> bool:
        """Whether autodiff records operations on these arrays."""

    @abstractmethod
    def size_of(self, x: Array) -> int:
        """Number of elements."""

    @abstractmethod
    def strides_of(self, x: Array) -> tuple[int, ...]:
        """Strides in memory, for each axis."""

    @abstractmethod
    def empty_like(self, x: Array, dtype: DType) -> Array:
        """New array, in the memory order of ``x``."""

    @abstractmethod
    def number(self, value: float, dtype: DType) -> Array:
        """A number as a 0-d array."""

    @abstractmethod
    def fill(self, x: Array, mask: Array, value: float) -> None:
        """Write a number where the mask is true."""

    def store(self, x: Array, out: Array) -> None:
        """Write ``x`` into an array of another dtype."""
        out[...] = x

    @abstractmethod
    def block_size(self) -> int:
        """Elements of a block."""

    @abstractmethod
    def each(self, function: Callable[..., Any], blocks: Iterable[tuple[Array, ...]]) -> list[Any]:
        """Results of the function for each block."""

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
        ordinary = self._can_differentiate(input, target, options.reduction, cotangent)
        if not (ordinary and (where is None or self.is_mask(where, input))):
            return super().value_and_grad(input, target, options, wanted, cotangent, where)
        with self.quiet():
            loss, on_edge = self.loss_in_blocks(input, target, options, where)
            if options.reduction == "none":
                weight = cotangent
            else:
                count = self.counted(input, options.reduction, where) or 1
                weight = (1.0 if cotangent is None else float(cotangent)) / count
            return loss, [self.gradient(input, target, argnum, weight, on_edge, options, where) for argnum in wanted]

    def is_mask(self, where: Array, x: Array) -> bool:
        """Whether ``where`` is a mask in memory that broadcasts against ``x``."""
        if not (type(where) in self.ordinary and where.dtype == self.native.bool):
            return False
        check_where(tuple(where.shape), tuple(x.shape))
        return True

    def loss_in_blocks(self, x: Array, y: Array, options: Options, where: Array = None) -> tuple[Array, bool]:
        """Loss, and whether some elements may be on the edge."""
        if options.reduction == "none":
            loss, on_edge = self._unreduced(x, y, options, where)
        else:
            value, on_edge = self._added_up(x, y, options, where)
            if options.reduction != "sum":
                count = self.counted(x, options.reduction, where)
                value = value / count if count else math.nan
            loss = self.number(value, self.result_dtype(x, y))
        if on_edge:
            self.notice(y, options, where)
        return loss, on_edge

    def counted(self, x: Array, reduction: Reduction, where: Array = None) -> int:
        """Number that the reduction divides by: of elements that count, of rows, or 1."""
        if reduction == "mean" and where is not None:
            return int(where.sum()) * (self.size_of(x) // max(self.size_of(where), 1))
        if reduction == "batchmean":
            length: int = x.shape[0] if x.ndim else 1
            return length
        return self.size_of(x) if reduction == "mean" else 1

    def gradient(
        self,
        x: Array,
        y: Array,
        argnum: int,
        weight: Array | float,
        on_edge: bool,
        options: Options,
        where: Array = None,
    ) -> Array:
        """Derivatives by one of the arrays, times ``weight``: a number, or an array with one for each element."""
        xp, of = self.native, (x, y)[argnum]
        computing = self.computing_dtype(self.result_dtype(x, y))

        def write_wide(out: Array, x: Array, y: Array, where: Array, weight: Array | float) -> None:
            y = self.cast(y, computing)
            if where is not None:
                x, y = without_masked(x, y, where, options, xp)
            if argnum == 0:
                p = xp.exp(y, out=out) if options.log_target else y
                xp.multiply(p, -weight, out=out)
            else:
                out[...] = self._derivative_by_target(x, y, weight, options)
            # The derivative by the target needs the mask in any case: a library's own xlogy gives a finite loss there.
            edge = edge_of(x, y, options, xp) if on_edge or argnum else None
            if edge is not None:
                self.fill(out, edge, 0.0)
            if where is not None:
                self.fill(out, ~where, 0.0)

        def write(out: Array, x: Array, y: Array, where: Array, weight: Array | float = weight) -> None:
            self._write_in(computing, out, lambda wide, _: write_wide(wide, x, y, where, weight))

        out = self.empty_like(of, of.dtype)
        if self.size_of(x) <= self.few:
            write(out, x, y, where)
        else:
            weights = () if isinstance(weight, float) else (weight,)
            self.each(write, self.blocks(out, x, y, self._spread(where, x), *weights))
        return out

    def _write_in(self, dtype: DType, out: Array, write: Callable[[Array, Scratch], Any]) -> Any:
        """What a function returns that writes numbers of a dtype, which ``out`` may not have."""
        scratch = self.spare_memory.taken()
        wide = out if out.dtype == dtype else scratch("result", out.shape, dtype)
        result = write(wide, scratch)
        if wide is not out:
            self.store(wide, out)
        self.spare_memory.give_back(scratch)
        return result

    def _derivative_by_target(self, x: Array, y: Array, weight: Array | float, options: Options) -> Array:
        if options.log_target:
            derivative = derivative_by_log_target(x, y, self.native.exp(y))
            if math.isfinite(derivative.sum().item()):  # otherwise a weight applied first may prevent the overflow
                return derivative * weight
        return derivative_off_edge(x, y, 1, weight, options.log_target, self.native)

    def _spread(self, where: Array, x: Array) -> Array:
        """The mask in the shape of ``x``, without memory for it."""
        return None if where is None else self.native.broadcast_to(where, x.shape)

    def blocks(self, *arrays: Array) -> Iterator[tuple[Array, ...]]:
        """Views of the arrays, block by block, with the axes in the memory order of the first array."""
        strides = self.strides_of(arrays[0])
        order = sorted(range(len(strides)), key=lambda axis: -abs(strides[axis]))
        if order != [*range(len(order))]:
            arrays = tuple(None if z is None else self.native.moveaxis(z, order, [*range(len(order))]) for z in arrays)
        yield from self._ordered_blocks(*arrays)

    def _ordered_blocks(self, *arrays: Array) -> Iterator[tuple[Array, ...]]:
        first, block_size = arrays[0], self.block_size()
        size = self.size_of(first)
        if size <= block_size:
            yield arrays
            return
        axis = next(i for i, n in enumerate(first.shape) if n > 1)
        length = first.shape[axis]
        most = max(1, block_size * length // size)
        step = -(-length // -(-length // most))  # of even length
        for start in range(0, length, step):
            part = (*(slice(None),) * axis, slice(start, start + step))
            yield from self._ordered_blocks(*(None if array is None else array[part] for array in arrays))

    def _can_differentiate(self, x: Array, y: Array, reduction: Reduction, cotangent: Any) -> bool:
        if not self.is_ordinary(x, y):
            return False
        if is_number(cotangent):
            return reduction != "none" and not self.needs_grad(x, y)
        like, shape = (x, x.shape) if reduction == "none" else (cotangent, ())
        return self.is_ordinary(like, cotangent) and cotangent.shape == shape and not self.needs_grad(x, y, cotangent)

    def _unreduced(self, x: Array, y: Array, options: Options, where: Array) -> tuple[Array, bool]:
        dtype = self.result_dtype(x, y)
        computing = self.computing_dtype(dtype)
        if self.size_of(x) <= self.few:
            elements, _, on_edge = self._of_few(x, self.cast(y, computing), where, options)
            return self.cast(elements, dtype), on_edge
        on_edge = False

        def write(out: Array, x: Array, y: Array, where: Array) -> None:
            nonlocal on_edge
            if self._write_in(
                computing, out, lambda wide, scratch: self._write_elements(wide, x, y, where, on_edge, options, scratch)
            )[1]:
                on_edge = True  # threads only ever set it

        out = self.empty_like(x, dtype)
        self.each(write, self.blocks(out, x, y, self._spread(where, x)))
        return out, on_edge

    def _added_up(self, x: Array, y: Array, options: Options, where: Array) -> tuple[float, bool]:
        """Sum of the loss, and whether some elements may be on the edge.

        In float64: the terms of close distributions cancel, and a float32 logarithm may be biased.
        """
        if self.size_of(x) <= self.few:
            return self._of_few(x, self.cast(y, self.float64), where, options)[1:]
        on_edge = False

        def sum_of(x: Array, y: Array, where: Array) -> float:
            nonlocal on_edge
            scratch = self.spare_memory.taken()
            out = scratch("result", x.shape, self.float64)
            value, found = self._write_elements(out, x, y, where, on_edge, options, scratch)
            if found:  # threads only ever set it
                on_edge = True
            self.spare_memory.give_back(scratch)
            return value

        return sum(self.each(sum_of, self.blocks(x, y, self._spread(where, x)))), on_edge

    def _of_few(self, x: Array, y: Array, where: Array, options: Options) -> tuple[Array, float, bool]:
        """Loss of each element, their sum, and whether some may be on the edge.

        On the edge the formula gives NaN or the right 0, so a finite sum needs no mask.
        """
        xp = self.native
        if where is not None:
            x, y = without_masked(x, y, where, options, xp)
        elements = loss_off_edge(x, y, options, xp, in_place=True)
        value, on_edge = elements.sum().item(), False
        if not math.isfinite(value):
            edge = edge_of(x, y, options, xp)
            if edge is not None:
                elements, on_edge = xp.where(edge, 0.0, elements), True
                value = elements.sum().item()
        return elements, value, on_edge

    def _write_elements(
        self, out: Array, x: Array, y: Array, where: Array, on_edge: bool, options: Options, scratch: Scratch
    ) -> tuple[float, bool]:
        """Write the loss of each element, computed in the dtype of ``out``; return their sum, and what is on the edge.

        ``on_edge`` says whether an earlier block had elements on the edge.
        """
        into = Into(self.native, out)
        masked = None if where is None else ~where

        def sum_without(mask: Array) -> float:
            wide_x, wide_y = scratch.copy("x", x, out.dtype), scratch.copy("y", y, out.dtype)
            if mask is not None:  # a pair that costs nothing
                self.fill(wide_x, mask, 0.0)
                self.fill(wide_y, mask, 0.0 if options.log_target else 1.0)
            value: float = loss_off_edge(wide_x, wide_y, options, into, in_place=True, spend_y=True).sum().item()
            return value

        if not on_edge:
            value = sum_without(masked)
            if math.isfinite(value):
                return value, False
        edge = edge_of(x, y, options, self.native)
        if edge is None:
            return value, False
        return sum_without(edge if masked is None else edge | masked), True
