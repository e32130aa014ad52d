"""The loss against the exact value of its formula, on every library, in every shape and dtype."""

from typing import Any

import numpy as np
import pytest

from kldiv_xp import kl_div
from tests import exact
from tests.backends import CONVENTIONS, REDUCTIONS, Exact, array, lacking, numbers

DTYPES = [
    # input, target, loss
    ("float32", "float32", "float32"),
    ("float64", "float64", "float64"),
    ("float16", "float16", "float16"),
    ("bfloat16", "bfloat16", "bfloat16"),
    ("float32", "float64", "float64"),
    ("float64", "float32", "float64"),
    ("float16", "float32", "float32"),
    ("float32", "bfloat16", "float32"),
    ("float16", "bfloat16", "float32"),
    ("bfloat16", "float64", "float64"),
]
SHAPES: list[tuple[int, ...]] = [(), (1,), (7,), (3, 4), (1, 9), (2, 3, 4), (2, 1, 3, 2), (2, 1, 2, 3, 2)]
EMPTY: list[tuple[int, ...]] = [(0,), (0, 5), (5, 0), (0, 0), (2, 0, 3)]


def distributions(shape: tuple[int, ...], log_target: bool) -> tuple[Exact, Exact]:
    """Log-probabilities, and probabilities (or their logarithms) with an exact zero here and there."""
    rng = np.random.default_rng(len(shape))
    x, y = (np.asarray(rng.normal(0.0, 3.0, shape)) for _ in range(2))
    x, y = (a - np.log(np.sum(np.exp(a), axis=-1, keepdims=True)) if shape else -np.abs(a) for a in (x, y))
    return x, y if log_target else np.where(rng.random(shape) < 0.1, 0.0, np.exp(y))


@pytest.mark.parametrize("dtypes", DTYPES, ids="-".join)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("log_target", [False, True])
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_the_loss_is_exact_within_the_tolerance_and_of_the_promoted_dtype(
    xp: Any, convention: Any, log_target: bool, reduction: Any, dtypes: tuple[str, str, str]
) -> None:
    if reason := lacking(xp, *dtypes):
        pytest.skip(reason)
    check(xp, (4, 5), dtypes, reduction, log_target, convention)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("log_target", [False, True])
def test_the_loss_is_exact_in_any_number_of_dimensions(
    xp: Any, log_target: bool, reduction: Any, shape: tuple[int, ...]
) -> None:
    check(xp, shape, ("float64",) * 3, reduction, log_target, "oneflow")


@pytest.mark.parametrize("shape", EMPTY, ids=str)
@pytest.mark.parametrize("log_target", [False, True])
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_no_elements_have_no_mean_but_a_sum(xp: Any, convention: Any, log_target: bool, shape: tuple[int, ...]) -> None:
    expected = {"none": np.empty(shape), "sum": 0.0, "mean": np.nan, "batchmean": 0.0 if shape[0] else np.nan}
    for reduction in REDUCTIONS:
        x = array(xp, np.empty(shape), "float32")
        loss = kl_div(x, x, reduction, log_target, convention=convention)
        assert loss.dtype == x.dtype
        np.testing.assert_array_equal(numbers(loss), expected[reduction], strict=True)


def test_a_0d_array_is_a_batch_of_one(xp: Any) -> None:
    x, y = array(xp, -1.0), array(xp, 1.0)
    for reduction in REDUCTIONS:
        loss = kl_div(x, y, reduction)
        assert tuple(loss.shape) == ()
        assert float(loss) == 1.0


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_the_result_is_an_array_of_the_library_on_the_device(xp: Any, reduction: Any) -> None:
    import array_api_compat

    x = array(xp, [[-1.0, -2.0]])
    loss = kl_div(x, x, reduction)
    assert array_api_compat.array_namespace(loss) is array_api_compat.array_namespace(x)
    assert array_api_compat.device(loss) == array_api_compat.device(x)


@pytest.mark.parametrize(("reduction", "share"), [("sum", 1.0), ("mean", 2.0**-20), ("batchmean", 2.0**-10)])
def test_a_long_sum_does_not_drift(xp: Any, reduction: Any, share: float) -> None:
    # A running float32 total of a million equal terms is off by one part in a thousand.
    x, y = np.full((2**10, 2**10), -0.1, np.float32), np.ones((2**10, 2**10), np.float32)
    loss = kl_div(array(xp, x, "float32"), array(xp, y, "float32"), reduction)
    a, b = x[:1, :1].astype(np.float64), y[:1, :1].astype(np.float64)
    scale = 2**20 * share
    within = [value * scale for value in exact.tolerances(a, b, xp, "float32")]
    exact.assert_within(loss, [value * scale for value in exact.losses(a, b)], within, "float32")


def check(
    xp: Any, shape: tuple[int, ...], dtypes: tuple[str, ...], reduction: Any, log_target: bool, convention: Any
) -> None:
    x, y = (array(xp, a, dtype) for a, dtype in zip(distributions(shape, log_target), dtypes, strict=False))
    loss = kl_div(x, y, reduction, log_target, convention=convention)
    assert tuple(loss.shape) == (shape if reduction == "none" else ())
    a, b = numbers(x), numbers(y)  # as given: rounded to their dtypes
    exactly = exact.losses(a, b, log_target=log_target, convention=convention)
    tolerance = exact.tolerances(a, b, xp, dtypes[2], log_target=log_target)
    exact.assert_within(
        loss, exact.reduced(exactly, shape, reduction), exact.total(tolerance, shape, reduction), dtypes[2]
    )
