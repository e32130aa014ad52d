"""What holds for all inputs and targets, on all libraries. Hypothesis looks for those where it does not."""

import math
from typing import Any

import mpmath
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kldiv_xp import kl_div
from tests import exact
from tests.backends import CONVENTIONS, Exact, array, as_computed_with, dtype_name, numbers

# Few, because JAX compiles once for each.
SHAPES = [(), (1,), (6,), (0,), (3, 4), (4, 1), (2, 0), (2, 3, 2), (1, 2, 1, 2, 2)]

dtypes = st.sampled_from(["float32", "float64"])
conventions = st.sampled_from(CONVENTIONS)
reductions = st.sampled_from(["none", "mean", "sum", "batchmean"])

SPECIAL = st.sampled_from([0.0, -0.0, math.inf, -math.inf, math.nan, 1e-40, 5e-324, 1e-30, 1.0, -1.0])
INPUTS = st.floats(-1e4, 1e4, width=32)
TARGETS = st.floats(0.0, 1e4, width=32)
LOG_TARGETS = st.floats(-120.0, 20.0, width=32)  # exp of these is subnormal in float32, or large


@st.composite
def pairs(
    draw: st.DrawFn, log_target: bool = False, special: bool = False, shapes: Any = SHAPES
) -> tuple[Exact, Exact, str]:
    """Input, target and the dtype that they are exact in."""
    shape, dtype = draw(st.sampled_from(shapes)), draw(dtypes)
    kinds = (INPUTS, LOG_TARGETS if log_target else TARGETS)
    x, y = (
        draw(hnp.arrays(np.float64, shape, elements=st.one_of(kind, SPECIAL) if special else kind)) for kind in kinds
    )
    return x.astype(dtype).astype(np.float64), y.astype(dtype).astype(np.float64), dtype


@st.composite
def pairs_either_way(draw: st.DrawFn, special: bool = False) -> tuple[Exact, Exact, str, bool]:
    log_target = draw(st.booleans())
    return *draw(pairs(log_target, special)), log_target


def seen(xp: Any, x: Exact, y: Exact, dtype: str) -> tuple[Exact, Exact]:
    return as_computed_with(xp, x, dtype), as_computed_with(xp, y, dtype)


@given(pairs_either_way(), reductions, conventions)
def test_the_loss_is_exact_within_the_tolerance(
    xp: Any, pair: tuple[Exact, Exact, str, bool], reduction: Any, convention: Any
) -> None:
    x, y, dtype, log_target = pair
    loss = kl_div(array(xp, x, dtype), array(xp, y, dtype), reduction, log_target, convention=convention)
    a, b = seen(xp, x, y, dtype)
    exactly = exact.losses(a, b, log_target=log_target, convention=convention)
    tolerance = exact.tolerances(a, b, xp, dtype, log_target=log_target)
    exact.assert_within(
        loss, exact.reduced(exactly, x.shape, reduction), exact.total(tolerance, x.shape, reduction), dtype
    )


@given(pairs_either_way(special=True), conventions)
def test_nan_and_infinity_come_where_the_convention_says(
    xp: Any, pair: tuple[Exact, Exact, str, bool], convention: Any
) -> None:
    x, y, dtype, log_target = pair
    if log_target:  # where the exponential underflows to zero, which no formula can then tell from a zero
        y = np.where(np.isinf(x) & np.isfinite(y) & (y < np.log(np.finfo(dtype).tiny)), -1.0, y)
    loss = numbers(kl_div(array(xp, x, dtype), array(xp, y, dtype), "none", log_target, convention=convention))
    a, b = seen(xp, x, y, dtype)
    exactly = exact.losses(a, b, log_target=log_target, convention=convention)
    expected = np.asarray([float(value) if not mpmath.isfinite(value) else 0.0 for value in exactly])
    np.testing.assert_array_equal(np.where(np.isfinite(loss), 0.0, loss).ravel(), expected)


@given(pairs_either_way(), conventions)
def test_each_reduction_is_that_of_the_unreduced_loss(
    xp: Any, pair: tuple[Exact, Exact, str, bool], convention: Any
) -> None:
    x, y, dtype, log_target = pair
    given = array(xp, x, dtype), array(xp, y, dtype)
    elements = numbers(kl_div(*given, "none", log_target, convention=convention))
    a, b = seen(xp, x, y, dtype)
    within = exact.total(exact.tolerances(a, b, xp, dtype, log_target=log_target), x.shape, "sum")[0]
    total = math.fsum(elements.ravel().tolist())
    for reduction, over in (("sum", 1), ("mean", x.size), ("batchmean", x.shape[0] if x.shape else 1)):
        loss = numbers(kl_div(*given, reduction, log_target, convention=convention))  # type: ignore[arg-type]
        assert abs(loss * over - total) <= within if over else np.isnan(loss)


@given(pairs_either_way(special=True), conventions)
def test_the_mean_is_the_sum_divided_by_the_number_of_elements(
    xp: Any, pair: tuple[Exact, Exact, str, bool], convention: Any
) -> None:
    x, y, dtype, log_target = pair
    given = array(xp, x, dtype), array(xp, y, dtype)
    total, mean = (
        numbers(kl_div(*given, reduction, log_target, convention=convention)) for reduction in ("sum", "mean")
    )
    if not np.isfinite(total) or not x.size:
        np.testing.assert_array_equal(mean, total if x.size else np.nan)
        return
    a, b = seen(xp, x, y, dtype)
    bounds = [value for value in exact.tolerances(a, b, xp, dtype, log_target=log_target) if mpmath.isfinite(value)]
    assert abs(mean * x.size - total) <= mpmath.fsum(bounds)


@given(pairs_either_way(special=True), conventions, st.data())
def test_the_order_of_axes_makes_no_difference(
    xp: Any, pair: tuple[Exact, Exact, str, bool], convention: Any, data: st.DataObject
) -> None:
    x, y, dtype, log_target = pair
    axes = data.draw(st.permutations(range(x.ndim)))
    loss, of_permuted = (
        numbers(kl_div(array(xp, a, dtype), array(xp, b, dtype), "none", log_target, convention=convention))
        for a, b in ((x, y), (x.transpose(axes).copy(), y.transpose(axes).copy()))
    )
    # Within the tolerance, not equal: where a vector instruction ends depends on the shape.
    a, b = seen(xp, x, y, dtype)
    within = exact.tolerances(a, b, xp, dtype, log_target=log_target)
    values = (loss.ravel(), of_permuted.transpose(np.argsort(axes)).ravel(), within)
    for one, other, tolerance in zip(*values, strict=True):
        assert np.array_equal(one, other, equal_nan=True) or abs(one - other) <= tolerance


@given(pairs_either_way(), pairs_either_way(), conventions)
def test_the_sum_over_a_concatenation_is_the_sum_of_sums(
    xp: Any, one: tuple[Exact, Exact, str, bool], other: tuple[Exact, Exact, str, bool], convention: Any
) -> None:
    log_target, dtype = one[3], one[2]
    (x, y), (u, v) = ((a.ravel().astype(dtype).astype(np.float64) for a in pair[:2]) for pair in (one, other))
    if log_target is not other[3]:
        u, v = x, y

    def loss(a: Exact, b: Exact) -> Exact:
        return numbers(kl_div(array(xp, a, dtype), array(xp, b, dtype), "sum", log_target, convention=convention))

    together = np.concatenate([x, u]), np.concatenate([y, v])
    a, b = seen(xp, *together, dtype)
    within = mpmath.fsum(exact.tolerances(a, b, xp, dtype, log_target=log_target))
    assert abs(loss(*together) - (loss(x, y) + loss(u, v))) <= 2 * within  # each side may be off by as much


@given(pairs(shapes=[(6,), (3, 4), (2, 3, 2), ()]), conventions)
def test_a_distribution_does_not_diverge_from_itself(xp: Any, pair: tuple[Exact, Exact, str], convention: Any) -> None:
    _, y, dtype = pair
    _, y = seen(xp, y, y, dtype)
    with np.errstate(divide="ignore"):
        log_y = np.log(y).astype(dtype).astype(np.float64)
    log_y = np.where(np.isfinite(log_y), log_y, -1.0)  # a zero target is no matter of logarithms
    loss = numbers(kl_div(array(xp, log_y, dtype), array(xp, y, dtype), "sum", convention=convention))
    assert abs(loss) <= mpmath.fsum(exact.tolerances(log_y, y, xp, dtype))


@given(pairs(log_target=True), conventions)
def test_a_log_target_is_the_logarithm_of_a_target(xp: Any, pair: tuple[Exact, Exact, str], convention: Any) -> None:
    x, log_y, dtype = pair
    y = np.exp(log_y).astype(dtype).astype(np.float64)
    x, y = seen(xp, x, y, dtype)
    plain = numbers(kl_div(array(xp, x, dtype), array(xp, y, dtype), "sum", convention=convention))
    of_log = numbers(kl_div(array(xp, x, dtype), array(xp, log_y, dtype), "sum", True, convention=convention))
    # The exponential was rounded to the dtype: by no more than is allowed for the loss itself.
    within = mpmath.fsum(exact.tolerances(x, log_y, xp, dtype, log_target=True))
    assert abs(plain - of_log) <= 2 * within


@given(
    hnp.arrays(np.float64, (4, 6), elements=st.floats(-20.0, 20.0)),
    hnp.arrays(np.float64, (4, 6), elements=st.one_of(st.floats(-20.0, 20.0), st.just(-math.inf))),
    st.booleans(),
    dtypes,
    conventions,
)
def test_the_divergence_of_distributions_is_not_negative(
    xp: Any, x: Exact, y: Exact, log_target: bool, dtype: str, convention: Any
) -> None:
    y[:, 0] = 0.0  # so that no row is all zeros
    if log_target and convention != "limit":
        y = np.where(np.isfinite(y), y, -20.0)
    x, y = (a - np.log(np.sum(np.exp(a), axis=-1, keepdims=True)) for a in (x, y))
    x, y = (np.asarray(a.astype(dtype), np.float64) for a in (x, y if log_target else np.exp(y)))
    loss = numbers(kl_div(array(xp, x, dtype), array(xp, y, dtype), "batchmean", log_target, convention=convention))
    # Rounding x and y to the dtype, after they were normalised, is a few of the roundings that the tolerance allows.
    within = mpmath.fsum(exact.tolerances(x, y, xp, dtype, log_target=log_target)) / len(x)
    assert loss >= -within


@given(pairs_either_way())
def test_the_conventions_agree_away_from_the_edges(xp: Any, pair: tuple[Exact, Exact, str, bool]) -> None:
    x, y, dtype, log_target = pair
    oneflow, *others = (
        numbers(kl_div(array(xp, x, dtype), array(xp, y, dtype), "none", log_target, convention=convention)).ravel()
        for convention in CONVENTIONS
    )
    a, b = seen(xp, x, y, dtype)
    within = np.asarray([float(value) for value in exact.tolerances(a, b, xp, dtype, log_target=log_target)])
    for other in others:
        assert np.all(np.abs(oneflow - other) <= 2 * within)  # each may be off by as much


@given(pairs_either_way(special=True), dtypes, conventions)
def test_the_result_has_the_promoted_dtype_and_leaves_its_arguments_alone(
    xp: Any, pair: tuple[Exact, Exact, str, bool], other: str, convention: Any
) -> None:
    x, y, dtype, log_target = pair
    a, b = array(xp, x, dtype), array(xp, y, other)
    before = numbers(a), numbers(b)
    loss = kl_div(a, b, "sum", log_target, convention=convention)
    assert dtype_name(loss) == max(dtype, other)  # "float32" < "float64"
    np.testing.assert_array_equal(numbers(a), before[0])
    np.testing.assert_array_equal(numbers(b), before[1])
