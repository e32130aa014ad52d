"""Dask on a cluster of two worker processes: the loss of arrays that no process holds whole."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from kldiv_xp import kl_div, kl_div_value_and_grad
from tests import exact
from tests.backends import CONVENTIONS, REDUCTIONS

distributed: Any = pytest.importorskip("distributed")
da: Any = pytest.importorskip("dask.array")

ROWS = 6


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """Client of a cluster on this machine, whose workers are gone at the end."""
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0"
    )
    with cluster, distributed.Client(cluster) as client:
        yield client


@pytest.fixture
def spread(client: Any) -> tuple[Any, Any]:
    """Input and target, of which each worker holds a part."""
    client.wait_for_workers(2)  # a busy machine may lose one, which its nanny starts again
    values = np.random.default_rng(0).uniform(0.1, 1.0, (2, ROWS, 8))
    workers = list(client.scheduler_info()["workers"])
    arrays = []
    for each in values:
        parts = client.scatter([each[:2], each[2:]], hash=False, workers=workers[:1])
        parts[1:] = client.scatter([each[2:]], hash=False, workers=workers[1:])
        distributed.wait(parts)
        blocks = [da.from_delayed(part, (rows, 8), dtype=each.dtype) for part, rows in zip(parts, (2, 4), strict=True)]
        arrays.append(da.concatenate(blocks))
    return arrays[0], arrays[1]


@pytest.mark.usefixtures("spread")
def test_the_operands_are_on_both_workers(client: Any) -> None:
    assert len(client.scheduler_info()["workers"]) == 2
    assert all(client.has_what().values())


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_the_loss_is_the_exact_one(client: Any, spread: Any, convention: Any, reduction: Any) -> None:
    x, y = np.random.default_rng(0).uniform(0.1, 1.0, (2, ROWS, 8))
    loss = client.compute(kl_div(spread[0], spread[1], reduction, convention=convention)).result()
    exact.assert_within(
        loss,
        exact.reduced(exact.losses(x, y, convention=convention), x.shape, reduction),
        exact.total(exact.tolerances(x, y, da, "float64"), x.shape, reduction),
        "float64",
    )


@pytest.mark.parametrize("argnum", [0, 1])
def test_the_gradients_are_the_exact_ones_and_stay_where_the_operands_are(
    client: Any, spread: Any, argnum: int
) -> None:
    x, y = np.random.default_rng(0).uniform(0.1, 1.0, (2, ROWS, 8))
    gradient: Any
    _, gradient = kl_div_value_and_grad(spread[0], spread[1], "sum", argnums=argnum)
    gradient = client.persist(gradient)
    distributed.wait(gradient)
    assert len({worker for workers in client.who_has(gradient).values() for worker in workers}) == 2
    exact.assert_within(
        client.compute(gradient).result(),
        exact.derivatives(x, y, argnum),
        exact.derivative_tolerances(x, y, argnum, da, "float64"),
        "float64",
    )


def test_what_is_computed_on_the_workers_is_the_loss_and_not_the_operands(client: Any, spread: Any) -> None:
    transferred = sum(client.run(_bytes_received).values())
    client.compute(kl_div(*spread)).result()
    # One number of each worker goes to the other, and none of the blocks of 128 and 256 bytes.
    assert sum(client.run(_bytes_received).values()) - transferred < 128


def test_a_shape_that_turns_out_to_differ_is_an_error_for_the_caller(client: Any) -> None:
    rows = da.ones((4, 3), chunks=(2, 3))
    some, all_rows = (rows[da.from_array(np.asarray(m), chunks=2)] for m in ([True, False] * 2, [True] * 4))
    with pytest.raises(ValueError, match=r"a chunk of shape \(2, 3\) meets one of shape \(1, 3\)"):
        client.compute(kl_div(some, all_rows)).result()
    assert client.compute(kl_div(-some, some)).result() == 1.0


def _bytes_received(dask_worker: Any) -> int:
    return int(sum(entry["total"] for entry in dask_worker.transfer_incoming_log))
