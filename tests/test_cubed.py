"""Cubed: bounded memory, which the plan says before anything is computed."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kldiv_xp import kl_div, kl_div_value_and_grad, kl_div_with_logits, kl_div_with_logits_value_and_grad
from tests import exact
from tests.backends import CONVENTIONS, REDUCTIONS, numbers

cubed: Any = pytest.importorskip("cubed")
zarr: Any = pytest.importorskip("zarr")

MB = 10**6


def everything(x: Any, y: Any, reduction: Any, convention: Any = "oneflow") -> list[Any]:
    """The loss and both gradients."""
    loss, gradients = kl_div_value_and_grad(
        x, y, reduction, convention=convention, argnums=(0, 1), cotangent=x if reduction == "none" else None
    )
    return [loss, *gradients]


def described(shape: tuple[int, ...], chunks: tuple[int, ...], **options: Any) -> tuple[Any, Any]:
    """Input and target in float32, of which nothing is in memory."""
    spec = cubed.Spec(allowed_mem=options.pop("allowed_mem", "100MB"), **options)
    x, y = (cubed.random.random(shape, dtype=np.float32, chunks=chunks, spec=spec) for _ in range(2))
    return x, y


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_nothing_is_computed_before_the_caller_asks(convention: Any, reduction: Any) -> None:
    x, y = described((4, 6), (2, 3), executor_name="raise-if-computes")
    loss, *gradients = everything(x, y, reduction, convention)
    assert all(gradient.chunks == x.chunks for gradient in gradients)
    with pytest.raises(RuntimeError, match="'compute' was called"):
        loss.compute()


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_a_task_takes_as_much_memory_whatever_the_size_of_the_arrays(convention: Any, reduction: Any) -> None:
    def most(rows: int) -> list[int]:
        arrays = everything(*described((rows, 1000), (1000, 1000)), reduction, convention)
        return [array.plan().max_projected_mem for array in arrays]

    # A block takes 4 MB. 4000 blocks of each array are 32 GB.
    assert most(4_000) == most(4_000_000)
    assert max(most(4_000)) <= 20 * 4 * MB


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_the_plan_has_no_rechunking(reduction: Any) -> None:
    for array in everything(*described((8, 6), (2, 3)), reduction):
        names = [node.get("op_name") or "" for _, node in array.plan().dag.nodes(data=True)]
        assert not [name for name in names if "rechunk" in name]


def test_a_plan_that_does_not_fit_is_refused_before_it_runs() -> None:
    loss: Any = kl_div(*described((4000, 1000), (1000, 1000), allowed_mem="10MB"))
    with pytest.raises(ValueError, match="exceeds allowed_mem"):
        loss.plan().validate()


def test_mapped_over_blocks_nothing_is_written_but_the_elements() -> None:
    x, y = described((4000, 1000), (1000, 1000))
    written = kl_div(x, y, "none").plan().total_intermediate_nbytes
    mapped = cubed.map_blocks(partial(kl_div, reduction="none"), x, y, dtype=x.dtype).plan().total_intermediate_nbytes
    assert written > mapped == 0


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_loss_is_the_exact_one_in_any_chunks(dtype: str, reduction: Any, tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 5, 4)).astype(dtype)
    spec = cubed.Spec(str(tmp_path), allowed_mem="100MB", executor_name="single-threaded")
    loss = kl_div(
        cubed.from_array(x, chunks=(2, 3), spec=spec), cubed.from_array(y, chunks=(2, 3), spec=spec), reduction
    )
    exact.assert_within(
        numbers(loss).astype(dtype),
        exact.reduced(exact.losses(x, y), x.shape, reduction),
        exact.total(exact.tolerances(x, y, np, dtype), x.shape, reduction),
        dtype,
    )


@pytest.mark.parametrize("function", [kl_div, kl_div_with_logits])
def test_a_mask_goes_with_float16(function: Any) -> None:
    x, y = np.log(np.random.default_rng(0).dirichlet(np.ones(3), (2, 4))).astype(np.float16)
    counts = np.asarray([[True], [False], [True], [True]])
    where = counts if function is kl_div else counts[:, 0]
    arrays = [cubed.array_api.asarray(z, chunks=2) for z in (x, y)]
    given = cubed.array_api.asarray(where, chunks=2)
    assert numbers(function(*arrays, "sum", where=given)) == numbers(function(x, y, "sum", where=where))


@pytest.mark.parametrize("function", [kl_div_value_and_grad, kl_div_with_logits_value_and_grad])
def test_a_gradient_with_a_mask_goes_with_float16(function: Any) -> None:
    x, y = np.log(np.random.default_rng(0).dirichlet(np.ones(3), (2, 4))).astype(np.float16)
    where = np.asarray([True, False, True, True])[:, None] if function is kl_div_value_and_grad else np.arange(4) > 1
    arrays = [cubed.array_api.asarray(z, chunks=2) for z in (x, y)]
    gradient = function(*arrays, "sum", where=cubed.array_api.asarray(where, chunks=2))[1]
    np.testing.assert_allclose(numbers(gradient), function(x, y, "sum", where=where)[1], rtol=2e-3)


def test_shapes_are_never_broadcast() -> None:
    (x, _), (y, _) = described((4, 1), (2, 1)), described((1, 4), (1, 2))
    with pytest.raises(ValueError, match=r"same shape, got \(4, 1\) and \(1, 4\)"):
        kl_div(x, y)


def test_from_files_to_a_number_and_to_files_in_two_processes(tmp_path: Path) -> None:
    values = np.random.default_rng(0).uniform(0.1, 1.0, (2, 30, 8))
    spec = cubed.Spec(
        str(tmp_path / "work"),
        allowed_mem="500MB",
        executor_name="processes",
        executor_options={"max_workers": 2, "use_backups": False},
    )
    operands: list[Any] = []
    for name, each in zip(("input", "target"), values, strict=True):
        zarr.create_array(tmp_path / name, data=each, chunks=(10, 8))
        operands.append(cubed.from_zarr(str(tmp_path / name), spec=spec))
    loss, *gradients = everything(operands[0], operands[1], "batchmean")
    cubed.store([loss, *gradients], [str(tmp_path / name) for name in ("loss", "by_input", "by_target")])
    x, y = values
    exact.assert_within(
        zarr.open_array(tmp_path / "loss")[...],
        exact.reduced(exact.losses(x, y), x.shape, "batchmean"),
        exact.total(exact.tolerances(x, y, np, "float64"), x.shape, "batchmean"),
        "float64",
    )
    for argnum, name in enumerate(("by_input", "by_target")):
        exact.assert_within(
            zarr.open_array(tmp_path / name)[...] * 30,
            exact.derivatives(x, y, argnum),
            exact.derivative_tolerances(x, y, argnum, np, "float64"),
            "float64",
        )
