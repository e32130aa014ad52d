"""The loss of one element and its derivatives, in array API calls, and ``xlogy`` where a library has one.

``x`` is the input, a log-probability. ``y`` is the target: a probability ``p``, or ``log p`` with ``log_target``. All
conventions compute ``p (log p - x)``, except on the *edge*: elements whose loss is defined as 0. The conventions
differ in which elements are on the edge, and ``"torch"`` also in its rounding.
"""

from operator import imul, isub, mul, sub
from typing import Any

from kldiv_xp._options import Options

Array = Any
Namespace = Any


def loss_elements(x: Array, y: Array, options: Options, xp: Namespace) -> Array:
    """Loss of each element, with one mask; not for autodiff or NaN checkers, which need the guarded form."""
    edge = edge_of(x, y, options, xp)
    elements = loss_off_edge(x, y, options, xp)
    return elements if edge is None else xp.where(edge, 0.0, elements)


def guarded_loss_elements(x: Array, y: Array, options: Options, xp: Namespace) -> Array:
    """Loss of each element, with the edge replaced by ordinary numbers before the formula.

    Masking the result alone has three problems. Autodiff multiplies the derivative of the masked branch by zero, and
    zero times infinity is NaN; see https://github.com/jax-ml/jax/issues/1052. NaN checkers report values that are
    masked later. A lazy library warns about the logarithm when it computes.
    """
    edge = edge_of(x, y, options, xp)
    if edge is None:
        return loss_off_edge(x, y, options, xp)
    x, y = _without_edge(edge, x, y, options.log_target, xp)
    return xp.where(edge, 0.0, loss_off_edge(x, y, options, xp))


def loss_derivative(x: Array, y: Array, argnum: int, weight: Array | float, options: Options, xp: Namespace) -> Array:
    """Derivative of each element's loss by ``x`` (0) or ``y`` (1), times ``weight``; autodiff may differentiate it."""
    edge = edge_of(x, y, options, xp)
    if edge is None:
        return derivative_off_edge(x, y, argnum, weight, options.log_target, xp)
    if argnum == 0:
        # Mask the probability, not the product: the derivative by the weight would multiply zero by infinity.
        return xp.where(edge, 0.0, xp.exp(y) if options.log_target else y) * -weight
    x, y = _without_edge(edge, x, y, options.log_target, xp)
    return xp.where(edge, 0.0, derivative_off_edge(x, y, argnum, weight, options.log_target, xp))


def without_masked(x: Array, y: Array, where: Array, options: Options, xp: Namespace) -> tuple[Array, Array]:
    """``x`` and ``y`` with a pair that costs nothing, and is on no edge, wherever ``where`` is false."""
    return xp.where(where, x, 0.0), xp.where(where, y, 0.0 if options.log_target else 1.0)


def edge_of(x: Array, y: Array, options: Options, xp: Namespace) -> Array | None:
    """Mask of the elements whose loss is defined as 0; ``None`` if these options have none.

    A NaN target is never on the edge: comparisons with NaN are false. The formula keeps it NaN.
    """
    if options.log_target:
        return (y == -xp.inf) & ~xp.isnan(x) if options.convention == "limit" else None
    if options.convention == "oneflow":
        return y <= 0.0
    # Not y == 0.0: for a number cast from bfloat16, a compiler may compare bits. A subnormal number is then not zero,
    # but its logarithm is -inf, and the loss NaN. See https://github.com/llvm/llvm-project/issues/185240.
    zero = y + y == 0.0
    return zero & (xp.isfinite(x) if options.convention == "torch" else ~xp.isnan(x))


def _without_edge(edge: Array, x: Array, y: Array, log_target: bool, xp: Namespace) -> tuple[Array, Array]:
    """``x`` and ``y``, with ordinary numbers on the edge."""
    return xp.where(edge, 0.0, x), xp.where(edge, 0.0 if log_target else 1.0, y)


def loss_off_edge(
    x: Array, y: Array, options: Options, xp: Namespace, *, in_place: bool = False, spend_y: bool = False
) -> Array:
    """Loss of each element by the formula; on the edge the result is NaN or 0.

    ``in_place`` reuses the formula's temporaries, and ``spend_y`` also the target, which saves time; for mutable arrays
    only.
    """
    subtract, multiply = _operators(in_place)
    subtract_from_y, multiply_y = _operators(spend_y)
    if options.log_target:
        return multiply(xp.exp(y), subtract_from_y(y, x))
    if options.convention == "torch":
        # Users compare with the library's own xlogy, whose logarithm may round differently from its log.
        xlogy = getattr(xp, "xlogy", None)
        y_log_y = multiply(xp.log(y), y) if xlogy is None else xlogy(y, y)
        return subtract(y_log_y, multiply_y(y, x))
    return multiply(subtract(xp.log(y), x), y)


def _operators(in_place: bool) -> tuple[Any, Any]:
    return (isub, imul) if in_place else (sub, mul)


def derivative_off_edge(
    x: Array, y: Array, argnum: int, weight: Array | float, log_target: bool, xp: Namespace
) -> Array:
    """Derivative of each element's loss by ``x`` (0) or ``y`` (1), times ``weight``, off the edge."""
    p = xp.exp(y) if log_target else y
    if argnum == 0:
        return p * -weight
    if not log_target:
        return (xp.log(y) - x + 1.0) * weight
    # Where the derivative overflows, multiply by the weight first: the result may be finite. Elsewhere multiply last: a
    # weight below 1 could make a small p subnormal, and a weight above 1 could make a large difference overflow.
    derivative = derivative_by_log_target(x, y, p)
    overflows = xp.isinf(derivative)
    return xp.where(overflows, y - x + 1.0, derivative) * weight * xp.where(overflows, p, 1.0)


def derivative_by_log_target(x: Array, y: Array, p: Array) -> Array:
    """Derivative of each element's loss by ``y``, the logarithm of ``p``, without a weight: it may overflow."""
    return p * (y - x) + p
