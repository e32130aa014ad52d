"""The loss of one element and its derivatives, in array API calls, and ``xlogy`` where a library has one.

``x`` is the input, a log-probability; ``y`` is the target, a probability ``p``, or ``log p`` with ``log_target``.
Wherever ``y`` is an ordinary number the conventions compute the same function, ``p (log p - x)``. They part on the
*edge*: the elements that count as zero whatever the formula says of them. Which elements those are is the whole
difference between the conventions, apart from the rounding of ``"torch"``.
"""

from operator import imul, isub, mul, sub
from typing import Any

from kldiv_xp._options import Options

Array = Any
Namespace = Any


def loss_elements(x: Array, y: Array, options: Options, xp: Namespace) -> Array:
    """Loss of each element, with one mask; neither autodiff nor a checker of NaN must go through it."""
    edge = edge_of(x, y, options, xp)
    elements = loss_off_edge(x, y, options, xp)
    return elements if edge is None else xp.where(edge, 0.0, elements)


def guarded_loss_elements(x: Array, y: Array, options: Options, xp: Namespace) -> Array:
    """Loss of each element, of which nothing is computed on the edge.

    For autodiff it is not enough to mask the result: it multiplies the derivative of the branch that was not taken by
    zero, and zero times infinity is NaN; see https://github.com/jax-ml/jax/issues/1052. Checkers of NaN report what is
    masked later. And a lazy library warns of the logarithm when it computes.
    """
    edge = edge_of(x, y, options, xp)
    if edge is None:
        return loss_off_edge(x, y, options, xp)
    x, y = _without_edge(edge, x, y, options.log_target, xp)
    return xp.where(edge, 0.0, loss_off_edge(x, y, options, xp))


def loss_derivative(x: Array, y: Array, argnum: int, weight: Array | float, options: Options, xp: Namespace) -> Array:
    """Derivative of each element's loss, by ``x`` (0) or by ``y`` (1), times ``weight``; autodiff may go through it."""
    edge = edge_of(x, y, options, xp)
    if edge is None:
        return derivative_off_edge(x, y, argnum, weight, options.log_target, xp)
    if argnum == 0:
        # The probability is masked, not the product: autodiff by the weight would multiply by an infinite one.
        return xp.where(edge, 0.0, xp.exp(y) if options.log_target else y) * -weight
    x, y = _without_edge(edge, x, y, options.log_target, xp)
    return xp.where(edge, 0.0, derivative_off_edge(x, y, argnum, weight, options.log_target, xp))


def edge_of(x: Array, y: Array, options: Options, xp: Namespace) -> Array | None:
    """Mask of the elements that count as zero; ``None`` if there can be none.

    A NaN target is in no mask: comparisons with it are false, so that it goes through the formula and stays NaN.
    """
    if options.log_target:
        return (y == -xp.inf) & ~xp.isnan(x) if options.convention == "limit" else None
    if options.convention == "oneflow":
        return y <= 0.0
    # Not y == 0.0: a compiler may compare the bits of a number that was a bfloat16 before. A subnormal is not zero
    # then, but its logarithm is -inf, and the loss NaN. See https://github.com/llvm/llvm-project/issues/185240.
    zero = y + y == 0.0
    return zero & (xp.isfinite(x) if options.convention == "torch" else ~xp.isnan(x))


def _without_edge(edge: Array, x: Array, y: Array, log_target: bool, xp: Namespace) -> tuple[Array, Array]:
    """``x`` and ``y`` with ordinary numbers on the edge."""
    return xp.where(edge, 0.0, x), xp.where(edge, 0.0 if log_target else 1.0, y)


def loss_off_edge(x: Array, y: Array, options: Options, xp: Namespace, *, in_place: bool = False) -> Array:
    """Loss of each element that is not on the edge; of one that is, NaN or the same zero.

    ``in_place`` writes into what the formula makes on the way, which saves time where that can be done.
    """
    operators: tuple[Any, Any] = (isub, imul) if in_place else (sub, mul)
    subtract, multiply = operators
    if options.log_target:
        return multiply(xp.exp(y), y - x)
    if options.convention == "torch":
        return subtract(_y_log_y(y, xp), y * x)
    return multiply(subtract(xp.log(y), x), y)


def _y_log_y(y: Array, xp: Namespace) -> Array:
    # A library's own xlogy is what its users compare with, and need not take the same logarithm as its log.
    native = getattr(xp, "xlogy", None)
    return y * xp.log(y) if native is None else native(y, y)


def derivative_off_edge(
    x: Array, y: Array, argnum: int, weight: Array | float, log_target: bool, xp: Namespace
) -> Array:
    """Derivative of each element's loss, by ``x`` (0) or by ``y`` (1), times ``weight``, off the edge."""
    p = xp.exp(y) if log_target else y
    if argnum == 0:
        return p * -weight
    if not log_target:
        return (xp.log(y) - x + 1.0) * weight
    # Where the derivative overflows, the result may be finite: the weight goes first. Elsewhere it goes last: p may be
    # so small that a weight below 1 takes its digits, the difference so large that a weight above 1 makes it overflow.
    derivative = derivative_by_log_target(x, y, p)
    overflows = xp.isinf(derivative)
    return xp.where(overflows, y - x + 1.0, derivative) * weight * xp.where(overflows, p, 1.0)


def derivative_by_log_target(x: Array, y: Array, p: Array) -> Array:
    """Derivative of each element's loss by ``y``, the logarithm of ``p``; without its weight it may overflow."""
    return p * (y - x) + p
