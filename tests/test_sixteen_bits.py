"""float16 and bfloat16: computed in float32, rounded once."""

from typing import Any

import numpy as np
import pytest

from kldiv_xp import kl_div, kl_div_value_and_grad
from tests import exact
from tests.backends import Array, array, as_computed_with, dtype_name, lacking, numbers

NARROW = ["float16", "bfloat16"]


@pytest.fixture(autouse=True)
def _only_where_the_dtype_exists(xp: Any, dtype: str) -> None:
    if reason := lacking(xp, dtype):
        pytest.skip(reason)


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum", "batchmean"])
@pytest.mark.parametrize("log_target", [False, True])
@pytest.mark.parametrize("convention", ["oneflow", "torch", "limit"])
def test_the_loss_is_that_in_float32_rounded_once(
    xp: Any, convention: Any, log_target: bool, reduction: Any, dtype: str
) -> None:
    x, y = (array(xp, a, dtype) for a in np.random.default_rng(3).normal(size=(2, 20, 30)))
    loss = kl_div(x, y, reduction, log_target, convention=convention)
    wide = kl_div(float32(xp, x), float32(xp, y), reduction, log_target, convention=convention)
    np.testing.assert_array_equal(numbers(loss), numbers(array(xp, numbers(wide), dtype)))


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("argnum", [0, 1])
@pytest.mark.parametrize("log_target", [False, True])
def test_the_gradient_is_that_in_float32_rounded_once(xp: Any, log_target: bool, argnum: int, dtype: str) -> None:
    x, y = (array(xp, a, dtype) for a in np.random.default_rng(4).normal(size=(2, 20, 30)))
    _, gradient = kl_div_value_and_grad(x, y, "mean", log_target, argnums=argnum)
    _, wide = kl_div_value_and_grad(float32(xp, x), float32(xp, y), "mean", log_target, argnums=argnum)
    np.testing.assert_array_equal(numbers(gradient), numbers(array(xp, numbers(wide), dtype)))


@pytest.mark.parametrize("dtype", ["float16"])
def test_a_mean_whose_sum_is_beyond_float16_is_finite(xp: Any, dtype: str) -> None:
    x, y = array(xp, np.full((100, 100), -1000.0), dtype), array(xp, np.ones((100, 100)), dtype)
    assert float(kl_div(x, y, "mean")) == 1000.0
    assert numbers(kl_div(x, y, "batchmean")) == np.inf  # 100,000 is more than the 65,504 that float16 can hold


@pytest.mark.parametrize("dtype", ["float16"])
def test_a_sum_whose_running_total_is_beyond_float16_is_finite(xp: Any, dtype: str) -> None:
    x = array(xp, np.repeat([-1000.0, 1000.0], 5000), dtype)
    assert float(kl_div(x, array(xp, np.ones(10_000), dtype), "sum")) == 0.0


@pytest.mark.parametrize("dtype", ["float16"])
def test_an_element_whose_factors_are_beyond_float16_is_finite(xp: Any, dtype: str) -> None:
    # exp(12) is 162,755, and what it is multiplied by is small enough.
    loss = kl_div(array(xp, [11.875], dtype), array(xp, [12.0], dtype), "sum", True)
    assert float(loss) == float(np.float16(np.exp(12.0) * 0.125))


@pytest.mark.parametrize("dtype", NARROW)
def test_a_mean_of_many_small_terms_does_not_stall(xp: Any, dtype: str) -> None:
    # 1 + eps / 4 is 1 in float16: a running total would stop growing at 1024 terms or sooner.
    x, y = array(xp, np.full(100_000, -1.0), dtype), array(xp, np.ones(100_000), dtype)
    assert float(kl_div(x, y, "mean")) == 1.0


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("convention", ["oneflow", "torch", "limit"])
def test_a_subnormal_target_is_nearly_or_exactly_zero(xp: Any, convention: Any, dtype: str) -> None:
    # XLA flushes subnormals, but not those of bfloat16 when it asks whether they are zero.
    smallest = exact.RESULT_DTYPES[dtype][1]
    x, y = array(xp, [-1.0, -50.0, 3.0, 0.0] * 8, dtype), array(xp, np.repeat(np.arange(8) * smallest, 4), dtype)
    loss, (by_x, by_y) = kl_div_value_and_grad(
        x, y, "none", convention=convention, argnums=(0, 1), cotangent=array(xp, np.ones(32), dtype)
    )
    a, b = numbers(x), as_computed_with(xp, numbers(y), dtype)
    for value in (loss, kl_div(x, y, "none", convention=convention)):
        exact.assert_within(value, exact.losses(a, b, convention=convention), exact.tolerances(a, b, xp, dtype), dtype)
    assert np.all(np.isfinite(numbers(by_x)))
    assert np.all(np.isfinite(numbers(by_y)))


@pytest.mark.parametrize("dtype", NARROW)
def test_the_gradient_has_the_dtype_of_its_argument(xp: Any, dtype: str) -> None:
    x, y = array(xp, [[-1.0, -2.0]], dtype), array(xp, [[0.5, 0.5]], "float32")
    loss, gradients = kl_div_value_and_grad(x, y, argnums=(0, 1))
    assert [dtype_name(a) for a in (loss, *gradients)] == ["float32", dtype, "float32"]
    loss, gradients = kl_div_value_and_grad(y, x, argnums=(1, 0))
    assert [dtype_name(a) for a in (loss, *gradients)] == ["float32", dtype, "float32"]


def float32(xp: Any, x: Array) -> Array:
    return array(xp, numbers(x), "float32")
