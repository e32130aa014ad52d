"""Losses and gradients of ordinary arrays, evaluated on the CPU in blocks that fit into its cache.

What the formulas need beside the arrays stays in the cache then, and does not grow with the arrays. Few elements are
one block, and take microseconds: each call of a function counts there.
"""

import math
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from kldiv_xp._formulas import derivative_by_log_target, derivative_off_edge, edge_of, loss_off_edge
from kldiv_xp._options import Convention, Reduction

Array = Any
Library = ModuleType
"""``_numpy`` or ``_torch``, which say what the two libraries do not write alike."""


def loss(
    x: Array, y: Array, reduction: Reduction, log_target: bool, convention: Convention, library: Library
) -> tuple[Array, bool]:
    """Loss, and whether some elements may be on the edge."""
    size = library.size_of(x)
    if reduction == "none":
        return _unreduced(x, y, size, log_target, convention, library)
    value, on_edge = _added_up(x, y, size, log_target, convention, library)
    if reduction != "sum":
        count = counted(x, reduction, size)
        value = value / count if count else math.nan
    return library.number(value, library.result_dtype(x, y)), on_edge


def counted(x: Array, reduction: Reduction, size: int) -> int:
    """Number of the elements or of their rows, if the reduction divides by them, else 1."""
    if reduction == "batchmean":
        return x.shape[0] if x.ndim else 1
    return size if reduction == "mean" else 1


def gradient(
    x: Array,
    y: Array,
    argnum: int,
    weight: Array | float,
    on_edge: bool,
    log_target: bool,
    convention: Convention,
    library: Library,
) -> Array:
    """Derivatives by one of the arrays times ``weight``, which is a number or one for each element."""
    xp, of = library.native(), (x, y)[argnum]
    computing = library.computing_dtype(library.result_dtype(x, y))

    def off_edge(x: Array, y: Array, weight: Array | float) -> Array:
        if argnum and log_target:
            derivative = derivative_by_log_target(x, y, xp.exp(y))
            if math.isfinite(derivative.sum().item()):  # else something overflows, which the weight may prevent
                return derivative * weight
        return derivative_off_edge(x, y, argnum, weight, log_target, xp)

    def gradient_of(x: Array, y: Array, weight: Array | float) -> Array:
        y = library.cast(y, computing)
        derivative = off_edge(x, y, weight)
        # By the target there may be some all the same: where a library's own xlogy gives zero.
        edge = edge_of(x, y, log_target, convention, xp) if on_edge or argnum else None
        return derivative if edge is None else xp.where(edge, 0.0, derivative)

    if library.size_of(x) <= library.FEW:
        return library.cast(gradient_of(x, y, weight), of.dtype)

    def write(out: Array, x: Array, y: Array, weight: Array | float = weight) -> None:
        out[...] = gradient_of(x, y, weight)

    out = library.empty_like(of, of.dtype)
    library.each(write, _blocks((out, x, y) if isinstance(weight, float) else (out, x, y, weight), library))
    return out


def can_differentiate(x: Array, y: Array, cotangent: Any, reduction: Reduction, library: Library) -> bool:
    """Whether :func:`value_and_grad` takes these; ``cotangent`` is ``None`` if it is a number or missing."""
    if not library.is_ordinary(x, y):
        return False
    if cotangent is None:
        return reduction != "none" and not library.needs_grad(x, y)
    like, shape = (x, x.shape) if reduction == "none" else (cotangent, ())
    return (
        library.is_ordinary_type(type(cotangent))
        and library.is_ordinary(like, cotangent)
        and cotangent.shape == shape
        and not library.needs_grad(x, y, cotangent)
    )


def value_and_grad(
    x: Array,
    y: Array,
    reduction: Reduction,
    log_target: bool,
    convention: Convention,
    wanted: tuple[int, ...],
    cotangent: Array | float | None,
    library: Library,
) -> tuple[Array, list[Array]]:
    """Loss, and its gradients by the arrays that are wanted."""
    value, on_edge = loss(x, y, reduction, log_target, convention, library)
    weight = cotangent
    if reduction != "none":
        weight = (1.0 if cotangent is None else float(cotangent)) / (counted(x, reduction, library.size_of(x)) or 1)
    return value, [gradient(x, y, argnum, weight, on_edge, log_target, convention, library) for argnum in wanted]


def _unreduced(
    x: Array, y: Array, size: int, log_target: bool, convention: Convention, library: Library
) -> tuple[Array, bool]:
    xp, dtype = library.native(), library.result_dtype(x, y)
    computing = library.computing_dtype(dtype)
    if size <= library.FEW:
        elements, _, on_edge = _evaluated(x, library.cast(y, computing), False, log_target, convention, xp)
        return library.cast(elements, dtype), on_edge
    on_edge = False

    def write(out: Array, x: Array, y: Array) -> None:
        nonlocal on_edge
        out[...], _, found = _evaluated(x, library.cast(y, computing), on_edge, log_target, convention, xp)
        if found:  # never unset by another thread
            on_edge = True

    out = library.empty_like(x, dtype)
    library.each(write, _blocks((out, x, y), library))
    return out, on_edge


def _added_up(
    x: Array, y: Array, size: int, log_target: bool, convention: Convention, library: Library
) -> tuple[float, bool]:
    """Sum of the loss, and whether some elements may be on the edge.

    In float64, as the terms of close distributions cancel, and NumPy's float32 logarithm errs to one side.
    """
    xp = library.native()
    if size <= library.FEW:
        return _evaluated(x, library.cast(y, xp.float64), False, log_target, convention, xp)[1:]
    on_edge = False

    def sum_of(x: Array, y: Array) -> float:
        nonlocal on_edge
        _, value, found = _evaluated(x, library.cast(y, xp.float64), on_edge, log_target, convention, xp)
        if found:  # never unset by another thread
            on_edge = True
        return value

    return sum(library.each(sum_of, _blocks((x, y), library))), on_edge


def _evaluated(
    x: Array, y: Array, on_edge: bool, log_target: bool, convention: Convention, xp: Any
) -> tuple[Array, float, bool]:
    """Loss of each element, their sum, and whether some may be on the edge, as those before may be.

    Whatever is on the edge is NaN by the formula, or right: only if the sum is not finite need anyone look for it.
    """
    if not on_edge:
        elements = loss_off_edge(x, y, log_target, convention, xp, in_place=True)
        value = elements.sum().item()
        if math.isfinite(value):
            return elements, value, False
    edge = edge_of(x, y, log_target, convention, xp)
    if edge is None:
        return elements, value, False
    # By arithmetic first: NumPy's where takes five times as long, and its logarithm of zero eight times.
    off_edge = ~edge
    elements = loss_off_edge(x, y * off_edge + edge, log_target, convention, xp) * off_edge
    value = elements.sum().item()
    if not math.isfinite(value):  # infinity times zero
        elements = xp.where(edge, 0.0, loss_off_edge(x, y, log_target, convention, xp))
        value = elements.sum().item()
    return elements, value, True


def _blocks(arrays: tuple[Array, ...], library: Library) -> Iterator[tuple[Array, ...]]:
    """Views of the arrays, block by block in the order in which the first of them lies in memory."""
    first, block_size = arrays[0], library.block_size()
    size = library.size_of(first)
    if size <= block_size:
        yield arrays
        return
    strides = library.strides_of(first)
    axis = max((i for i, n in enumerate(first.shape) if n > 1), key=lambda i: abs(strides[i]))
    length = first.shape[axis]
    most = max(1, block_size * length // size)
    step = -(-length // -(-length // most))  # of even length
    for start in range(0, length, step):
        part = (*(slice(None),) * axis, slice(start, start + step))
        yield from _blocks(tuple(array[part] for array in arrays), library)
