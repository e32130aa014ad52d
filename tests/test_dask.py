"""Dask: nothing is computed until the caller asks, in any chunks, of known sizes or not."""

import itertools
from typing import Any

import dask.array
import numpy as np
import pytest
from dask.highlevelgraph import HighLevelGraph

from kldiv_xp import kl_div, kl_div_value_and_grad
from tests import exact
from tests.backends import CONVENTIONS, REDUCTIONS, numbers

da: Any = dask.array  # not typed upstream, for the most part
delayed: Any = dask.delayed  # type: ignore[attr-defined]

# Dask computes in its own threads, when the loss has long returned, and warns there as it does for its own functions.
nothing_by_nothing = pytest.mark.filterwarnings("ignore:invalid value encountered in scalar divide:RuntimeWarning")


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
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_nothing_is_computed_before_the_caller_asks(convention: Any, reduction: Any) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something was computed")

    blocks = delayed(refuse)(pure=True)
    x, y = (da.from_delayed(blocks, shape=(3, 4), dtype=np.float64) for _ in range(2))
    with dask.config.set(scheduler=refuse):
        loss = kl_div(x, y, reduction, convention=convention)
        kl_div_value_and_grad(x, y, reduction, convention=convention, argnums=(0, 1), cotangent=cotangent(x, reduction))
    with pytest.raises(AssertionError, match="something was computed"):
        loss.compute()


def cotangent(x: Any, reduction: str) -> Any:
    """A cotangent where one is needed."""
    return x if reduction == "none" else None


def everything(x: Any, y: Any, reduction: Any, convention: Any = "oneflow") -> list[Any]:
    """The loss and both gradients."""
    loss, gradients = kl_div_value_and_grad(
        x, y, reduction, convention=convention, argnums=(0, 1), cotangent=cotangent(x, reduction)
    )
    return [loss, *gradients]


def graph(x: Any) -> HighLevelGraph:
    """Graph of an array, as it was built."""
    assert isinstance(x.dask, HighLevelGraph)
    return x.dask


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_the_graph_maps_blocks_and_adds_them_up_and_does_nothing_else(convention: Any, reduction: Any) -> None:
    x, y = (da.ones((8, 6), chunks=(2, 3), name=name) for name in ("x", "y"))
    for result in everything(x, y, reduction, convention):
        layers = graph(result).layers
        of_sums = {name for name in layers if name.startswith("sum-aggregate")}
        if result.ndim == 0 and reduction != "none":
            assert len(of_sums) >= 1
        for name, layer in layers.items():
            blockwise = type(layer).__name__ == "Blockwise"
            assert blockwise or name.startswith("sum"), f"{name} is neither of one block nor part of a sum"
            if blockwise and not set(graph(result).dependencies[name]) & of_sums:
                assert len(layer) in (8, 1), f"{name} has {len(layer)} tasks for 8 blocks"


@pytest.mark.parametrize("unknown", [False, True], ids=["known sizes", "unknown sizes"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_the_number_of_tasks_grows_as_that_of_the_chunks(reduction: Any, unknown: bool) -> None:
    def tasks(rows: int) -> list[int]:
        x, y = (da.ones((rows, 6), chunks=(1, 6), name=name) for name in ("x", "y"))
        if unknown:
            x, y = (a[da.ones(rows, chunks=1, dtype=bool)] for a in (x, y))
        return [len(graph(result)) for result in everything(x, y, reduction)]

    for few, many in zip(tasks(64), tasks(256), strict=True):
        assert many < 4 * (few + 1)  # the tree of a sum is one level higher


class TestUnknownSizes:
    """Chunks whose sizes depend on values, as after indexing with a mask."""

    kept = np.asarray([True, False, True, True, False, True, True])

    def some_rows(self, x: Any, y: Any, chunks: tuple[int, int] = (3, 2)) -> tuple[Any, Any]:
        mask = da.from_array(self.kept, chunks=chunks[0])
        return da.from_array(x, chunks=chunks)[mask], da.from_array(y, chunks=chunks)[mask]

    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
    @pytest.mark.parametrize("reduction", REDUCTIONS)
    def test_the_loss_is_that_of_the_rows_that_are_left(self, reduction: Any, dtype: str) -> None:
        x, y = np.random.default_rng(0).normal(size=(2, 7, 4)).astype(dtype)
        loss = kl_div(*self.some_rows(x, y), reduction)
        x, y = x[self.kept].astype(np.float64), y[self.kept].astype(np.float64)
        exact.assert_within(
            loss,
            exact.reduced(exact.losses(x, y), x.shape, reduction),
            exact.total(exact.tolerances(x, y, da, dtype), x.shape, reduction),
            dtype,
        )

    @pytest.mark.parametrize("reduction", REDUCTIONS)
    def test_the_gradients_are_those_of_the_rows_that_are_left(self, reduction: Any) -> None:
        x, y = np.random.default_rng(0).uniform(0.5, 1.0, (2, 7, 4))
        results = everything(*self.some_rows(x, y), reduction)
        for lazy, known in zip(results, everything(x[self.kept], y[self.kept], reduction), strict=True):
            assert lazy.dtype == known.dtype
            # A sum of 20 positive terms, of which blocks are added up in another order.
            np.testing.assert_allclose(numbers(lazy), known, rtol=20 * np.finfo(np.float64).eps)

    @pytest.mark.parametrize("columns", [0, 1, 3])
    def test_the_batch_is_counted_even_if_its_rows_have_no_elements(self, columns: int) -> None:
        x = np.full((7, columns), -1.0)
        loss = kl_div(*self.some_rows(x, np.exp(x) * 2, chunks=(3, max(columns, 1))), "batchmean")
        np.testing.assert_allclose(numbers(loss), columns * 2 * np.exp(-1) * np.log(2), rtol=4e-16)

    @nothing_by_nothing
    def test_the_mean_over_no_elements_is_nan(self) -> None:
        x = da.ones(4, chunks=2)
        for reduction in ("mean", "batchmean"):
            assert np.isnan(numbers(kl_div(x[x < 0], x[x < 0], reduction)))

    def test_more_elements_are_counted_than_float32_has_integers(self) -> None:
        n = 2**24 + 1  # float32 would count to 2**24
        few = da.ones(n, chunks=n, dtype=np.float32)
        x = da.concatenate([few, few])
        unknown = x.map_blocks(lambda block: block, chunks=((np.nan, np.nan),), dtype=np.float32)
        assert numbers(kl_div(-unknown, unknown)) == 1.0

    def test_what_cannot_be_matched_is_refused_with_the_remedy(self) -> None:
        x, y = da.ones((7, 4), chunks=(3, 2)), da.ones((7, 4), chunks=(7, 4))
        mask = da.from_array(self.kept, chunks=3)
        for one, other in itertools.permutations([x, x[mask], y[da.from_array(self.kept, chunks=7)]], 2):
            with pytest.raises(ValueError, match=r"sizes are unknown.*call compute_chunk_sizes\(\) on each"):
                kl_div(one, other)
        left, right = x[mask].compute_chunk_sizes(), y[da.from_array(self.kept, chunks=7)].compute_chunk_sizes()
        assert numbers(kl_div(-left, right)) == 1.0

    def test_a_cotangent_that_cannot_be_matched_is_refused_with_the_remedy(self) -> None:
        x = da.ones((7, 4), chunks=(3, 2))
        some = x[da.from_array(self.kept, chunks=3)]
        with pytest.raises(ValueError, match=r"call compute_chunk_sizes\(\) on each"):
            kl_div_value_and_grad(some, some, "none", cotangent=x)

    @pytest.mark.parametrize("reduction", REDUCTIONS)
    def test_chunks_of_one_row_are_not_broadcast_against_longer_ones(self, reduction: Any) -> None:
        rows = da.ones((4, 3), chunks=(2, 3))
        one_each, two_each = (rows[da.from_array(np.asarray(m), chunks=2)] for m in ([True, False] * 2, [True] * 4))
        for x, y in itertools.permutations([one_each, two_each]):
            for result in everything(x, y, reduction):
                with pytest.raises(ValueError, match=r"a chunk of shape \([12], 3\) meets one of shape \([12], 3\)"):
                    result.compute()

    def test_a_cotangent_of_one_row_is_not_broadcast(self) -> None:
        rows = da.ones((4, 3), chunks=(2, 3))
        one_each, two_each = (rows[da.from_array(np.asarray(m), chunks=2)] for m in ([True, False] * 2, [True] * 4))
        gradient: Any
        _, gradient = kl_div_value_and_grad(two_each, two_each, "none", cotangent=one_each)
        with pytest.raises(ValueError, match="meets one of shape"):
            gradient.compute()


@nothing_by_nothing
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (0, 3), (1,)], ids=str)
def test_no_axis_and_axes_without_length_are_as_in_numpy(shape: tuple[int, ...], reduction: Any) -> None:
    x = np.full(shape, -1.0)
    for lazy, known in zip(
        everything(da.asarray(x), da.asarray(x + 3), reduction), everything(x, x + 3, reduction), strict=True
    ):
        assert lazy.shape == known.shape
        np.testing.assert_array_equal(numbers(lazy), known)


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


@pytest.mark.parametrize("masked", ["from_array", "masked_greater"])
def test_masked_blocks_are_refused_as_masked_arrays_are(masked: str) -> None:
    values = np.asarray([0.1, 0.9, 0.5, 0.5])
    y = (
        da.from_array(np.ma.masked_greater(values, 0.8), chunks=2)
        if masked == "from_array"
        else da.ma.masked_greater(da.from_array(values, chunks=2), 0.8)
    )
    with pytest.raises(TypeError, match=r"target is a numpy\.ma\..*MaskedArray.*plain numpy\.ndarray"):
        kl_div(da.zeros(4, chunks=2), y)


def test_blocks_of_another_library_are_computed_by_it() -> None:
    sparse = pytest.importorskip("sparse")
    dense_x, dense_y = np.full((4, 6), -2.0), np.eye(4, 6)
    x, y = (da.from_array(a, chunks=(2, 3)).map_blocks(sparse.COO) for a in (dense_x, dense_y))
    loss: Any = kl_div(x, y, "none").compute()
    assert isinstance(loss, sparse.COO)
    np.testing.assert_array_equal(loss.todense(), kl_div(dense_x, dense_y, "none"))
