"""Where ``torch.nn.KLDivLoss`` departs from its own formula."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from conformance.elements import TINY, Elements, Floats, rounded_to
from conformance.ledger.entry import (
    Deviation,
    Mask,
    Refusal,
    among_probabilities,
    floating_arrays,
    gives_what_was_asked,
    sum_overflows,
    zero,
)
from conformance.ledger.formulas import pytorch, pytorch_until_1_12
from conformance.record import Case, Implementation


def _pytorch(implementation: Implementation) -> bool:
    return pytorch(implementation) and not pytorch_until_1_12(implementation)


def _dtype_of_sum(e: Elements) -> str:
    """``"mean"`` adds up 16 bits in float32, ``"batchmean"`` rounds the sum."""
    return "float32" if e.reduction == "mean" and "16" in e.promoted_dtype else e.promoted_dtype


def _arrays_but_not_floating(case: Case) -> bool:
    return case.input.is_array and case.target.is_array and not floating_arrays(case)


class _Steps:
    """PyTorch's loss or gradient of each element, step by step, each rounded to the dtype that it has in PyTorch.

    The exponential and ``xlogy`` have the dtype of the target; what both arguments enter, the promoted dtype.
    """

    def __init__(self, e: Elements, quantity: str) -> None:
        self._of_target, self._of_both = e.target_dtype, e.promoted_dtype
        self.left_range = np.zeros(np.shape(e.y), np.bool_)
        """Whether a step is infinite or subnormal: by overflow, by underflow, or from an infinite argument."""
        self.value = self._loss(e) if quantity == "loss" else self._gradient(e, quantity)

    def _loss(self, e: Elements) -> Floats:
        if e.log_target:
            return self._both(self._target(np.exp(e.y)) * self._both(e.y - e.x))
        y_log_y = np.where(e.y == 0, 0.0, self._target(e.y * e.log_p))
        return self._both(y_log_y - self._both(e.y * e.x))

    def _gradient(self, e: Elements, quantity: str) -> Floats:
        """The gradient, multiplied by the upstream gradient."""
        g = self._both(np.broadcast_to(e.weight, np.shape(e.y)))
        if quantity == "input":
            return -self._both(g * (self._target(np.exp(e.y)) if e.log_target else e.y))
        if e.log_target:
            p, difference = self._target(np.exp(e.y)), self._both(e.y - e.x)
            by_exponential = self._target(self._target(self._both(g * difference)) * p)
            return self._target(by_exponential + self._target(self._both(g * p)))
        # PyTorch's xlogy(g, y) is 0 for g = 0, and is masked for y = 0.
        g_log_y = np.where(g == 0, np.where(np.isnan(e.y), np.nan, 0.0), self._target(self._target(g) * e.log_p))
        g_log_y = np.where(e.y == 0, 0.0, g_log_y)
        by_product = self._target(-self._both(g * e.x))
        g_y = self._target(self._target(g) * e.y)
        self.left_range |= (g_y == 0) & (g != 0) & (e.y != 0)  # float64 has no digits left that would show it
        by_xlogy = self._target(g_log_y + self._target(g_y / e.y))
        return self._target(by_xlogy + by_product)

    def _target(self, values: Floats) -> Floats:
        return self._rounded(values, self._of_target)

    def _both(self, values: Floats) -> Floats:
        return self._rounded(values, self._of_both)

    def _rounded(self, values: Floats, dtype: str) -> Floats:
        rounded = rounded_to(values, dtype)
        self.left_range |= np.isinf(rounded) | ((values != 0) & (np.abs(values) < TINY[dtype]))
        return rounded


_steps = lru_cache(maxsize=4)(_Steps)  # two entries ask for them


def _left_range(quantity: str) -> Callable[[Elements], Mask]:
    return lambda e: _steps(e, quantity).left_range | (e.weight == 0)


def _step_by_step(quantity: str) -> Callable[[Elements], Floats]:
    def value(e: Elements) -> Floats:
        steps = _steps(e, quantity).value
        return steps if quantity == "loss" else e.per_weight(steps)

    return value


DEVIATIONS = (
    Deviation(
        "sum-overflows-before-it-is-divided",
        _pytorch,
        ("loss",),
        lambda e: np.asarray(e.reduction in ("mean", "batchmean") and sum_overflows(e, _dtype_of_sum(e))),
        lambda e: float(np.copysign(np.inf, e.formula("loss").sum())),
        "PyTorch rounds the sum to the dtype of the loss before it divides by the length of the batch, or adds up in"
        " float32 before it divides by the number of elements; the sum may overflow, above all in float16",
        "random/12500x80/recipe/float16/target/batchmean",
        reduced=True,
    ),
    Deviation(
        "rounded-step-by-step",
        _pytorch,
        ("loss",),
        _left_range("loss"),
        _step_by_step("loss"),
        "PyTorch rounds every step to the dtype of its operands: the exponential, y log y, y x, their difference. In 16"
        " bits these overflow and underflow for ordinary numbers",
        "found/0/log_target/none",
    ),
    Deviation(
        "rounded-step-by-step-by-input",
        _pytorch,
        ("input",),
        _left_range("input"),
        _step_by_step("input"),
        "PyTorch rounds the exponential to the dtype of the target, and its product with the upstream gradient",
        "found/2/log_target/none",
    ),
    Deviation(
        "rounded-step-by-step-by-target",
        _pytorch,
        ("target",),
        _left_range("target"),
        _step_by_step("target"),
        "PyTorch multiplies by the upstream gradient first, and rounds every step. The result is infinite where one"
        " overflows, and 0 for an upstream gradient of 0",
        "found/6/target/mean",
    ),
    Deviation(
        "zero-target-gradient-masked",
        pytorch_until_1_12,
        ("target",),
        lambda e: among_probabilities(e, e.y == 0),
        zero,
        "PyTorch up to 1.12 gave 0 for the derivative by a zero target, for every input; now it gives NaN",
        "real/temperature-0.25/float32/target/none; https://github.com/pytorch/pytorch/issues/89558",
    ),
)

REFUSALS = (
    Refusal(
        "integral-and-complex-arrays-taken",
        pytorch_until_1_12,
        lambda case, outcome: _arrays_but_not_floating(case) and gives_what_was_asked(case, outcome),
        "PyTorch up to 1.12 computed the loss of integer, boolean and complex arrays",
        "refused/int32-target/target/mean",
    ),
    Refusal(
        "input-kept-for-backward",
        pytorch_until_1_12,
        lambda case, outcome: case.call == "changed after" and "inplace operation" in str(outcome.error),
        "PyTorch up to 1.12 saved the input for the backward pass, so the input must not be overwritten before,"
        " although the derivative by the input needs only the target",
        "calls/6x10/changed-after/target/sum",
    ),
    Refusal(
        "mixed-dtypes-not-differentiated",
        pytorch_until_1_12,
        lambda case, outcome: outcome.error is not None and case.input.dtype != case.target.dtype,
        "PyTorch up to 1.12 computed the loss for two dtypes, but raised for its gradient",
        "random/5x3/even/float32+float64/target/sum",
    ),
)
