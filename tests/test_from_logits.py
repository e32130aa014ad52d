"""The divergences between softmaxes, against their exact values, on every library: edges, masks, axes, gradients."""

import itertools
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from array_api_extra.testing import lazy_xp_function

from kldiv_xp import (
    JSDivWithLogitsLoss,
    KLDivWithLogitsLoss,
    js_div_with_logits,
    js_div_with_logits_value_and_grad,
    kl_div_with_logits,
    kl_div_with_logits_value_and_grad,
)
from tests import exact_from_logits as exact
from tests.backends import REDUCTIONS, Exact, array, dtype_name, lacking, numbers

for function in (
    js_div_with_logits,
    js_div_with_logits_value_and_grad,
    kl_div_with_logits,
    kl_div_with_logits_value_and_grad,
):
    lazy_xp_function(function)

BETAS = (0.0, 0.1, 0.5, 0.9, 1.0)
every_beta = pytest.mark.parametrize("beta", BETAS)
each_formula = pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
every_reduction = pytest.mark.parametrize("reduction", REDUCTIONS)

INF, NAN = np.inf, np.nan
IMPOSSIBLE = {
    "in both": ([1.0, 2.0, -INF, 0.5], [0.0, 1.0, -INF, 2.0]),
    "in the teacher alone": ([1.0, 2.0, 3.0, 0.5], [0.0, 1.0, -INF, 2.0]),
    "in the student alone": ([1.0, 2.0, -INF, 0.5], [0.0, 1.0, 3.0, 2.0]),
    "in either, elsewhere": ([1.0, 2.0, -INF, 0.5], [0.0, -INF, 3.0, 2.0]),
    "but one": ([-INF, -INF, 3.0, -INF], [-INF, -INF, -7.0, -INF]),
    "all of the student": ([-INF] * 4, [0.0, 1.0, 3.0, 2.0]),
    "all of the teacher": ([0.0, 1.0, 3.0, 2.0], [-INF] * 4),
    "all": ([-INF] * 4, [-INF] * 4),
    "infinite student": ([0.0, INF, 3.0, 2.0], [0.0, 1.0, 3.0, 2.0]),
    "infinite teacher": ([0.0, 1.0, 3.0, 2.0], [0.0, INF, 3.0, 2.0]),
    "NaN student": ([0.0, NAN, 3.0, 2.0], [0.0, 1.0, 3.0, 2.0]),
    "NaN teacher": ([0.0, 1.0, 3.0, 2.0], [0.0, NAN, 3.0, 2.0]),
    "almost": ([0.0, -800.0, 3.0, 2.0], [0.0, 1.0, -800.0, 2.0]),
    "nothing": ([0.0, 1.0, 3.0, 2.0], [0.5, 1.0, 2.0, 2.0]),
}


def logits(shape: tuple[int, ...], noise: float = 1.0, seed: int = 0) -> tuple[Exact, Exact]:
    rng = np.random.default_rng(seed)
    y = 3 * rng.normal(size=shape)
    return y + noise * rng.normal(size=shape), y


def close(actual: Any, wanted: Any, rtol: float = 1e-12, atol: float = 1e-14) -> None:
    np.testing.assert_allclose(numbers(actual), wanted, rtol=rtol, atol=atol)


@every_beta
@pytest.mark.parametrize("temperature", [1.0, 2.0, 0.3])
@pytest.mark.parametrize("noise", [10.0, 1.0, 1e-2, 1e-5])
def test_the_divergence_of_each_row_is_exact_however_close_they_are(
    xp: Any, beta: float, temperature: float, noise: float
) -> None:
    x, y = logits((3, 17), noise)
    result: Any = js_div_with_logits(array(xp, x), array(xp, y), beta, "none", temperature=temperature)
    # A logarithm of the ratio of two probabilities is as large as the noise, and its rounding error as the logits. For
    # the mixture, both are multiplied by beta or 1 - beta.
    share = min(beta or 1.0, (1.0 - beta) or 1.0)
    close(result, exact.rows(x, y, beta, temperature), rtol=2e-15 / min(noise, 1e-2) / share, atol=0)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("noise", [1.0, 1e-1])
@every_beta
def test_a_narrow_dtype_is_rounded_once(xp: Any, dtype: str, noise: float, beta: float) -> None:
    if reason := lacking(xp, dtype):
        pytest.skip(reason)
    x, y = (array(xp, z, dtype) for z in logits((4, 33), noise))
    result: Any = js_div_with_logits(x, y, beta, "none")
    assert dtype_name(result) == dtype
    spacing = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23}[dtype]
    # Half a spacing for rounding; libraries without float64 compute float32 with several roundings.
    roundings = 0.502 if dtype != "float32" or xp.__name__ in ("numpy", "torch", "dask.array") else 50
    close(result, exact.rows(numbers(x), numbers(y), beta, 1.0), rtol=roundings * spacing, atol=2.0**-25)


@every_reduction
@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
def test_any_axis_may_hold_the_classes_and_the_reductions_are_those_documented(
    xp: Any, reduction: Any, axis: int
) -> None:
    x, y = logits((3, 4, 5))
    wanted = exact.rows(np.moveaxis(x, axis, -1), np.moveaxis(y, axis, -1), 0.0, 2.0)
    loss: Any = kl_div_with_logits(array(xp, x), array(xp, y), reduction, temperature=2.0, axis=axis)
    if reduction != "none":
        wanted = wanted.sum() / {"mean": wanted.size, "batchmean": wanted.shape[0], "sum": 1}[reduction]
    assert loss.shape == wanted.shape
    close(loss, wanted)


@every_reduction
def test_a_row_alone_is_a_batch_of_one(xp: Any, reduction: Any) -> None:
    x, y = logits((7,))
    loss: Any = kl_div_with_logits(array(xp, x), array(xp, y), reduction)
    assert loss.shape == ()
    close(loss, exact.rows(x, y, 0.0, 1.0))


@every_beta
@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_impossible_classes_are_those_of_the_documentation(xp: Any, case: str, beta: float) -> None:
    x, y = (
        np.asarray([row, [0.0, 1.0, 2.0, 3.0][::step]]) for row, step in zip(IMPOSSIBLE[case], (1, -1), strict=True)
    )
    loss: Any = js_div_with_logits(array(xp, x), array(xp, y), beta, "none", temperature=1.5)
    close(loss, exact.rows(x, y, beta, 1.5))


@every_beta
@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_gradients_are_exact_and_finite_wherever_the_loss_is(xp: Any, case: str, beta: float) -> None:
    x, y = (
        np.asarray([row, [0.0, 1.0, 2.0, 3.0][::step]]) for row, step in zip(IMPOSSIBLE[case], (1, -1), strict=True)
    )
    rows = exact.rows(x, y, beta, 1.5)
    result: Any = js_div_with_logits_value_and_grad(
        array(xp, x), array(xp, y), beta, "sum", temperature=1.5, argnums=(0, 1), cotangent=-2.0
    )
    loss, gradients = result
    close(loss, rows.sum())
    for argnum, (gradient, wanted) in enumerate(zip(gradients, exact.gradients(x, y, beta, 1.5), strict=True)):
        defined = np.isfinite(rows)
        if argnum == 0 and beta == 0.0:  # by the student's logits it is finite even if the loss is not
            defined |= rows == INF
        close(numbers(gradient)[defined], -2.0 * wanted[defined])


@every_beta
@pytest.mark.parametrize("below", [60.0, 150.0, 300.0])
@pytest.mark.parametrize("beside", [0.5, -INF])
def test_gradients_of_improbable_classes_have_all_their_digits(
    xp: Any, beta: float, below: float, beside: float
) -> None:
    x = np.asarray([[1.0, 2.0, -below, 3.0, beside], [1.0, 2.0, 0.5, -below, beside]])
    y = np.asarray([[0.3, 1.7, -below - 1.2, 0.1, beside], [-below / 2, 1.1, 2.3, 0.2, beside]])
    result: Any = js_div_with_logits_value_and_grad(array(xp, x), array(xp, y), beta, "sum", argnums=(0, 1))
    for gradient, wanted in zip(result[1], exact.gradients(x, y, beta, 1.0), strict=True):
        close(gradient, wanted, rtol=1e-11, atol=0)


@pytest.mark.parametrize("argnums", [0, 1, (1, 0), (1,)])
@each_formula
def test_gradients_come_in_the_order_that_was_asked_for(xp: Any, argnums: Any, beta: float) -> None:
    x, y = logits((3, 5))
    result: Any = js_div_with_logits_value_and_grad(array(xp, x), array(xp, y), beta, "sum", argnums=argnums)
    gradients = result[1] if isinstance(argnums, tuple) else (result[1],)
    wanted = exact.gradients(x, y, beta, 1.0)
    for argnum, gradient in zip(argnums if isinstance(argnums, tuple) else (argnums,), gradients, strict=True):
        close(gradient, wanted[argnum])


@each_formula
@every_reduction
@pytest.mark.parametrize("mask", ["rows", "columns", "all", "none"])
def test_rows_that_do_not_count_may_hold_anything(xp: Any, beta: float, reduction: Any, mask: str) -> None:
    x, y = logits((4, 5, 6))
    rng = np.random.default_rng(1)
    where = {
        "rows": rng.random((4, 5)) < 0.6,
        "columns": np.arange(5) % 2 > 0,
        "all": np.asarray(True),
        "none": np.zeros((4, 5), bool),
    }[mask]
    chosen = np.broadcast_to(where, (4, 5))
    rows = np.where(chosen, exact.rows(x, y, beta, 1.0), 0.0)
    by_row = np.where(chosen[..., None], exact.gradients(x, y, beta, 1.0), 0.0)
    x[~chosen], y[~chosen] = np.resize([NAN, INF, -INF, 0.0], x[~chosen].shape), NAN
    cotangent = rng.normal(size=(4, 5)) if reduction == "none" else np.asarray(3.0)
    with np.errstate(all="ignore"):
        count = {"mean": np.float64(chosen.sum()), "batchmean": np.float64(4)}.get(reduction, np.float64(1))
        wanted = rows if reduction == "none" else rows.sum() / count
    result: Any = js_div_with_logits_value_and_grad(
        array(xp, x),
        array(xp, y),
        beta,
        reduction,
        where=xp.asarray(where),
        argnums=(0, 1),
        cotangent=array(xp, cotangent),
    )
    loss, gradients = result
    close(loss, wanted)
    for gradient, expected in zip(gradients, by_row * cotangent[..., None] / max(count, 1.0), strict=True):
        close(gradient, expected)
    alone: Any = js_div_with_logits(array(xp, x), array(xp, y), beta, reduction, where=xp.asarray(where))
    close(alone, wanted)


@every_reduction
@pytest.mark.parametrize("shape", [(0, 3), (2, 0, 3), (2, 0)])
def test_no_rows_and_no_classes(xp: Any, reduction: Any, shape: tuple[int, ...]) -> None:
    x = array(xp, np.zeros(shape))
    rows = np.zeros(shape[:-1]) if shape[-1] else np.full(shape[:-1], NAN)
    with np.errstate(all="ignore"):
        count = {"mean": np.float64(rows.size), "batchmean": np.float64(shape[0])}.get(reduction, np.float64(1))
        wanted = rows if reduction == "none" else rows.sum() / count
    cotangent = {"cotangent": array(xp, rows)} if reduction == "none" else {}
    result: Any = kl_div_with_logits_value_and_grad(x, x, reduction, **cotangent)
    loss, gradient = result
    close(loss, wanted)
    assert gradient.shape == shape


@pytest.mark.parametrize("library", ["numpy", "torch"])
@every_beta
@pytest.mark.parametrize("impossible", [False, True])
def test_rows_longer_than_a_block_are_as_exact(
    library: str, beta: float, impossible: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    xp: Any = {"numpy": np, "torch": torch}[library]
    x, y = logits((3, 2, 50))
    if impossible:
        x[0, 0, :3] = y[0, 0, :2] = y[1, 1, 40:] = -INF
        x[2, 0, 7] = -INF
        y[2, 1, 11] = NAN
    from kldiv_xp.backends import find

    backend = find(xp.asarray(x), xp.asarray(y))
    wanted = js_div_with_logits_value_and_grad(x, y, beta, "sum", argnums=(0, 1))
    for size in (1, 7, 49, 50, 51, 110):
        monkeypatch.setattr(type(backend), "row_block_size", lambda _, size=size: size)
        monkeypatch.setattr(type(backend), "few", 0)
        result: Any = js_div_with_logits_value_and_grad(xp.asarray(x), xp.asarray(y), beta, "sum", argnums=(0, 1))
        close(result[0], wanted[0])
        for gradient, expected in zip(result[1], wanted[1], strict=True):
            close(gradient, expected)


@pytest.mark.parametrize(
    "strided",
    [lambda x: x[::2], lambda x: x[..., ::-1], lambda x: x.swapaxes(0, 1), lambda x: x[:, 1:, 2:]],
    ids=["every second row", "reversed classes", "transposed", "a part"],
)
def test_arrays_of_any_strides_are_taken(xp: Any, strided: Callable[[Any], Any]) -> None:
    if xp.__name__ == "torch":
        pytest.skip("PyTorch has no negative strides")
    x, y = logits((6, 4, 5))
    result: Any = kl_div_with_logits_value_and_grad(array(xp, strided(x)), array(xp, strided(y)), "sum")
    close(result[0], exact.rows(strided(x), strided(y), 0.0, 1.0).sum())
    close(result[1], exact.gradients(strided(x), strided(y), 0.0, 1.0)[0])


def test_the_arguments_are_not_written_to(xp: Any) -> None:
    if not hasattr(np.ndarray, "setflags") or xp is not np:
        pytest.skip("only NumPy has arrays that refuse to be written to")
    x, y = logits((3, 4))
    x.setflags(write=False)
    y.setflags(write=False)
    kl_div_with_logits_value_and_grad(x, y, argnums=(0, 1))


class TestValues:
    @pytest.mark.parametrize(
        "loss",
        [KLDivWithLogitsLoss(), KLDivWithLogitsLoss("sum", temperature=2.5, axis=0), JSDivWithLogitsLoss(0.1, "mean")],
    )
    def test_a_value_is_what_it_prints_and_its_pickle(self, loss: Any) -> None:
        assert eval(repr(loss)) == loss == pickle.loads(pickle.dumps(loss))
        assert hash(eval(repr(loss))) == hash(loss)

    def test_a_value_computes_what_the_function_computes(self, xp: Any) -> None:
        x, y = (array(xp, z) for z in logits((3, 4)))
        where = xp.asarray(np.asarray([True, False, True]))
        close(
            KLDivWithLogitsLoss("mean", temperature=2.0)(x, y, where),
            numbers(kl_div_with_logits(x, y, "mean", temperature=2.0, where=where)),
        )
        close(
            JSDivWithLogitsLoss(0.3, "sum", axis=0)(x, y), numbers(js_div_with_logits(x, y, 0.3, "sum", axis=0)), rtol=0
        )


class TestErrors:
    @pytest.mark.parametrize("temperature", [0.0, -1.0, INF, NAN, "2", None, np.ones(3), 1j])
    def test_a_temperature_is_positive_and_finite(self, temperature: Any) -> None:
        x = np.zeros((2, 3))
        for call in (
            lambda: kl_div_with_logits(x, x, temperature=temperature),
            lambda: js_div_with_logits_value_and_grad(x, x, temperature=temperature),
            lambda: KLDivWithLogitsLoss(temperature=temperature),
            lambda: JSDivWithLogitsLoss(temperature=temperature),
        ):
            with pytest.raises(ValueError, match="temperature must be a positive finite number, got"):
                call()

    @pytest.mark.parametrize("beta", [-0.1, 1.1, NAN, "0.5", None])
    def test_a_beta_is_from_0_to_1(self, beta: Any) -> None:
        x = np.zeros((2, 3))
        for call in (lambda: js_div_with_logits(x, x, beta), lambda: JSDivWithLogitsLoss(beta)):
            with pytest.raises(ValueError, match=r"beta must be a number from 0 to 1, got"):
                call()

    @pytest.mark.parametrize("axis", [2, -3, 7])
    def test_the_arrays_must_have_the_axis(self, xp: Any, axis: int) -> None:
        x = array(xp, np.zeros((2, 3)))
        with pytest.raises(ValueError, match=rf"axis={axis} must be an axis of the input, whose shape is \(2, 3\)"):
            kl_div_with_logits(x, x, axis=axis)

    @pytest.mark.parametrize("axis", [1.0, None, (0, 1), "1", True])
    def test_an_axis_is_an_int(self, axis: Any) -> None:
        with pytest.raises(TypeError, match="axis must be an int, got"):
            kl_div_with_logits(np.zeros((2, 3)), np.zeros((2, 3)), axis=axis)

    def test_a_number_has_no_axis(self, xp: Any) -> None:
        x = array(xp, 1.0)
        with pytest.raises(ValueError, match="axis"):
            kl_div_with_logits(x, x)

    def test_the_mask_is_one_of_rows(self, xp: Any) -> None:
        x = array(xp, np.zeros((2, 3)))
        with pytest.raises(
            ValueError, match=r"where must broadcast against the shape of the rows \(2,\), got \(2, 3\)"
        ):
            kl_div_with_logits(x, x, where=xp.asarray(np.ones((2, 3), bool)))

    def test_a_mask_is_boolean(self, xp: Any) -> None:
        x = array(xp, np.zeros((2, 3)))
        with pytest.raises(TypeError, match="where must be a boolean array, got"):
            kl_div_with_logits(x, x, where=xp.asarray(np.ones(2, np.int64)))

    @every_reduction
    def test_a_cotangent_has_the_shape_of_the_loss(self, xp: Any, reduction: Any) -> None:
        x = array(xp, np.zeros((2, 3)))
        with pytest.raises(ValueError, match="cotangent must have the loss's shape"):
            kl_div_with_logits_value_and_grad(x, x, reduction, cotangent=array(xp, np.zeros((2, 3))))

    @pytest.mark.parametrize("shapes", [((2, 3), (3,)), ((2, 1), (2, 3))])
    def test_shapes_must_be_equal(self, xp: Any, shapes: Any) -> None:
        x, y = (array(xp, np.zeros(shape)) for shape in shapes)
        with pytest.raises(ValueError, match="must have the same shape"):
            kl_div_with_logits(x, y)

    def test_an_unknown_reduction_is_answered_with_the_choices(self) -> None:
        with pytest.raises(ValueError, match="reduction must be one of 'none'"):
            kl_div_with_logits(np.zeros((2, 3)), np.zeros((2, 3)), "avg")  # type: ignore[arg-type]

    def test_class_indices_are_no_logits(self, xp: Any) -> None:
        x = array(xp, np.zeros((2, 3)))
        with pytest.raises(TypeError, match="real floating-point dtype"):
            kl_div_with_logits(x, xp.asarray(np.zeros((2, 3), dtype=np.int64)))


@pytest.mark.parametrize(
    ("one", "other"), list(itertools.permutations(["float16", "bfloat16", "float32", "float64"], 2))
)
def test_dtypes_are_promoted_and_gradients_keep_theirs(xp: Any, one: str, other: str) -> None:
    if reason := lacking(xp, one, other):
        pytest.skip(reason)
    x, y = logits((3, 4))
    a, b = array(xp, x, one), array(xp, y, other)
    result: Any = kl_div_with_logits_value_and_grad(a, b, argnums=(0, 1))
    loss, gradients = result
    both = {one, other}
    widest = "float64" if "float64" in both else "float32" if both != {"float16"} else "float16"
    assert dtype_name(loss) == widest
    assert [dtype_name(g) for g in gradients] == [one, other]
