"""Dask: nothing is computed until the caller asks, in any chunks."""

from typing import Any

import dask.array
import numpy as np
import pytest

from kldiv_xp import kl_div, kl_div_value_and_grad
from tests import exact
from tests.backends import REDUCTIONS, numbers

da: Any = dask.array  # not typed upstream, for the most part
delayed: Any = dask.delayed  # type: ignore[attr-defined]


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("chunks", [(6, 8), (1, 8), (4, 3), ((1, 2, 3), (7, 1))], ids=str)
def test_the_chunks_make_no_difference(chunks: Any, reduction: Any) -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 6, 8))
    loss = kl_div(da.from_array(x, chunks=chunks), da.from_array(y, chunks=(2, 4)), reduction)
    assert isinstance(loss, da.Array)
    exact.assert_within(
        loss,
        exact.reduced(exact.losses(x, y), x.shape, reduction),
        exact.total(exact.tolerances(x, y, da, "float64"), x.shape, reduction),
        "float64",
    )


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("convention", ["oneflow", "torch", "limit"])
def test_nothing_is_computed_before_the_caller_asks(convention: Any, reduction: Any) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something was computed")

    blocks = delayed(refuse)(pure=True)
    x, y = (da.from_delayed(blocks, shape=(3, 4), dtype=np.float64) for _ in range(2))
    loss = kl_div(x, y, reduction, convention=convention)
    kl_div_value_and_grad(
        x, y, reduction, convention=convention, argnums=(0, 1), cotangent=x if reduction == "none" else None
    )
    with pytest.raises(AssertionError, match="something was computed"):
        loss.compute()


def test_an_array_larger_than_memory_is_described_at_once() -> None:
    x = da.zeros((2**25, 2**15), chunks=(2**20, 2**10), dtype=np.float32)  # 4 TiB
    loss = kl_div(x, x, "batchmean")
    assert loss.shape == ()
    assert loss.dtype == np.float32


def test_gradients_keep_the_chunks() -> None:
    x = da.from_array(np.full((4, 6), -1.0), chunks=(2, 3))
    gradient: Any
    _, gradient = kl_div_value_and_grad(x, da.ones((4, 6), chunks=(2, 3)), "sum")
    assert gradient.chunks == x.chunks
    np.testing.assert_array_equal(numbers(gradient), -1.0)
