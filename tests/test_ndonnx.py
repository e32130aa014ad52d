"""ndonnx: on values, and traced with open sizes into an ONNX model that onnxruntime runs."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kldiv_xp import kl_div, kl_div_value_and_grad
from tests import exact
from tests.backends import CONVENTIONS, REDUCTIONS, Exact
from tests.test_values import EMPTY, SHAPES, distributions

ndx: Any = pytest.importorskip("ndonnx")
onnxruntime: Any = pytest.importorskip("onnxruntime")

DTYPES = ("float16", "float32", "float64")


def check(value: Any, x: Exact, y: Exact, reduction: str, log_target: bool, convention: str, dtype: str) -> None:
    wanted = exact.losses(x, y, log_target=log_target, convention=convention)
    within = exact.tolerances(x, y, np, dtype, log_target=log_target)
    exact.assert_within(
        np.asarray(value), exact.reduced(wanted, x.shape, reduction), exact.total(within, x.shape, reduction), dtype
    )


def traced(function: Any, ndim: int, dtype: str) -> Any:
    """What ``function`` of two arrays computes, as a model of which all sizes are open."""
    sizes = tuple(f"size_{axis}" for axis in range(ndim))
    x, y = (ndx.argument(shape=sizes, dtype=getattr(ndx, dtype)) for _ in range(2))
    outputs = function(x, y)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    model = ndx.build({"x": x, "y": y}, {f"output_{i}": output for i, output in enumerate(outputs)})
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # it writes errors to the terminal, too
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda x, y: session.run(None, {"x": np.asarray(x), "y": np.asarray(y)})


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("log_target", [False, True])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_a_model_gives_the_exact_loss_of_arrays_of_every_size(
    convention: Any, reduction: Any, log_target: bool, dtype: str
) -> None:
    run = traced(lambda x, y: kl_div(x, y, reduction, log_target, convention=convention), 2, dtype)
    for shape in ((4, 5), (1, 9), (30, 20)):
        x, y = (a.astype(dtype) for a in distributions(shape, log_target))
        (value,) = run(x, y)
        check(value, x.astype(np.float64), y.astype(np.float64), reduction, log_target, convention, dtype)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_model_has_any_number_of_dimensions(reduction: Any, shape: tuple[int, ...]) -> None:
    x, y = distributions(shape, False)
    (value,) = traced(lambda x, y: kl_div(x, y, reduction), len(shape), "float64")(x, y)
    check(value, x, y, reduction, False, "oneflow", "float64")


@pytest.mark.parametrize("shape", EMPTY, ids=str)
def test_no_elements_have_no_mean_but_a_sum(shape: tuple[int, ...]) -> None:
    x = np.empty(shape, np.float32)
    expected = {"none": x, "sum": 0.0, "mean": np.nan, "batchmean": 0.0 if shape[0] else np.nan}
    for reduction in REDUCTIONS:
        (value,) = traced(lambda x, y, r=reduction: kl_div(x, y, r), x.ndim, "float32")(x, x)
        np.testing.assert_array_equal(value, np.asarray(expected[reduction], np.float32), strict=True)


@pytest.mark.parametrize("shape", [(2**20,), (2**10, 2**10)], ids=str)
def test_a_long_sum_does_not_drift(shape: tuple[int, ...]) -> None:
    # onnxruntime's own sum of so many float32 is off by 4e-5 and more.
    x, y = np.full(shape, -0.1, np.float32), np.ones(shape, np.float32)
    (value,) = traced(lambda x, y: kl_div(x, y, "sum"), x.ndim, "float32")(x, y)
    term = x.ravel()[:1].astype(np.float64)
    wanted = [loss * 2.0**20 for loss in exact.losses(term, np.ones(1))]
    within = [bound * 2.0**20 for bound in exact.tolerances(term, np.ones(1), np, "float32")]
    exact.assert_within(value, wanted, within, "float32")


@pytest.mark.parametrize(("shape", "other"), [((3, 4), (3, 1)), ((3, 1), (1, 3)), ((2, 6), (3, 4)), ((0, 4), (1, 4))])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_model_broadcasts_no_more_than_the_function(
    reduction: Any, shape: tuple[int, ...], other: tuple[int, ...]
) -> None:
    run = traced(lambda x, y: kl_div(x, y, reduction), 2, "float32")
    with pytest.raises(Exception, match="Reshape"):
        run(np.zeros(shape, np.float32), np.ones(other, np.float32))


def test_shapes_that_cannot_be_equal_are_refused_while_tracing() -> None:
    x = ndx.argument(shape=("batch", 3), dtype=ndx.float32)
    for shape in (("batch",), ("batch", 4), ("batch", 3, 1)):
        with pytest.raises(ValueError, match="same shape"):
            kl_div(x, ndx.argument(shape=shape, dtype=ndx.float32))


@pytest.mark.parametrize("dtype", ["int64", "bool", "nfloat32", "utf8"])
def test_only_real_floating_numbers_are_taken(dtype: str) -> None:
    x = ndx.argument(shape=("batch",), dtype=getattr(ndx, dtype))
    with pytest.raises(TypeError, match="real floating"):
        kl_div(x, x)


@pytest.mark.parametrize("log_target", [False, True])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gradients_are_traced_in_closed_form(reduction: Any, log_target: bool) -> None:
    def gradients(x: Any, y: Any) -> Any:
        cotangent = ndx.ones_like(x) if reduction == "none" else None
        return kl_div_value_and_grad(x, y, reduction, log_target, argnums=(0, 1), cotangent=cotangent)[1]

    x, y = distributions((6, 7), log_target)
    over = {"mean": 42, "batchmean": 6}.get(reduction, 1)
    for argnum, gradient in enumerate(traced(gradients, 2, "float64")(x, y)):
        wanted = exact.derivatives(x, y, argnum, log_target=log_target)
        within = exact.derivative_tolerances(x, y, argnum, np, "float64", log_target=log_target)
        exact.assert_within(gradient, [v / over for v in wanted], [v / over for v in within], "float64")


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_arrays_with_values_give_values(reduction: Any) -> None:
    x, y = distributions((30, 20), False)
    loss: Any = kl_div(ndx.asarray(x), ndx.asarray(y), reduction)
    check(loss.unwrap_numpy(), x, y, reduction, False, "oneflow", "float64")


def test_the_example_exports_and_checks_a_model(tmp_path: Path) -> None:
    program = Path(__file__).parents[1] / "examples" / "export_onnx.py"
    done = subprocess.run(
        [sys.executable, str(program), str(tmp_path / "loss.onnx")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "loss.onnx").is_file()
