"""Divergences from logits of arrays in memory, evaluated on the CPU in blocks of rows that fit into its cache.

In float64: the terms of close distributions cancel, and its temporaries stay in the cache, in memory that is kept. A
row that is longer than a block is evaluated in pieces, which each pass computes anew.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from functools import reduce
from operator import itemgetter
from typing import Any, NamedTuple

from kldiv_xp._arguments import check_axis, check_where, is_number, shape_of_rows
from kldiv_xp._formulas_from_logits import IMPOSSIBLE, Softmaxes, divergence_terms, scores
from kldiv_xp._options import LogitsOptions
from kldiv_xp.backends._blocks import InBlocks
from kldiv_xp.backends._scratch import Scratch
from kldiv_xp.backends._standard import Array

CLOSE = 1e-4
"""Divergence below which the difference of two sums has lost too many digits."""


class InRowBlocks(InBlocks):
    """A library with arrays in memory, for divergences from logits too."""

    @abstractmethod
    def row_max(self, x: Array) -> Array:
        """Largest element of each row, with the axis kept."""

    @abstractmethod
    def row_sum(self, x: Array) -> Array:
        """Sum of each row, with the axis kept."""

    @abstractmethod
    def row_dot(self, x: Array, y: Array, scratch: Scratch) -> Array:
        """Sum of the products of each row, with the axis kept."""

    @abstractmethod
    def row_block_size(self) -> int:
        """Elements of a block of rows."""

    def exponentials(self, x: Array, y: Array, temperature: float, scratch: Scratch) -> "Exponentials":
        """Exponentials of complete rows, in scratch memory."""
        float64 = self.float64
        return self.exponentials_of_piece(
            x, y, self.cast(self.row_max(x), float64), self.cast(self.row_max(y), float64), temperature, scratch
        )

    def exponentials_of_piece(
        self, x: Array, y: Array, top_x: Array, top_y: Array, temperature: float, scratch: Scratch
    ) -> "Exponentials":
        """Exponentials of a piece of rows whose largest logits are given, with the sums of the piece alone."""
        xp = self.native
        of_x, of_y, r = (scratch(name, x.shape, self.float64) for name in ("x", "y", "r"))
        for out, logits, top in ((of_x, x, top_x), (of_y, y, top_y)):
            out[...] = logits
            out -= top
            if temperature != 1.0:
                out /= temperature
        xp.subtract(of_y, of_x, out=r)
        xp.exp(of_x, out=of_x)
        xp.exp(of_y, out=of_y)
        sum_x, sum_y = self.row_sum(of_x), self.row_sum(of_y)
        return Exponentials(of_x, of_y, r, sum_x, sum_y, xp.log(sum_y / sum_x))

    def loss_from_logits(self, input: Array, target: Array, options: LogitsOptions, where: Array = None) -> Array:
        """The divergence between the softmaxes of the caller's arrays."""
        if not self.has_ordinary_rows(input, target, options, where):
            return super().loss_from_logits(input, target, options, where)
        with self.quiet():
            return self.divergence_in_blocks(input, target, options, where)[0]

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
        if not (self.has_ordinary_rows(input, target, options, where) and self._is_weight(cotangent, input, options)):
            return super().value_and_grad_from_logits(input, target, options, wanted, cotangent, where)
        arrays = (input, target) if is_number(cotangent) else (input, target, cotangent)
        if self.needs_grad(*arrays):
            return super().value_and_grad_from_logits(input, target, options, wanted, cotangent, where)
        weight = 1.0 if cotangent is None else cotangent if options.reduction == "none" else self.as_weight(cotangent)
        with self.quiet():
            return self.divergence_in_blocks(input, target, options, where, wanted, weight)

    def as_weight(self, cotangent: Array | float) -> Array | float:
        """The upstream gradient of a reduced loss, which is looked at only if this does not wait for a device."""
        return float(cotangent)

    def _is_weight(self, cotangent: Any, x: Array, options: LogitsOptions) -> bool:
        """Whether the upstream gradient is a number, or a plain array, of the shape of the loss."""
        if is_number(cotangent):
            return options.reduction != "none"
        rows = shape_of_rows(tuple(x.shape), check_axis(options.axis, tuple(x.shape)))
        shape = rows if options.reduction == "none" else ()
        return (
            self.has_views_of_rows(cotangent, cotangent)
            and tuple(cotangent.shape) == shape
            and self.device_of(cotangent) == self.device_of(x)
        )

    def has_views_of_rows(self, x: Array, y: Array) -> bool:
        """Whether ``x`` and ``y`` are plain arrays on one device, some rows of which can be computed at a time."""
        return self.is_ordinary(x, y)

    def has_ordinary_rows(self, x: Array, y: Array, options: LogitsOptions, where: Array) -> bool:
        """Whether ``x`` and ``y`` are plain arrays in memory, with an axis of classes and a mask of their rows."""
        if not self.has_views_of_rows(x, y) or self.size_of(x) == 0:
            return False
        axis = check_axis(options.axis, tuple(x.shape))
        if where is None:
            return True
        if type(where) not in self.ordinary or where.dtype != self.native.bool:
            return False
        if self.device_of(where) != self.device_of(x):
            return False
        check_where(tuple(where.shape), shape_of_rows(tuple(x.shape), axis), "the shape of the rows")
        return True

    def divergence_in_blocks(
        self,
        x: Array,
        y: Array,
        options: LogitsOptions,
        where: Array = None,
        wanted: tuple[int, ...] = (),
        weight: Array | float = 1.0,
    ) -> tuple[Array, list[Array]]:
        """The divergence, and its gradients by the arguments in ``wanted``.

        ``weight`` multiplies the gradients: a number, or an array with a number for each row.
        """
        xp, dtype = self.native, self.result_dtype(x, y)
        gradients = [self.empty_like((x, y)[argnum], (x, y)[argnum].dtype) for argnum in wanted]
        x, y, *outs = (xp.moveaxis(array, options.axis, -1) for array in (x, y, *gradients))
        rows = self.empty_like(x[..., 0], self.float64)
        where = None if where is None else xp.broadcast_to(where, rows.shape)
        count = self.counted(rows, options.reduction, where)
        weights: Array | None = None
        if isinstance(weight, float):
            weight = weight / (count or 1) / options.temperature
        else:
            weights = weight / options.temperature
        if options.exchanged:
            x, y, wanted = y, x, tuple(1 - argnum for argnum in wanted)
        guarded = False

        def write(rows: Array, x: Array, y: Array, where: Array, weights: Array, *outs: Array) -> None:
            if where is not None and not where.any():
                for out in (rows, *outs):
                    out[...] = 0.0
                return
            nonlocal guarded
            scratch = self.spare_memory.taken()
            block = _RowBlock(self, x, y, options, guarded, scratch)
            if block.guarded:  # threads only ever set it
                guarded = True
            for argnum, out in sorted(zip(wanted, outs, strict=True), key=itemgetter(0), reverse=True):
                block.write_gradient(argnum, weight if weights is None else weights[..., None], out)
            rows[...] = block.values[..., 0]
            self.spare_memory.give_back(scratch)
            if where is not None:
                for out in (rows, *outs):
                    out[~where] = 0.0

        self.each(write, self.row_blocks(self.row_block_size(), rows, x, y, where, weights, *outs))
        if options.reduction == "none":
            return self.cast(rows, dtype), gradients
        total = rows.sum().item()
        return self.number(total / count if count else math.nan, dtype), gradients

    def row_blocks(self, elements: int, rows: Array, *arrays: Array) -> Iterator[tuple[Array, ...]]:
        """Views of the arrays, some rows of that many elements at a time, in the order of the input in memory."""
        size, most = self.size_of(rows), max(1, elements // arrays[0].shape[-1])
        if size <= most:
            yield (rows, *arrays)
            return
        strides = self.strides_of(arrays[0])
        axis = max((i for i, n in enumerate(rows.shape) if n > 1), key=lambda i: abs(strides[i]))
        length = rows.shape[axis]
        step = -(-length // -(-length // max(1, most * length // size)))  # of even length
        for start in range(0, length, step):
            part = (*(slice(None),) * axis, slice(start, start + step))
            yield from self.row_blocks(elements, *(None if z is None else z[part] for z in (rows, *arrays)))


class Exponentials(NamedTuple):
    """Exponentials of logits that are shifted by any number for each row."""

    of_x: Array
    of_y: Array
    r: Array
    """The difference of the logits."""
    sum_x: Array
    """The sum of the exponentials."""
    sum_y: Array
    log_ratio: Array
    """What to subtract from the difference for the logarithm of the ratio of the probabilities."""


class _Scored(NamedTuple):
    """What each class adds to the divergence, and ``log(p / m)`` and ``log(q / m)``, each but for a constant."""

    terms: Array
    by_p: Array
    by_q: Array


class _RowBlock:
    """Some rows of student and teacher in one piece, or one row in several."""

    def __init__(
        self, library: InRowBlocks, x: Array, y: Array, options: LogitsOptions, guarded: bool, scratch: Scratch
    ) -> None:
        self._library, self._xp, self._beta, self._scratch = library, library.native, options.beta, scratch
        self._x, self._y, self._temperature = x, y, options.temperature
        classes, most = x.shape[-1], library.row_block_size()
        step = classes if library.size_of(x) <= most else most
        self._parts = [slice(start, start + step) for start in range(0, classes, step)]
        # By name: a method as a key, or as an attribute, would refer back to the block, and keep its memory in use.
        self._kept: dict[str, Any] = {}
        if len(self._parts) > 1:
            self._top_x, self._top_y = (
                library.cast(
                    reduce(self._xp.maximum, [library.row_max(z[..., i]) for i in self._parts]), library.float64
                )
                for z in (x, y)
            )
        self.guarded = guarded
        self.values = self._difference_of_sums()
        least = self.values.min().item()
        if least != least and not guarded:  # NaN: a class may be impossible
            self.guarded = True
            self._kept.clear()
            self.values = self._difference_of_sums()
            least = self.values.min().item()
        self._way: Callable[[_RowBlock, slice], _Scored] = _RowBlock._unscored
        if self._beta or not least >= CLOSE:
            self.values = self._sum_of_terms(_RowBlock._scored_quickly)
            if not math.isfinite(self.values.sum().item()):
                self.values = self._sum_of_terms(_RowBlock._scored_with_care)

    def write_gradient(self, argnum: int, weight: Array | float, out: Array) -> None:
        """Derivatives of the divergences by ``x`` (0) or ``y`` (1), times ``weight``; those by ``x`` must come last."""
        weight_x = weight / self._sum_x
        weight_y = weight_x if self._sum_y is self._sum_x else weight / self._sum_y
        if self._beta == 0.0 and argnum == 0:
            for part, of in self._each(self._exponentials):
                q, p = of.of_x, of.of_y
                if weight_x is weight_y:
                    q -= p
                    q *= weight_x
                else:
                    q *= weight_x
                    p *= weight_y
                    q -= p
                self._library.store(q, out[..., part])
            return
        share = weight_y * (self._beta or 1.0) if argnum else weight_x * (1.0 - self._beta)

        def weighted(part: slice) -> tuple[Array, Array]:
            of, scored = self._result(self._exponentials, part), self._result(self._scored, part)
            return (of.of_y, scored.by_p) if argnum else (of.of_x, scored.by_q)

        expected = self._added(self._library.row_dot(*weighted(part), self._scratch) for part in self._parts)
        expected = expected / (self._sum_y if argnum else self._sum_x)
        for part in self._parts:
            exponentials, by_class = weighted(part)
            derivative = self._scratch("products", by_class.shape, self._library.float64)
            self._xp.subtract(by_class, expected, out=derivative)
            derivative *= exponentials
            derivative *= share
            self._library.store(derivative, out[..., part])

    def _sum_of_terms(self, way: Callable[["_RowBlock", slice], _Scored]) -> Array:
        """The divergences, whose terms do not cancel, computed in one of two ways."""
        self._way = way
        self._kept.pop("_scored", None)
        return self._added(self._library.row_sum(of.terms) for _, of in self._each(self._scored))

    def _difference_of_sums(self) -> Array:
        """``KL(p || q)``, with the rounding errors of both sums."""
        if len(self._parts) == 1:
            of = self._result(self._exponentials, self._parts[0])
            self._sum_x, self._sum_y, self._log_ratio = of.sum_x, of.sum_y, of.log_ratio
            of_r = self._library.row_dot(of.of_y, of.r, self._scratch)
        else:
            sums = [
                (of.sum_x, of.sum_y, self._library.row_dot(of.of_y, of.r, self._scratch))
                for _, of in self._each(self._exponentials)
            ]
            self._sum_x, self._sum_y, of_r = (self._added(each) for each in zip(*sums, strict=True))
            self._log_ratio = self._xp.log(self._sum_y / self._sum_x)
        return of_r / self._sum_y - self._log_ratio

    def _each(self, function: Callable[[slice], Any]) -> Iterator[tuple[slice, Any]]:
        """Results for each piece; that of the only piece is kept for the next call."""
        for part in self._parts:
            yield part, self._result(function, part)

    def _result(self, function: Callable[[slice], Any], part: slice) -> Any:
        if len(self._parts) > 1:
            return function(part)
        if function.__name__ not in self._kept:
            self._kept[function.__name__] = function(part)
        return self._kept[function.__name__]

    def _added(self, arrays: Iterable[Array]) -> Array:
        return reduce(self._xp.add, arrays)

    def _exponentials(self, part: slice) -> Exponentials:
        if len(self._parts) == 1:
            of = self._library.exponentials(self._x, self._y, self._temperature, self._scratch)
        else:
            x, y = self._x[..., part], self._y[..., part]
            of = self._library.exponentials_of_piece(x, y, self._top_x, self._top_y, self._temperature, self._scratch)
        if self.guarded:  # r is NaN for a class that is impossible in both
            self._library.fill(of.r, ~(of.r > -math.inf), IMPOSSIBLE)
        return of

    def _scored(self, part: slice) -> _Scored:
        return self._way(self, part)

    def _unscored(self, part: slice) -> _Scored:
        return _Scored(None, self._result(self._exponentials, part).r, None)

    def _scored_quickly(self, part: slice) -> _Scored:
        """Terms without the masks of the formulas, and without the series, which float64 does not need."""
        xp, beta = self._xp, self._beta
        of_x, of_y, r, *_ = self._result(self._exponentials, part)
        r = xp.subtract(r, self._log_ratio, out=self._scratch("shifted", r.shape, self._library.float64))
        by_p = xp.negative(r, out=self._scratch("by_p", r.shape, self._library.float64))
        xp.expm1(by_p, out=by_p)
        if beta == 0.0:
            by_p += r
            by_p *= of_y
            by_p /= self._sum_y
            return _Scored(by_p, r, None)
        by_p *= 1.0 - beta
        xp.log1p(by_p, out=by_p)
        xp.negative(by_p, out=by_p)
        by_q = xp.subtract(by_p, r, out=r)
        terms = xp.multiply(of_y, by_p, out=self._scratch("terms", r.shape, self._library.float64))
        terms *= beta / self._sum_y
        of_q = xp.multiply(of_x, by_q, out=self._scratch("products", r.shape, self._library.float64))
        of_q *= (1.0 - beta) / self._sum_x
        terms += of_q
        return _Scored(terms, by_p, by_q)

    def _scored_with_care(self, part: slice) -> _Scored:
        xp, beta = self._xp, self._beta
        of_x, of_y, r, *_ = self._result(self._exponentials, part)
        if beta:  # an infinite score would be subtracted from another
            r = xp.where(r > -IMPOSSIBLE, -IMPOSSIBLE, r)
        of = Softmaxes(of_y / self._sum_y, of_x / self._sum_x, r - self._log_ratio)
        return _Scored(divergence_terms(of, beta, xp), *(scores(of, beta, xp) if beta else (of.r, None)))
