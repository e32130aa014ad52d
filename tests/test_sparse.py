"""pydata/sparse: what is stored of the loss is what is stored of the target, and no array is made dense."""

from typing import Any

import numpy as np
import pytest

from kldiv_xp import KLDivLoss, kl_div, kl_div_value_and_grad
from tests import exact
from tests.backends import CONVENTIONS, REDUCTIONS

sparse: Any = pytest.importorskip("sparse")

FORMATS = ("coo", "gcxs")


def arrays(dtype: str = "float64") -> tuple[Any, Any]:
    rng = np.random.default_rng(3)
    x = rng.normal(-3.0, 1.0, (4, 6)).astype(dtype)
    return x, np.where(rng.random((4, 6)) < 0.7, 0.0, rng.random((4, 6))).astype(dtype)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("log_target", [False, True])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_the_loss_is_exact_within_the_tolerance(convention: Any, reduction: Any, log_target: bool, format: str) -> None:
    x, y = arrays()
    given = (sparse.asarray(a, format=format) for a in (x, y))
    loss: Any = KLDivLoss(reduction, log_target, convention=convention)(*given)
    assert isinstance(loss, sparse.SparseArray)
    wanted = exact.losses(x, y, log_target=log_target, convention=convention)
    within = exact.tolerances(x, y, np, "float64", log_target=log_target)
    exact.assert_within(
        loss.todense(),
        exact.reduced(wanted, x.shape, reduction),
        exact.total(within, x.shape, reduction),
        "float64",
    )


def mostly_zero() -> tuple[Any, Any]:
    """An input of one value and a target of 100 elements; dense, each would have 8 TB."""
    rng = np.random.default_rng(5)
    shape = (10**6, 10**6)
    places = rng.integers(0, shape[0], (2, 100))
    input = sparse.COO(np.zeros((2, 0), np.int64), np.zeros(0), shape=shape, fill_value=-2.0)
    return input, sparse.COO(places, rng.random(100) + 0.1, shape=shape)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_a_target_that_is_mostly_zero_stays_sparse(convention: Any) -> None:
    input, target = mostly_zero()
    loss: Any = kl_div(input, target, "none", convention=convention)
    assert (loss.nnz, loss.fill_value) == (target.nnz, 0.0)
    y = target.data
    exact.assert_within(
        kl_div(input, target, "sum", convention=convention).todense(),
        exact.reduced(exact.losses(np.full(100, -2.0), y), (100,), "sum"),
        exact.total(exact.tolerances(np.full(100, -2.0), y, np, "float64"), (100,), "sum"),
        "float64",
    )
    gradients: Any
    _, gradients = kl_div_value_and_grad(input, target, "sum", convention=convention, argnums=(0, 1))
    for gradient in gradients:
        assert (gradient.nnz, gradient.fill_value) == (target.nnz, 0.0)


@pytest.mark.parametrize(
    ("convention", "fill"), [("oneflow", 0.0), ("limit", 0.0), ("torch", np.nan)], ids=lambda value: str(value)
)
def test_a_class_that_is_masked_wherever_it_is_not_stored_costs_what_the_convention_says(
    convention: Any, fill: float
) -> None:
    _, target = mostly_zero()
    masked = sparse.COO(target.coords, np.full(100, -2.0), shape=target.shape, fill_value=-np.inf)
    loss: Any = kl_div(masked, target, "none", convention=convention)
    assert loss.nnz == target.nnz
    np.testing.assert_array_equal(loss.fill_value, fill)


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("reduction", ["sum", "mean", "batchmean"])
def test_a_nan_that_is_not_stored_is_not_swallowed(reduction: Any, convention: Any) -> None:
    input, _ = mostly_zero()
    nan = sparse.COO(np.zeros((2, 0), np.int64), np.zeros(0), shape=input.shape, fill_value=np.nan)
    assert np.isnan(kl_div(input, nan, reduction, convention=convention).todense())


def test_no_elements_have_no_mean() -> None:
    none = sparse.zeros((0, 3))
    assert np.isnan(kl_div(none, none, "mean").todense())


def test_a_dense_array_beside_a_sparse_one_is_refused() -> None:
    x, y = arrays()
    for given in ((x, sparse.asarray(y)), (sparse.asarray(x), y)):
        with pytest.raises(TypeError, match=r"one array library, got .*; convert them"):
            kl_div(*given)
    assert isinstance(KLDivLoss("none")(sparse.asarray(x), sparse.asarray(y)), sparse.COO)


def test_the_format_without_reductions_is_refused() -> None:
    x, y = (sparse.asarray(a, format="dok") for a in arrays())
    with pytest.raises(TypeError, match=r"input is a sparse.*DOK, .*asformat\('coo'\)"):
        kl_div(x, y)
    kl_div(x.asformat("coo"), y.asformat("coo"))
